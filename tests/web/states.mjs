// States as the server sends them, for the tests.

export const FPS = 16;

export const place = (frame, init = 0) => ({ init, segment: init + 1 + frame, frame });

export const media = (more = {}) => ({
  codec: "avc1.64000a", next: 34, oldest: place(0), newest: place(32), ...more,
});

export const state = (more = {}) => ({
  session: "a", node: "7", workflow: "w", prompt_id: "p", begun: 100, sequence: 5, phase: "running", sentence: "", block: 3,
  blocks: 40, frames: 33, fps: FPS, width: 64, height: 32, made_per_second: 24, vram: null, media: media(),
  prompts: [{ prompt: "a red circle", mode: "cut", block: 0, first_frame: 0 }], prompt_count: 1, longest_prompt: 4000,
  modes: ["cut", "recache"], switch: "", pending: [], acknowledged: [], video: false, file: "take.mp4", stopped: false, stopped_by: "", path: "", view: null, take: "t", can_redo: true, can_mark: true, can_yield: false, left_seconds: null,
  watch: null, ...more,
});

/** What an event carries: a state without its prompts. */
export function event(more = {}) {
  const { prompts, ...rest } = state(more);
  return rest;
}

/** A take as the list has it. */
export const take = (more = {}) => ({
  id: "t", name: "rivulet/stream_00001_.mp4", seconds: 62, frames: 992, fps: FPS, width: 832, height: 480, changed: 1000,
  standing: "stopped", reason: "", prompt: "a red circle", recoverable: true, ...more,
});

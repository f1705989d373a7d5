// A transport in front of another one, which answers what is asked about takes on disk; for looking at the widgets.

const SHOT = (colour) => `data:image/svg+xml,${encodeURIComponent(
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 9"><rect width="16" height="9" fill="#1d3a2a"/><circle cx="7" cy="5" r="3" fill="${colour}"/></svg>`,
)}`;

const hoursAgo = (hours) => Date.now() / 1000 - 3600 * hours;
const take = (number, more) => ({
  id: `take${number}`, name: `rivulet/stream_0000${number}_.mp4`, seconds: 62, frames: 992, fps: 16, width: 832, height: 480,
  changed: hoursAgo(number), standing: "stopped", reason: "", prompt: "a red circle on a green ground", recoverable: true, deletable: true, ...more,
});

export const TAKES = [
  take(8, { changed: hoursAgo(0.001), standing: "running", recoverable: false, deletable: false, reason: "It is being made just now.", seconds: 12 }),
  take(7, { changed: hoursAgo(0.05), standing: "cut off" }),
  take(6, {
    changed: hoursAgo(1), standing: "whole", seconds: 3723,
    prompt: "a lighthouse above a stormy sea at dusk, slow camera move to the left, gulls, foam on black rocks, film grain",
  }),
  take(5, { changed: hoursAgo(30), standing: "broken", recoverable: false, reason: "Its video was deleted or moved. Put rivulet/stream_00005_.mp4 back, or start from its last picture with Start From." }),
  take(4, { changed: hoursAgo(200), name: "some/deep/folder/with a long name of many words/stream_00004_.mp4", prompt: "" }),
  take(3, { changed: hoursAgo(900), standing: "stopped", reason: "Its newest snapshot is altered; it goes on from 0:40." }),
];

/** `takes` are listed; null: the server does not answer. What is asked for is told to `told`. */
export function withTakes(transport, takes, told = () => {}) {
  const answer = (status, body) => new Response(body === null ? null : JSON.stringify(body), { status });
  return {
    async get(path, options) {
      if (path === "/rivulet/takes") return takes ? answer(200, { takes }) : answer(500, { error: "No." });
      if (path.endsWith("/timeline")) return answer(200, { timeline: "# seed 3, 16 pictures a second\n[0s] a red circle\n" });
      return transport.get(path, options);
    },
    async post(path, json) {
      if (!path.startsWith("/rivulet/take/")) return transport.post(path, json);
      told(path, json);
      const [, id] = path.match(/take\/(\w+)\/delete/) ?? [];
      if (id === "take3") return answer(400, { error: "stream_00003_.take is kept: it holds notes.txt, which is not of the take. The rest is deleted." });
      if (id) takes.splice(takes.findIndex((each) => each.id === id), 1);
      if (id) return answer(200, {});
      return answer(202, {});
    },
    url(path) {
      const number = Number(path.match(/^\/rivulet\/take\/take(\d)\/picture/)?.[1]);
      if (!number) return transport.url(path);
      return number === 5 ? "data:," : SHOT(["#e2402f", "#3c6ee6", "#f0c83c"][number % 3]);
    },
  };
}

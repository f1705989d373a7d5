"""Which latent frames a block attends to, and the temporal RoPE id of each.

Every published scheme is one rule with different numbers. Sink ids are 0, 1, ... and never change. The last
frame of the block has its index in the stream as id, at most the preset's `last_id`; the window counts back
from there, the memory stands directly before the window. Without `last_id` ids grow with the stream
(absolute positions). Sources: the released code of Self-Forcing, Causal-Forcing, LongLive, Infinity-RoPE,
Reward Forcing, Self Gradient Forcing and Rolling Forcing; VideoMLA (arXiv 2605.30351) and Echo-Infinity
(arXiv 2606.04527).
"""

import reprlib
from dataclasses import dataclass, replace

SHOT_APART = 1  # ids at most; chosen on the built-in model, see `bench shot`


@dataclass(frozen=True, slots=True)
class Positions:
    """RoPE ids of one call, one per latent frame; the block's are in `query` and in `sink` or `window`."""

    sink: tuple[int, ...]
    memory: tuple[int, ...]
    window: tuple[int, ...]  # all attended frames after the sink, the block included
    query: tuple[int, ...]  # the current block


@dataclass(frozen=True, slots=True)
class PositionPreset:
    """How a family of checkpoints chooses frames and ids; counts are latent frames."""

    name: str
    sink_frames: int  # first latent frames of the stream, never evicted
    window_frames: int | None  # attended latent frames after the sink, the block included; None: all
    last_id: int | None  # highest id; None: ids grow with the stream
    trained_frames: int  # ids 0..trained_frames-1 occurred in training
    memory_frames: int = 0  # frame-equivalents of the memory
    endless: str = ""  # for growing ids: the preset for longer streams
    # the sink is among the window's frames and leaves their sight with them; it stays in the cache, for calls
    # that denoise several blocks together
    sink_within: bool = False

    def __post_init__(self) -> None:
        if min(self.sink_frames, self.memory_frames) < 0 or self.trained_frames < 1:
            raise ValueError(
                f"PositionPreset {self.name}: sink {self.sink_frames}, memory {self.memory_frames}, trained "
                f"{self.trained_frames} latent frames; sink and memory are 0 or more, trained is 1 or more."
            )
        if self.window_frames is not None and self.window_frames < 1:
            raise ValueError(
                f"PositionPreset {self.name}: a window of {self.window_frames} latent frames cannot "
                f"hold a block; give at least the block's length, or None for all frames."
            )
        if self.sink_within and (self.last_id is None or self.memory_frames):
            raise ValueError(
                f"PositionPreset {self.name}: a sink within the window needs bounded ids and no memory; give "
                f"last_id, and memory_frames 0."
            )
        if self.last_id is None:
            return
        if self.window_frames is None:
            raise ValueError(
                f"PositionPreset {self.name}: ids end at {self.last_id} but the window does not end; "
                f"give window_frames."
            )
        if self.memory_in_window and self.memory_frames >= self.window_frames:
            raise ValueError(
                f"PositionPreset {self.name}: ids up to {self.last_id} have a memory of {self.memory_frames} "
                f"latent frames in a window of {self.window_frames}; give a longer window, or ids for both."
            )
        beside = 0 if self.memory_in_window else self.memory_frames
        sink = 0 if self.sink_within else self.sink_frames
        needed = sink + beside + self.window_frames
        if not needed <= self.last_id + 1 <= self.trained_frames:
            raise ValueError(
                f"PositionPreset {self.name}: sink, memory and window need {needed} ids and the model was "
                f"trained on {self.trained_frames}; last_id must be {needed - 1} to "
                f"{self.trained_frames - 1}, got {self.last_id}."
            )

    @property
    def memory_in_window(self) -> bool:
        """Whether the memory takes ids of the window, whose frames leave for it; else it has its own."""
        if self.last_id is None or self.window_frames is None or not self.memory_frames:
            return False
        return self.sink_frames + self.memory_frames + self.window_frames > self.last_id + 1

    @property
    def capacity_frames(self) -> int | None:
        """Latent frames a cache must hold, current block included; None: all of them."""
        return None if self.window_frames is None else self.sink_frames + self.window_frames


PRESETS: dict[str, PositionPreset] = {
    preset.name: preset
    for preset in (
        PositionPreset("self_forcing", 0, None, None, trained_frames=21, endless="infinity_rope"),
        PositionPreset("longlive", 3, 9, None, trained_frames=240, endless="longlive_infinity"),
        PositionPreset("longlive_infinity", 3, 9, last_id=11, trained_frames=240),
        PositionPreset("infinity_rope", 1, 5, last_id=5, trained_frames=21),
        PositionPreset("reward_forcing", 3, 6, last_id=8, trained_frames=21),
        PositionPreset("deep_forcing", 10, 11, last_id=20, trained_frames=21),
        PositionPreset("self_gradient", 3, 9, last_id=20, trained_frames=21),
        PositionPreset("self_gradient_framewise", 4, 17, last_id=20, trained_frames=21),
        PositionPreset("rolling_forcing", 3, 21, last_id=20, trained_frames=21, sink_within=True),
        PositionPreset("echo", 3, 9, last_id=20, trained_frames=21, memory_frames=3),
        PositionPreset("echo_std", 3, 9, None, trained_frames=21, memory_frames=3, endless="echo"),
        PositionPreset("memrope", 3, 9, last_id=11, trained_frames=21, memory_frames=2),
        PositionPreset("videomla_6", 1, 5, last_id=5, trained_frames=21),
        PositionPreset("videomla_7", 1, 6, last_id=6, trained_frames=21),
        PositionPreset("pocket", 3, 9, last_id=11, trained_frames=12),
        PositionPreset("pocket_memory", 3, 9, last_id=14, trained_frames=15, memory_frames=3),
    )
}


def preset(name: str) -> PositionPreset:
    """The preset of that name; ValueError with the list of names for any other."""
    if name not in PRESETS:
        raise ValueError(
            f"Positions: no preset is called {reprlib.repr(name)}; there are {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def why_not(preset: PositionPreset, block_frames: int, total_frames: int | None = None) -> str | None:
    """A sentence if a stream of `total_frames` latents (None: endless) goes beyond trained ids, else None.

    Check it before work starts: `plan` lets ids grow unless `strict`, since a model runs past its trained
    length, only with worse quality.
    """
    if problem := _too_long(preset, block_frames):
        return problem
    if preset.last_id is not None or (total_frames is not None and total_frames <= preset.trained_frames):
        return None
    length = "an endless stream" if total_frames is None else f"{total_frames} latent frames"
    return (
        f"Positions: the ids of preset {preset.name} grow without end and the model was trained on "
        f"{preset.trained_frames} latent frames, not on {length}; take preset {preset.endless or 'pocket'}, "
        f"whose ids are bounded, or a stream of at most {preset.trained_frames} latent frames."
    )


def plan(
    preset: PositionPreset,
    start_frame: int,
    block_frames: int,
    memory_visible: bool = False,
    *,
    strict: bool = False,
    apart: int = 0,
) -> Positions:
    """RoPE ids for the block of latent frames start_frame .. start_frame + block_frames - 1.

    memory_visible: the memory has been updated at least once. It has no ids until as many frames were evicted
    as it stands for: before that no ids are free between sink and window. A recache (the frames of the window
    run again as one long block) passes False.
    strict: ValueError for ids the model was not trained on, which only presets with growing ids reach.
    apart: ids left free after the sink, see `ids_apart`; fewer as the window fills where ids are bounded.
    """
    sink, window, last = _attended(preset, start_frame, block_frames, apart)
    if preset.sink_within and preset.window_frames is not None:
        sink = min(sink, preset.window_frames - window)
    if strict and last >= preset.trained_frames:
        raise ValueError(why_not(preset, block_frames, start_frame + block_frames))
    first = last + 1 - window
    free = first - preset.sink_frames
    memory = preset.memory_frames if memory_visible and free >= preset.memory_frames else 0
    return Positions(
        sink=tuple(range(sink)),
        memory=tuple(range(first - memory, first)),
        window=tuple(range(first, last + 1)),
        query=tuple(range(last + 1 - block_frames, last + 1)),
    )


def why_no_memory(preset: PositionPreset, block_frames: int) -> str | None:
    """A sentence if no block of so many latent frames ever sees a memory at ids of its own, else None."""
    if not preset.memory_frames:
        return (
            f"Positions: preset {preset.name} has no ids for a memory; take the preset that the memory "
            f"brings (preset: the model's), or set memory to off."
        )
    full = preset.capacity_frames or preset.trained_frames
    if plan(preset, 2 * full, block_frames, memory_visible=True).memory:
        return None
    most = (preset.window_frames or 0) - preset.memory_frames
    return (
        f"Positions: a block of {block_frames} latent frames leaves no ids for the memory in preset "
        f"{preset.name}, whose window of {preset.window_frames} holds the block and the memory's "
        f"{preset.memory_frames}; take blocks of {most} or fewer, or set memory to off."
    )


def cached_frames(
    preset: PositionPreset, start_frame: int, block_frames: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sink, window): latent frames, by index in the stream, that the cache holds before the block.

    The block's frames are in neither; with them, the counts equal those of `plan`, but for a sink within the
    window: once that is full, `plan` gives no ids to the sink's oldest frames.
    """
    sink, window, _ = _attended(preset, start_frame, block_frames)
    oldest = start_frame + block_frames - window
    return tuple(range(min(sink, start_frame))), tuple(range(oldest, start_frame))


def why_no_shot(preset: PositionPreset, block_frames: int) -> str | None:
    """A sentence if a shot has no place for frames of the one before, or no id to leave free behind them."""
    free = preset.last_id is None or preset.last_id + 1 > preset.sink_frames + block_frames
    if preset.sink_frames and free:
        return None
    missing = "no id is free behind its sink" if preset.sink_frames else "it has no sink"
    endless = f" {preset.endless}, or" if preset.endless else ""
    return (
        f"Positions: a shot keeps frames of the one before as its sink, and preset {preset.name} has no "
        f"place for them: {missing}; take preset{endless} one whose ids hold a sink, a block of "
        f"{block_frames} latent frames and one more, or the switch cut."
    )


def ids_apart(preset: PositionPreset, block_frames: int) -> int:
    """Ids left free between frames of the last shot, which are the sink, and a shot's first block.

    As the window fills they become fewer where ids are bounded. ValueError where `why_no_shot` has a
    sentence.
    """
    if problem := why_no_shot(preset, block_frames):
        raise ValueError(problem)
    if preset.last_id is None:
        return SHOT_APART
    return min(SHOT_APART, preset.last_id + 1 - preset.sink_frames - block_frames)


def joint(preset: PositionPreset, frames: int) -> PositionPreset:
    """What a call that denoises so many latent frames together attends to: always the sink, and the newest
    frames before its own that there are ids for.

    Sink and window begin at id 0 (Rolling Forcing, arXiv 2509.25161, its released code). ValueError where the
    frames do not fit.
    """
    if preset.last_id is None or preset.window_frames is None or preset.memory_frames:
        raise ValueError(
            f"Positions: several blocks are denoised together, and preset {preset.name} has "
            f"{'a memory' if preset.memory_frames else 'ids that grow without end'}; take preset "
            f"rolling_forcing."
        )
    room = min(preset.window_frames, preset.last_id + 1 - preset.sink_frames)
    if frames > room:
        raise ValueError(
            f"Positions: {frames} latent frames are denoised together, and preset {preset.name} has room for "
            f"{room} beside its {preset.sink_frames} sink frames; take fewer noise levels, shorter blocks, "
            f"or preset rolling_forcing."
        )
    return replace(preset, window_frames=room, sink_within=False)


def _attended(
    preset: PositionPreset, start_frame: int, block_frames: int, apart: int = 0
) -> tuple[int, int, int]:
    """(sink frames, window frames, id of the block's last frame), the block included."""
    if start_frame < 0 or block_frames < 1:
        raise ValueError(
            f"Positions: a block of {block_frames} latent frames from frame {start_frame} is not possible; "
            f"give a block of at least 1 frame that starts at 0 or later."
        )
    if problem := _too_long(preset, block_frames):
        raise ValueError(problem)
    end = start_frame + block_frames
    sink = min(preset.sink_frames, end)
    window = end - sink if preset.window_frames is None else min(preset.window_frames, end - sink)
    if preset.memory_in_window and window < end - sink:
        window = max(window - preset.memory_frames, block_frames)
    last = end - 1 + apart
    return sink, window, last if preset.last_id is None else min(last, preset.last_id)


def _too_long(preset: PositionPreset, block_frames: int) -> str | None:
    if preset.window_frames is None or block_frames <= preset.window_frames:
        return None
    return (
        f"Positions: a block of {block_frames} latent frames does not fit the window of preset "
        f"{preset.name}, {preset.window_frames} latent frames beside {preset.sink_frames} sink frames; "
        f"take blocks of {preset.window_frames} or fewer."
    )

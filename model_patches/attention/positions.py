"""Which latent frames a block attends to, and the temporal RoPE id of each.

Every published scheme is one rule with different numbers. Sink ids are 0, 1, ... and never move. The last
frame of the block gets its own index in the stream, but never more than the preset's `last_id`; the window
counts back from there, the memory sits directly before the window. With no `last_id` ids grow with the stream
(absolute positions). Sources: the released code of Self-Forcing, Causal-Forcing, LongLive, Infinity-RoPE and
Reward Forcing; VideoMLA (arXiv 2605.30351) and Echo-Infinity (arXiv 2606.04527).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Positions:
    """RoPE ids of one call, one per latent frame; the block is in `query` and in what it attends to."""

    sink: tuple[int, ...]
    memory: tuple[int, ...]
    window: tuple[int, ...]  # every attended frame that is no sink, the current block's included
    query: tuple[int, ...]  # the current block


@dataclass(frozen=True, slots=True)
class PositionPreset:
    """How a family of checkpoints chooses frames and ids; counts are latent frames."""

    name: str
    sink_frames: int  # first latent frames of the stream, kept for ever
    window_frames: int | None  # attended latent frames that are no sink, current block included; None: all
    last_id: int | None  # highest id; None: ids grow with the stream
    trained_frames: int  # ids 0..trained_frames-1 occurred in training
    memory_frames: int = 0  # frame-equivalents of the memory
    endless: str = ""  # for growing ids: the preset to take for longer streams

    def __post_init__(self) -> None:
        if min(self.sink_frames, self.memory_frames) < 0 or self.trained_frames < 1:
            raise ValueError(
                f"PositionPreset {self.name}: sink {self.sink_frames}, memory {self.memory_frames}, trained "
                f"{self.trained_frames} latent frames; sink and memory are 0 or more, trained is 1 or more."
            )
        if self.window_frames is not None and self.window_frames < 1:
            raise ValueError(
                f"PositionPreset {self.name}: a window of {self.window_frames} latent frames has no room for "
                f"a block; give at least the block's length, or None for all frames."
            )
        if self.last_id is None:
            return
        if self.window_frames is None:
            raise ValueError(
                f"PositionPreset {self.name}: ids end at {self.last_id} but the window does not end; "
                f"give window_frames."
            )
        needed = self.sink_frames + self.memory_frames + self.window_frames
        if not needed <= self.last_id + 1 <= self.trained_frames:
            raise ValueError(
                f"PositionPreset {self.name}: sink, memory and window need {needed} ids and the model was "
                f"trained on {self.trained_frames}; last_id must be {needed - 1} to "
                f"{self.trained_frames - 1}, got {self.last_id}."
            )

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
        PositionPreset("echo", 3, 9, last_id=20, trained_frames=21, memory_frames=3),
        PositionPreset("echo_std", 3, 9, None, trained_frames=21, memory_frames=3, endless="echo"),
        PositionPreset("videomla_6", 1, 5, last_id=5, trained_frames=21),
        PositionPreset("videomla_7", 1, 6, last_id=6, trained_frames=21),
        PositionPreset("pocket", 3, 9, last_id=11, trained_frames=12),
        PositionPreset("pocket_memory", 3, 9, last_id=14, trained_frames=15, memory_frames=3),
    )
}


def preset(name: str) -> PositionPreset:
    """The preset of that name; refuses others with the list of those there are."""
    if name not in PRESETS:
        raise ValueError(f"Positions: no preset is called {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]


def why_not(preset: PositionPreset, block_frames: int, total_frames: int | None = None) -> str | None:
    """A sentence if a stream of `total_frames` latents (None: endless) leaves the trained ids, else None.

    To be asked before work starts; `plan` itself lets growing ids grow unless told to be strict, because such
    a model still runs past its trained length, as beside the host's own sampler. It only gets worse.
    """
    if problem := _too_long(preset, block_frames):
        return problem
    if preset.last_id is not None or (total_frames is not None and total_frames <= preset.trained_frames):
        return None
    length = "an endless stream" if total_frames is None else f"{total_frames} latent frames"
    return (
        f"Positions: preset {preset.name} counts on without end and the model was trained on "
        f"{preset.trained_frames} latent frames, not on {length}; take preset {preset.endless or 'pocket'}, "
        f"whose ids stay bounded, or a stream of at most {preset.trained_frames} latent frames."
    )


def plan(
    preset: PositionPreset,
    start_frame: int,
    block_frames: int,
    memory_visible: bool = False,
    *,
    strict: bool = False,
) -> Positions:
    """RoPE ids for the block of latent frames start_frame .. start_frame + block_frames - 1.

    memory_visible: the memory has been updated at least once. It still gets no ids while fewer frames have
    left the window than it stands for: there is no room for it between sink and window. A recache (the frames
    of the window run again as one long block) passes False.
    strict: refuse ids the model was not trained on; only presets whose ids grow can come to that.
    """
    sink, window, last = _attended(preset, start_frame, block_frames)
    if strict and last >= preset.trained_frames:
        raise ValueError(why_not(preset, block_frames, start_frame + block_frames))
    first = last + 1 - window
    room = first - preset.sink_frames
    shown = preset.memory_frames if memory_visible and room >= preset.memory_frames else 0
    return Positions(
        sink=tuple(range(sink)),
        memory=tuple(range(first - shown, first)),
        window=tuple(range(first, last + 1)),
        query=tuple(range(last + 1 - block_frames, last + 1)),
    )


def kept_frames(
    preset: PositionPreset, start_frame: int, block_frames: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sink, window): latent frames, by index in the stream, that a cache must hold before the block begins.

    The block's own frames are in neither; with them, the counts equal those of `plan`.
    """
    sink, window, _ = _attended(preset, start_frame, block_frames)
    oldest = start_frame + block_frames - window
    return tuple(range(min(sink, start_frame))), tuple(range(oldest, start_frame))


def _attended(preset: PositionPreset, start_frame: int, block_frames: int) -> tuple[int, int, int]:
    """(sink frames, window frames, id of the block's last frame), the block's own frames included."""
    if start_frame < 0 or block_frames < 1:
        raise ValueError(
            f"Positions: a block of {block_frames} latent frames from frame {start_frame} cannot be; "
            f"it needs at least 1 frame and starts at 0 or later."
        )
    if problem := _too_long(preset, block_frames):
        raise ValueError(problem)
    end = start_frame + block_frames
    sink = min(preset.sink_frames, end)
    window = end - sink if preset.window_frames is None else min(preset.window_frames, end - sink)
    return sink, window, end - 1 if preset.last_id is None else min(end - 1, preset.last_id)


def _too_long(preset: PositionPreset, block_frames: int) -> str | None:
    if preset.window_frames is None or block_frames <= preset.window_frames:
        return None
    return (
        f"Positions: a block of {block_frames} latent frames does not fit the window of preset "
        f"{preset.name}, {preset.window_frames} latent frames beside {preset.sink_frames} sink frames; "
        f"take blocks of {preset.window_frames} or fewer."
    )

"""Where a take can be gone on from: the newest snapshot that is whole and agrees with the video's frames.

Frames are counted in the video's file here, as whoever watches it counts them; snapshots and timelines count
in the stream, of which a kept tail is only the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..stream.config import StreamConfig
from ..stream.script import Script
from ..stream.snapshot import Header, read_header, verify
from ..stream.state import StreamState
from ..stream.timeline import Prompt as TimedPrompt
from ..viewers.mailbox import Redo
from ..writer.parts import frames_of
from .folder import About, SnapshotFile, TakeFolder
from .timeline_file import Event, at_border, read

SHOWN = 3  # reasons that an error lists


@dataclass(frozen=True, slots=True)
class Point:
    """A snapshot to go on from, and what was made after it."""

    snapshot: SnapshotFile
    header: Header
    on_disk: int  # whole frames of the file
    block: int  # the first that is not as it was: those before it are made again
    frame: int  # of the file, that block's first
    about: About  # of the take; from the snapshot, where the folder does not say
    events: tuple[Event, ...]  # what happened in the take, all of it
    passed: tuple[str, ...]  # newer snapshots that do not serve, and why

    @property
    def first_frame(self) -> int:
        """Pixel frame of the stream that the file begins with."""
        return self.about.first_frame

    @property
    def start_frame(self) -> int:
        """Frames of the file that stay; the rest is cut off and made again."""
        return self.header.ledger.written - self.first_frame

    @property
    def made(self) -> int:
        """Frames of the file before `block`; fewer than `frame` where the decoder still held some back."""
        return min(self.frame, self.on_disk)

    @property
    def replay_blocks(self) -> int:
        """Blocks that are made again as they were."""
        return self.block - self.header.block

    def place(self, state: StreamState) -> StreamState:
        """The snapshot's state, for a writer that goes on with this file."""
        return replace(state, ledger=replace(state.ledger, file_frame=self.first_frame))

    def script(self, script: Script, config: StreamConfig) -> Script:
        """What the blocks to come are made with: what is noted, and from `block` on what is given, too.

        script, config: as the user has them now, but for the seed, which is the noted one. ValueError where
        prompts that were typed cannot be read again.
        """
        events = [event for event in self.events if event.block >= self.header.block]
        self._refuse_lost(events)
        configs = self._configs(config)
        typed = {block: at_border(each) for block, each in _by_block(events).items()}
        if script.encode is None:
            if any(block < self.block for block in typed):
                raise ValueError(
                    "Resume: this take's prompts were typed, and they are needed to make its newest blocks "
                    "again; connect Prompts over Time instead of a fixed prompt."
                )
            return replace(script, configs=configs, since=self.block)
        later = {block: prompt for block, prompt in script.changes.items() if block >= self.block}
        noted = {block: TimedPrompt(0, str(event.prompt), event.mode) for block, event in typed.items()}
        return replace(script, text=self.header.text, changes={**later, **noted}, configs=configs)

    def _refuse_lost(self, events: Sequence[Event]) -> None:
        done = self.header.block + self.header.steered
        lost = next((event for event in events if event.is_lost and event.block >= done), None)
        if lost is not None:
            second = (lost.frame - self.first_frame) / self.about.fps
            raise ValueError(
                f"Resume: the prompt at second {second:.1f} was not kept as a text (--disable-metadata), and "
                f"no snapshot is there that was made after it; redo the take from that second or an earlier "
                f"one, with a prompt."
            )

    def _configs(self, config: StreamConfig) -> dict[int, StreamConfig]:
        """The snapshot's own, and from `block` on the user's, each with the seeds that are noted."""
        seed, had = self.header.config.seed, self.header.config
        seeds = {event.block: event.seed for event in self.events}
        configs: dict[int, StreamConfig] = {}
        for block in sorted({*seeds, self.block}):
            seed = seeds.get(block, seed if block > self.header.block else had.seed)
            if block >= self.header.block:
                configs[block] = replace(config if block >= self.block else had, seed=seed)
        return configs


def find_point(folder: TakeFolder, redo: Redo | None = None) -> Point:
    """Where to go on from; nothing is changed. None: from the end, as it was.

    ValueError, in a sentence, where there is nothing to go on from.
    """
    redo = redo or Redo()
    on_disk, events = frames_of(folder.video), tuple(read(folder.timeline))
    if redo.frame is not None and not 0 <= redo.frame < on_disk:
        raise ValueError(
            f"Redo: {folder.video.name} has {on_disk} pictures, and none of them is number {redo.frame}; "
            f"choose an earlier one, or resume the take from its end."
        )
    passed: list[str] = []
    behind: float | None = None  # second of the earliest that serves, but not for this picture
    for snapshot in reversed(folder.snapshots()):
        try:
            verify(snapshot.path)
            header = read_header(snapshot.path)
            about = _about(folder, header)
            point = _point(snapshot, header, about, on_disk, events, redo)
        except (OSError, ValueError) as why:
            passed.append(f"the snapshot after block {snapshot.block}: {why}")
            continue
        if point is not None:
            return replace(point, passed=tuple(passed))
        behind = (snapshot.frame - about.first_frame) / about.fps
    if behind is not None:
        raise ValueError(
            f"Redo: no whole snapshot of {folder.video.name} lies before that picture, and the earliest goes "
            f"on from second {behind:.1f}; choose one after it, or resume the take from its end."
        )
    raise ValueError(_nothing(folder, on_disk, passed))


def _about(folder: TakeFolder, header: Header) -> About:
    """What the take is; where its own file is lost, what a snapshot says is enough, unless it is a tail."""
    try:
        return folder.read_about()
    except ValueError:
        ledger = header.ledger
        if ledger.fps is None:
            raise
        return About(ledger.file_frame, ledger.fps, *header.picture_size, begun=0.0)


def _point(
    snapshot: SnapshotFile,
    header: Header,
    about: About,
    on_disk: int,
    events: tuple[Event, ...],
    redo: Redo,
) -> Point | None:
    """The point that this snapshot gives; None where it lies behind what is to be redone.

    ValueError where it does not agree with the file.
    """
    written, first_frame = header.ledger.written, about.first_frame
    if (header.block, written) != snapshot.order:
        raise ValueError(f"it holds block {header.block} and {written} pictures; it was renamed")
    if not first_frame <= written <= first_frame + on_disk:
        raise ValueError(f"it goes on after {written - first_frame} pictures, and the video holds {on_disk}")
    wanted = on_disk if redo.frame is None else redo.frame
    border = _border(_borders(header, events), first_frame + wanted, whole=redo.frame is None)
    if border is None and not header.block:
        border = next(_borders(header, events))  # pictures that were given are not made again
    if border is None:
        return None
    block, frame = border
    if redo.prompt and block == header.block and header.steered:
        return None  # the prompt that is to be another is in it already
    return Point(snapshot, header, on_disk, block, frame - first_frame, about, events, ())


def _border(borders: Iterator[tuple[int, int]], frame: int, *, whole: bool) -> tuple[int, int] | None:
    """(block, its first frame) of the block that has the frame; None where that lies before all of them.

    whole: the next one instead, unless it is that block's first.
    """
    before = None
    for border in borders:
        if border[1] >= frame:
            return border if whole or border[1] == frame else before
        before = border
    raise AssertionError("blocks have no end")


def _borders(header: Header, events: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """(block, pixel frame of the stream that it begins with) from the snapshot's next block on, no end."""
    geometry, count = header.config.geometry, header.config.block_frames
    cuts = {event.block for event in events if event.mode == "cut"}
    block, start, scene = header.block, header.start_frame, header.ledger.scene
    while True:
        frame = scene + geometry.pixel_frames(start)
        if block in cuts and start and block:
            start, scene = 0, frame
        yield block, frame
        block, start = block + 1, start + count


def _by_block(events: Sequence[Event]) -> Mapping[int, list[Event]]:
    """The prompts that were gone over to, by the block they begin with."""
    found: dict[int, list[Event]] = {}
    for event in events:
        if event.prompt is not None and event.mode:
            found.setdefault(event.block, []).append(event)
    return found


def _nothing(folder: TakeFolder, on_disk: int, passed: Sequence[str]) -> str:
    name = folder.video.name
    why = "; ".join(passed[:SHOWN]) if passed else f"{folder.path.name} has no snapshot"
    more = f"; and {len(passed) - SHOWN} more" if len(passed) > SHOWN else ""
    then = (
        "The video plays, and a new one can begin with its end: Start From."
        if on_disk
        else f"The video itself is not there either; put it back under the name {name}, or make it anew."
    )
    return f"Resume: there is nothing to go on from in {name}: {why.rstrip('. ')}{more}. {then}"

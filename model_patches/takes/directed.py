"""What a take was directed with, as a text to paste into Prompts over Time, and as a tag of its video.

With the same seed it makes the same pictures: a prompt's time is that of the picture which its block begins
with, and so means that block again. What such a text cannot say stands in lines that begin with #.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..geometry import rate_of
from ..stream.timeline import clock
from ..viewers.live import PAUSED
from ..writer.video import Mp4Writer
from .folder import TakeFolder
from .timeline_file import Event, at_border, read

TAG = "rivulet_timeline"


@dataclass(frozen=True, slots=True)
class Note:
    """What happened at a picture besides prompts and seeds."""

    frame: int  # pixel frame of the stream
    words: str


class Directed:
    """What happens in a take while it is made, told by its video. For one run of it."""

    def __init__(
        self, writer: Mp4Writer, events: Iterable[Event], first_frame: int, *, private: bool = False
    ) -> None:
        """events: that happened before. first_frame: of the stream, where the file begins. private: nothing
        is told.
        """
        self._writer, self._first_frame, self._private = writer, first_frame, private
        self._events, self._notes = list(events), list[Note]()

    @property
    def events(self) -> Sequence[Event]:
        """What has happened, with the texts."""
        return self._events

    def on_prompt(self, event: Event) -> None:
        """A prompt that takes effect."""
        if event not in self._events:
            self._events.append(event)
        self.tell()

    def on_phase(self, phase: str) -> None:
        """Another phase of the run."""
        if phase == PAUSED:
            self._notes.append(Note(self._first_frame + self._writer.frames_written, "a pause"))

    def tell(self) -> None:
        """Has the video say all of it, as far as it is made."""
        text = "" if self._private else written(self._events, self._writer.fps, self._notes)
        if text:
            self._writer.describe({TAG: text})


def timeline_of(folder: TakeFolder) -> str:
    """The text of a take on disk; "" where its prompts or its rate are not known."""
    try:
        fps = folder.read_about().fps
    except ValueError:
        return ""
    return written(read(folder.timeline), fps)


def written(events: Sequence[Event], fps: Fraction | float, notes: Iterable[Note] = ()) -> str:
    """The text of what happened; "" where it is not known what was to be seen first.

    events, notes: their frames are counted over the whole stream, whichever of its files they are in.
    """
    prompts = list(_prompts(events))
    if not prompts or prompts[0].block:
        return ""
    rate = rate_of(fps)
    lines = [(0, f"# seed {_seed(events)}, {float(rate):g} pictures a second")]
    for event in prompts:
        mode = f" {event.mode}" if event.block else ""
        at = event.frame if event.block else 0
        lines.append((at, f"[{_time(at, rate)}{mode}] {event.prompt}"))
    lines += [
        (note.frame, f"# {_time(note.frame, rate)}: {note.words}") for note in (*notes, *_others(events))
    ]
    return "\n".join(line for _, line in sorted(lines, key=lambda line: line[0])) + "\n"


def _prompts(events: Sequence[Event]) -> Iterator[Event]:
    """One prompt for each block that begins with another."""
    blocks: dict[int, list[Event]] = {}
    for event in events:
        if event.prompt is not None and event.mode:
            blocks.setdefault(event.block, []).append(event)
    return map(at_border, (blocks[block] for block in sorted(blocks)))


def _seed(events: Sequence[Event]) -> int:
    return min(events, key=lambda event: event.block).seed


def _others(events: Sequence[Event]) -> Iterator[Note]:
    """Seeds that are not the first one, and prompts whose text was not kept."""
    seed = _seed(events)
    for event in sorted(events, key=lambda event: event.block):
        if event.seed != seed:
            seed = event.seed
            yield Note(event.frame, f"the seed {seed} from here on, by a redo")
        if event.is_lost:
            yield Note(event.frame, "another prompt, whose text was not kept")


def _time(frame: int, rate: Fraction) -> str:
    """When a frame is shown, rounded down: the next whole frame after it is this one again."""
    return clock(int(frame * 1000 / rate))

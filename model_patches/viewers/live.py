"""State of a running stream for its viewers, and the messages it takes from them. See docs/preview.md."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..writer.video import Mp4Writer
from .mailbox import MAX_PROMPT_LETTERS, Mailbox, Message
from .pictures import Pictures
from .segments import Segments

RECENT_BLOCKS = 8  # whose speed is averaged
MAX_PROMPTS = 500  # newest prompt changes that the state lists
MAX_GIVEN = 64  # newest runs that a stream was given to once more
STARTING, RUNNING, PAUSED, ENDED, FAILED = "starting", "running", "paused", "ended", "failed"
OVER = (ENDED, FAILED)
VIEWER, DRIFT, DISK = "viewer", "drift", "disk"  # who stopped a stream
CHANGING = ("stop", "prompt", "redo", "yield")  # kinds after which a take is not what was queued
CANNOT = {
    "redo": "This run cannot go back: it keeps no snapshots, or follows a video.",
    "mark": "This run keeps no snapshots, so there is none to mark.",
    "yield": "This run cannot let others in; stop it, and resume it later.",
}


class EndedError(Exception):
    """A message that arrived after the end of its stream."""


@dataclass(frozen=True, slots=True)
class PromptChange:
    """A prompt that took effect at a block."""

    prompt: str
    mode: str
    block: int
    first_frame: int  # pixel frame of the file


@dataclass(frozen=True, slots=True)
class Address:
    """Under which names whoever watches finds a file."""

    path: str  # as a person reads it
    view: dict[str, str] | None = None  # filename, subfolder and type for the host's own route; None: no host


@dataclass(frozen=True, slots=True)
class Given:
    """A later run that was given a finished stream's video once more, because nothing was changed."""

    client: str  # id of the page that queued it
    workflow: str  # id of its graph
    at: float  # seconds since 1970


class LiveStream:
    """One stream as viewers see it. The generating thread reports progress; any thread may read or submit."""

    def __init__(
        self,
        writer: Mp4Writer,
        *,
        node: str,
        prompt_id: str,
        blocks: int | None,
        client: str | None = None,
        workflow: str = "",
        modes: tuple[str, ...] = (),
        switch: str = "",
        take: str = "",
        block: int = 0,
        address: Callable[[Path], Address] = lambda path: Address(str(path.absolute())),
    ) -> None:
        """node: its id, with the path through subgraphs. blocks: planned number, None for endless.

        client: id of the page that queued it, None without a page. workflow: id of its graph.

        modes: the prompt switches it supports; empty: the prompt is fixed. switch: the mode that viewers
        offer first; "": no preference. take: under which id viewers can go on with it later; "": they cannot.
        block: the first that this run makes; earlier ones are in the file. address: of a file of the video.
        """
        self.session = secrets.token_hex(16)
        self.started_at = time.time()
        self.writer, self.node, self.prompt_id = writer, node, prompt_id
        self.client, self.workflow = client, workflow
        self.blocks, self.modes, self.switch, self.take = blocks, modes, switch, take
        self.does: frozenset[str] = frozenset()  # of redo, mark and yield: what this run can do
        self.watch: dict[str, Any] | None = None  # how far the picture drifts; None: nobody looks
        self.stopped_by = ""  # VIEWER, DRIFT or DISK, where a stop ended it
        self.goes_on = False  # it ended before its time, and another session goes on with its take
        self.given: deque[Given] = deque(maxlen=MAX_GIVEN)  # the newest last
        self._address = address
        self.mailbox, self.segments = Mailbox(), Segments()
        self.pictures = Pictures(self.segments, writer.fps)
        self.phase, self.sentence, self.block = STARTING, "", block
        self.notice = ""  # what whoever watches should know, while the stream goes on
        self.vram: dict[str, int] | None = None
        self._sequence = 0
        self._speeds: deque[tuple[int, float]] = deque(maxlen=RECENT_BLOCKS)
        self._prompts: deque[PromptChange] = deque(maxlen=MAX_PROMPTS)
        self._prompt_count = 0
        self._lock, self._collecting = threading.Lock(), threading.Lock()
        self._released = False

    @property
    def fps(self) -> float:
        """Frames per second of the video when it plays."""
        return float(self.writer.fps)

    @property
    def over(self) -> bool:
        """Whether the stream has ended or failed."""
        return self.phase in OVER

    @property
    def stopped(self) -> bool:
        """Whether a stop ended it."""
        return bool(self.stopped_by)

    @property
    def as_queued(self) -> bool:
        """Whether nobody ended it or changed what it shows."""
        return not (self.stopped or self.goes_on) and self.mailbox.applied_kinds.isdisjoint(CHANGING)

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The newest prompt changes as dictionaries, oldest first."""
        with self._lock:
            return [asdict(change) for change in self._prompts]

    def ask(self, message: Message) -> None:
        """Puts a message into the mailbox; ValueError for what the run cannot do, EndedError afterwards."""
        if self.mailbox.has_seen(message):
            return
        if self.over:
            raise EndedError("The stream has ended; queue the workflow to start another.")
        if message.do in CANNOT and message.do not in self.does:
            raise ValueError(CANNOT[message.do])
        if message.do == "redo" and message.prompt and not message.mode and self.modes:
            message = replace(message, mode=self.switch or self.modes[0])
        if message.do in ("prompt", "redo") and message.prompt and message.mode not in self.modes:
            can = f"choose {' or '.join(self.modes)}" if self.modes else "its prompt is fixed"
            raise ValueError(f"This run cannot do the switch {message.mode[:40]!r}; {can}.")
        if message.frame is not None and message.frame >= (made := self.writer.frames_written):
            raise ValueError(f"Picture {message.frame} is not made yet; redo one of the first {made}.")
        self.mailbox.put(message)
        self.change()

    def change(self, phase: str | None = None, sentence: str = "") -> None:
        """Raises the state's sequence number and sets the phase, if one is passed."""
        with self._lock:
            self._sequence += 1
            if phase is not None:
                self.phase, self.sentence = phase, sentence

    def note_block(self, frames: int, seconds: float, vram: dict[str, int] | None = None) -> None:
        """Reports a finished block: its pixel frames, the seconds of work, the memory in use in bytes."""
        self._speeds.append((frames, seconds))
        self.block, self.vram = self.block + 1, vram
        self.collect()
        self.change(RUNNING)

    def note_prompt(self, change: PromptChange) -> None:
        """Reports a prompt change."""
        with self._lock:
            self._prompts.append(change)
            self._prompt_count += 1
            self._sequence += 1

    def collect(self) -> None:
        """Reads into memory what the encoder has written to disk since the last call."""
        with self._collecting:
            if not self._released and self.segments.collect(self.writer.index):
                self.change()

    def clients(self) -> set[str]:
        """Ids of the pages that queued it, or a run that was given it."""
        given = {each.client for each in self.given.copy()}
        return given if self.client is None else {*given, self.client}

    def forget_media(self) -> None:
        """Lets go of the segments in memory; the finished file stays."""
        with self._collecting:
            self.segments = Segments()
            self.pictures = Pictures(self.segments, self.writer.fps)

    def release(self) -> None:
        """Collects once more and closes the file, so that the writer can join and delete its parts."""
        self.collect()
        with self._collecting:
            self._released = True
            self.segments.close()

    def state(self, *, prompts: bool = True, after: int = 0) -> dict[str, Any]:
        """The JSON state object of docs/preview.md, with or without its list of prompts.

        after: how many of the first prompts whoever asks has already, and are left out.
        """
        with self._lock:
            changes = self._prompts_after(after) if prompts else {}
            return {
                **self._identity(),
                "sequence": self._sequence,
                "phase": self.phase,
                "sentence": self.sentence,
                "notice": self.notice,
                "block": self.block,
                "blocks": self.blocks,
                "frames": self.writer.frames_written,
                "made_per_second": self._made_per_second(),
                "vram": self.vram,
                "media": self._media(),
                **changes,
                "prompt_count": self._prompt_count,
                "longest_prompt": MAX_PROMPT_LETTERS,
                "modes": list(self.modes),
                "switch": self.switch,
                "pending": self.mailbox.pending,
                "acknowledged": self.mailbox.acknowledged,
                **self._video(),
                "stopped": self.stopped,
                "stopped_by": self.stopped_by,
                "goes_on": self.goes_on,
                "take": self.take,
                **{f"can_{do}": do in self.does for do in CANNOT},
                "left_seconds": self._left_seconds(),
                "watch": self.watch,
            }

    def _prompts_after(self, known: int) -> dict[str, Any]:
        before = max(self._prompt_count - len(self._prompts), min(known, self._prompt_count))
        listed = islice(self._prompts, before + len(self._prompts) - self._prompt_count, None)
        return {"prompts": [asdict(change) for change in listed], "prompts_before": before}

    def _identity(self) -> dict[str, Any]:
        writer = self.writer
        return {
            "session": self.session,
            "node": self.node,
            "workflow": self.workflow,
            "prompt_id": self.prompt_id,
            "begun": self.started_at,
            "fps": self.fps,
            "width": writer.width,
            "height": writer.height,
            "file": writer.path.name,
        }

    def _video(self) -> dict[str, Any]:
        result = self.writer.result if self.over else None
        address = Address("") if result is None else self._address(result)
        return {"video": result is not None, "path": address.path, "view": address.view}

    def _left_seconds(self) -> float | None:
        """Seconds of work that the planned blocks will take, as the last ones did."""
        speeds = list(self._speeds)
        if self.blocks is None or not speeds or self.over:
            return None
        return (self.blocks - self.block) * sum(worked for _, worked in speeds) / len(speeds)

    def _made_per_second(self) -> float:
        speeds = list(self._speeds)
        seconds = sum(worked for _, worked in speeds)
        return sum(frames for frames, _ in speeds) / seconds if seconds > 0 else 0.0

    def _media(self) -> dict[str, Any] | None:
        segments = self.segments
        oldest, newest = segments.oldest, segments.newest
        if oldest is None or newest is None:
            return None
        return {
            "codec": segments.codec,
            "next": segments.next,
            "oldest": asdict(oldest),
            "newest": asdict(newest),
        }

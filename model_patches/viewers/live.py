"""What viewers may know of a running stream, and the wishes of theirs that it takes. See docs/preview.md."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from ..writer.video import Mp4Writer
from .mailbox import LONGEST_PROMPT, Mailbox, Message
from .pictures import Pictures
from .segments import Segments

RECENT_BLOCKS = 8  # over which the speed is told
TOLD_PROMPTS = 500
STARTING, RUNNING, PAUSED, ENDED, FAILED = "starting", "running", "paused", "ended", "failed"
OVER = (ENDED, FAILED)


class EndedError(Exception):
    """A message came after the end of its stream."""


@dataclass(frozen=True, slots=True)
class Told:
    """A prompt that took effect."""

    prompt: str
    mode: str
    block: int
    first_frame: int  # pixel frame


class LiveStream:
    """One stream as viewers see it. The thread that makes it notes what happens; any thread may ask."""

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
    ) -> None:
        """node: its id, the whole path inside subgraphs. blocks: None: without end.

        client: the page that queued it; None: no page did. workflow: id of the graph that it was queued from.

        modes: the switches to another prompt that it can do; none: the prompt is fixed. switch: the one of
        them that viewers are offered first; "": theirs to say.
        """
        self.session = secrets.token_hex(16)
        self.begun = time.time()
        self.writer, self.node, self.prompt_id = writer, node, prompt_id
        self.client, self.workflow = client, workflow
        self.blocks, self.modes, self.switch = blocks, modes, switch
        self.mailbox, self.segments = Mailbox(), Segments()
        self.pictures = Pictures(self.segments, writer.fps)
        self.phase, self.sentence, self.block = STARTING, "", 0
        self.vram: dict[str, int] | None = None
        self._sequence = 0
        self._speeds: deque[tuple[int, float]] = deque(maxlen=RECENT_BLOCKS)
        self._prompts: deque[Told] = deque(maxlen=TOLD_PROMPTS)
        self._prompt_count = 0
        self._lock, self._collecting = threading.Lock(), threading.Lock()
        self._let_go = False

    @property
    def fps(self) -> float:
        """Frames per second of the video when it plays."""
        return float(self.writer.fps)

    @property
    def over(self) -> bool:
        """Whether nothing more will be made."""
        return self.phase in OVER

    @property
    def as_queued(self) -> bool:
        """Whether no viewer ended it early or changed its prompt."""
        return self.mailbox.obeyed.isdisjoint(("stop", "prompt"))

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The newest prompts that took effect, oldest first."""
        with self._lock:
            return [asdict(told) for told in self._prompts]

    def ask(self, message: Message) -> None:
        """Takes a message; ValueError where it cannot be obeyed, EndedError where it is late."""
        if self.mailbox.knows(message):
            return
        if self.over:
            raise EndedError("The stream has ended; queue the workflow to make another.")
        if message.do == "prompt" and message.mode not in self.modes:
            can = f"choose {' or '.join(self.modes)}" if self.modes else "its prompt is fixed"
            raise ValueError(f"This run cannot do the switch {message.mode[:40]!r}; {can}.")
        self.mailbox.put(message)
        self.change()

    def change(self, phase: str | None = None, sentence: str = "") -> None:
        """Notes that something is otherwise than before."""
        with self._lock:
            self._sequence += 1
            if phase is not None:
                self.phase, self.sentence = phase, sentence

    def note_block(self, frames: int, seconds: float, vram: dict[str, int] | None = None) -> None:
        """One more block was made: so many pixel frames, after so many seconds of work."""
        self._speeds.append((frames, seconds))
        self.block, self.vram = self.block + 1, vram
        self.collect()
        self.change(RUNNING)

    def note_prompt(self, told: Told) -> None:
        """A prompt takes effect."""
        with self._lock:
            self._prompts.append(told)
            self._prompt_count += 1
            self._sequence += 1

    def collect(self) -> None:
        """Takes over what the encoder has put on disk; short, but it reads a file."""
        with self._collecting:
            if not self._let_go and self.segments.collect(self.writer.index):
                self.change()

    def let_go(self) -> None:
        """Collects for the last time: from here on the writer may join its parts and delete them."""
        self.collect()
        with self._collecting:
            self._let_go = True
            self.segments.close()

    def state(self, *, prompts: bool = True) -> dict[str, Any]:
        """The object of docs/preview.md, with the prompts or without them."""
        with self._lock:
            told = {"prompts": [asdict(each) for each in self._prompts]} if prompts else {}
            return {
                **self._identity(),
                "sequence": self._sequence,
                "phase": self.phase,
                "sentence": self.sentence,
                "block": self.block,
                "blocks": self.blocks,
                "frames": self.writer.frames_written,
                "made_per_second": self._made_per_second(),
                "vram": self.vram,
                "media": self._media(),
                **told,
                "prompt_count": self._prompt_count,
                "longest_prompt": LONGEST_PROMPT,
                "modes": list(self.modes),
                "switch": self.switch,
                "pending": self.mailbox.pending,
                "acknowledged": self.mailbox.acknowledged,
                "video": self.over and self.writer.result is not None,
            }

    def _identity(self) -> dict[str, Any]:
        writer = self.writer
        return {
            "session": self.session,
            "node": self.node,
            "workflow": self.workflow,
            "prompt_id": self.prompt_id,
            "begun": self.begun,
            "fps": self.fps,
            "width": writer.width,
            "height": writer.height,
            "file": writer.path.name,
        }

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

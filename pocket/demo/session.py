"""One take of the demo: what the stream tells while it runs, and what the page may know of it."""

import json
import threading
import time
from collections import deque
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from ...model_patches.stream.pipeline import Chunk
from ...model_patches.writer.fmp4 import FragmentIndex
from ...model_patches.writer.video import Mp4Writer
from .controls import Controls

LEAD_SECONDS = 3.0  # how far an endless stream may run ahead of the clock, so that a new prompt shows soon
RECENT_BLOCKS = 8  # over which the speed is told
RECENT_FRAMES = 96  # kept for a page that cannot play the video
TOLD_PROMPTS = 20
FRAGMENT_BYTES = 1 << 20  # the most that one answer carries


class Session:
    """Callbacks for the pipeline on one side, answers for the page on the other; any thread may ask."""

    def __init__(
        self,
        controls: Controls,
        writer: Mp4Writer,
        *,
        blocks: int | None,
        seed: int,
        examples: tuple[str, ...] = (),
    ) -> None:
        self.controls = controls
        self.writer = writer
        self.blocks = blocks  # None: without end
        self.seed = seed
        self.examples = examples
        self.phase = "running"  # running, ended, failed
        self.sentence = ""  # why it ended
        self.frames = 0
        self.block = 0  # the next one
        self.worked_seconds = 0.0
        self.first_chunk_seconds: float | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_BLOCKS)
        self._pictures: deque[tuple[int, np.ndarray]] = deque(maxlen=RECENT_FRAMES)
        self._pictures_lock = threading.Lock()
        self._block_began = time.perf_counter()
        self._live_began: float | None = None
        self.last_asked: float | None = None  # when a page last wanted something
        self._note_prompts()

    @property
    def fps(self) -> float:
        """Frames per second of the video when it plays."""
        return float(self.writer.fps)

    @property
    def made_per_second(self) -> float:
        """Frames per second of work, over the whole take."""
        return self.frames / self.worked_seconds if self.worked_seconds else 0.0

    def stop(self) -> bool:
        """Tells whether the stream is to end before its next block; waits while it is paused or far ahead."""
        while self.controls.paused and not self.controls.stopping:
            self.controls.wait_while(lambda: self.controls.paused)
            self._live_began = None  # the clock that an endless stream keeps to starts again
        if self.blocks is None:
            self.controls.wait_while(self._far_ahead)
        self._block_began = time.perf_counter()
        return self.controls.stopping

    def new_text(self, block: int) -> Tensor | None:
        """The text asked for since the last block."""
        text_BLE = self.controls.take(block, self.frames)
        if text_BLE is not None:
            self._note_prompts()
        return text_BLE

    def on_chunk(self, chunk: Chunk) -> None:
        """Counts a finished block and keeps its newest pictures."""
        worked = time.perf_counter() - self._block_began
        if self.first_chunk_seconds is None:
            self.first_chunk_seconds = worked
        self.worked_seconds += worked
        self._recent.append((len(chunk.pixels_FHWC), worked))
        with self._pictures_lock:
            self._pictures.extend(enumerate(chunk.pixels_FHWC.cpu().numpy(), chunk.first_frame))
        self.frames, self.block = chunk.end_frame, chunk.block + 1

    def end(self, phase: str, sentence: str) -> None:
        """Notes how it went; the page shows the sentence."""
        self.sentence, self.phase = sentence, phase

    def status(self) -> dict[str, Any]:
        """Returns what the page shows, in plain values."""
        pending = self.controls.pending
        applied = list(self.controls.applied)
        phase = "paused" if self.phase == "running" and self.controls.paused else self.phase
        return {
            "phase": phase,
            "sentence": self.sentence,
            "block": self.block,
            "blocks": self.blocks,
            "frames": self.frames,
            "fps": self.fps,
            "made_per_second": self._recent_speed(),
            "width": self.writer.width,
            "height": self.writer.height,
            "examples": self.examples,
            "pending": None if pending is None else {"number": pending.number, "prompt": pending.prompt},
            "applied": [asdict(each) for each in applied[-TOLD_PROMPTS:]],
            "live": self._live(),
            "video": self.writer.result is not None,
            "file": self.writer.path.name,
        }

    def init_segment(self, part: int) -> bytes | None:
        """Returns the start of the part that begins at frame `part`: empty while not there, None if gone."""
        index = self._index()
        if index is None or index.first_frame != part:
            return b"" if index is None and part == 0 else None
        return index.init

    def fragments(self, part: int, number: int) -> tuple[bytes, int] | None:
        """Returns (bytes, next number) of the live file; no bytes where they are not made, None if gone."""
        index = self._index()
        if index is None or index.first_frame != part:
            return None
        return None if number < index.oldest else index.read(number, FRAGMENT_BYTES)

    def picture(self, number: int) -> tuple[int, np.ndarray] | None:
        """Returns (number, pixels [H, W, 3]) of a frame, or of the oldest one kept where it is gone."""
        with self._pictures_lock:
            if not self._pictures or number > self._pictures[-1][0]:
                return None
            return self._pictures[max(0, number - self._pictures[0][0])]

    def line(self) -> str:
        """Returns one line for a terminal."""
        return f"block {self.block}, {self.frames / self.fps:.1f} s, {self._recent_speed():.1f} frames/s"

    def _note_prompts(self) -> None:
        """The finished file tells what it was made from."""
        prompts = [
            {"second": each.first_frame / self.fps, "prompt": each.prompt} for each in self.controls.applied
        ]
        self.writer.metadata.update(
            title=f"Rivulet: {prompts[0]['prompt']}",
            comment=json.dumps({"seed": self.seed, "prompts": prompts}, ensure_ascii=False),
        )

    def _far_ahead(self) -> bool:
        now = time.monotonic()
        if self._live_began is None:
            self._live_began = now - self.frames / self.fps
        return self.frames / self.fps > now - self._live_began + LEAD_SECONDS

    def _recent_speed(self) -> float:
        recent = list(self._recent)
        return sum(frames for frames, _ in recent) / max(1e-9, sum(worked for _, worked in recent))

    def _index(self) -> FragmentIndex | None:
        index = self.writer.index
        if index is not None and self.phase == "running":
            index.extend()
        return index

    def _live(self) -> dict[str, Any] | None:
        index = self._index()
        if index is None or not index.count:
            return None
        return {
            "part": index.first_frame,
            "codec": index.codec,
            "fragments": index.count,
            "oldest": index.oldest,
            "keyframe": index.newest_keyframe,
        }

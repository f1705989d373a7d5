"""A take that makes itself: plain pictures by the pack's own writer, with the state of docs/preview.md."""

import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rivulet.model_patches.writer.fmp4 import FragmentIndex
from rivulet.model_patches.writer.video import Mp4Writer

FPS, WIDTH, HEIGHT, BLOCK = 16, 416, 240, 12
COLOURS = {"red": (220, 60, 50), "blue": (60, 110, 230), "yellow": (240, 200, 60), "green": (60, 180, 90)}
GIB = 1 << 30


class Segments:
    """Init segments and fragments of all parts, numbered as one row."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, FragmentIndex]] = []  # the number of its init segment, the part

    def add(self, path: Path, first_frame: int) -> None:
        self.parts.append((self.next, FragmentIndex(path, first_frame=first_frame)))

    @property
    def next(self) -> int:
        if not self.parts:
            return 0
        init, index = self.parts[-1]
        return init + (1 + index.count if index.init else 0)

    def read(self, number: int) -> tuple[bytes, int, float | None]:
        """Returns (bytes, next number, seconds at which an init segment's time begins)."""
        init, index = next(part for part in reversed(self.parts) if part[0] <= number)
        if number == init:
            return index.init, number + 1, index.first_frame / FPS
        data, following = index.read(number - init - 1)
        return data, init + 1 + following, None

    def place(self, frame: int) -> dict[str, int] | None:
        """Returns the last key frame at or before this one."""
        for init, index in reversed(self.parts):
            for number in range(min(frame - index.first_frame, index.count - 1), -1, -1):
                if index.fragment(number).keyframe:
                    return {"init": init, "segment": init + 1 + number, "frame": index.first_frame + number}
        return None


class Take:
    """One stream, made `speed` times as fast as it plays; every `seal_blocks` blocks a part is sealed."""

    def __init__(
        self,
        folder: Path,
        *,
        node: str,
        blocks: int | None,
        speed: float,
        modes: list[str],
        seal_blocks: int = 8,
    ) -> None:
        self.writer = Mp4Writer(folder / "take.mp4", width=WIDTH, height=HEIGHT, fps=FPS, threads=1)
        self.segments, self.lock = Segments(), threading.RLock()
        self.node, self.blocks, self.speed, self.modes, self.seal_blocks = (
            node,
            blocks,
            speed,
            modes,
            seal_blocks,
        )
        self.session, self.begun = f"take{time.time_ns():x}", time.time()
        self.sequence, self.phase, self.block = 0, "starting", 0
        self.paused = self.stopping = False
        self.prompts = [{"prompt": "a red circle", "mode": "cut", "block": 0, "first_frame": 0}]
        self.pending: list[dict[str, Any]] = []
        self.acknowledged: list[dict[str, Any]] = []
        self.taken: set[tuple[str, int]] = set()

    def run(self) -> None:
        """Makes blocks until it is told to stop."""
        with self.writer:
            while not self.stopping and self.block != self.blocks:
                self._obey()
                if self.paused:
                    time.sleep(0.1)
                    continue
                self._make()
        self._index()
        self._change(phase="ended")

    def _make(self) -> None:
        began = time.monotonic()
        first = self.block * BLOCK
        frames = [picture(first + i, self.prompts[-1]["prompt"]) for i in range(BLOCK)]
        self.writer.write(np.stack(frames))
        if self.seal_blocks and self.block % self.seal_blocks == self.seal_blocks - 1:
            self.writer.seal()
        time.sleep(max(0.0, BLOCK / FPS / self.speed - (time.monotonic() - began)))
        self._index()
        self._change(block=self.block + 1, phase="running")

    def _index(self) -> None:
        with self.lock:
            index = self.writer.index
            if index and (not self.segments.parts or self.segments.parts[-1][1].path != index.path):
                if self.segments.parts:
                    self.segments.parts[-1][1].extend()
                self.segments.add(index.path, index.first_frame)
            if self.segments.parts:
                self.segments.parts[-1][1].extend()

    def _obey(self) -> None:
        with self.lock:
            last = {message["do"]: message for message in self.pending}
            for message in self.pending:
                wanted = message["do"]
                late = last[wanted] is not message
                self._acknowledge(message, "replaced" if late else "done")
                if wanted == "stop":
                    self.stopping = True
                elif wanted in ("pause", "resume"):
                    self.paused = wanted == "pause"
                elif not late:
                    self.prompts.append(
                        {
                            "prompt": message["prompt"],
                            "mode": message["mode"],
                            "block": self.block,
                            "first_frame": self.block * BLOCK,
                        }
                    )
            if self.pending:
                self.pending = []
                self._change(phase="paused" if self.paused else "running")

    def _acknowledge(self, message: dict[str, Any], outcome: str) -> None:
        shown = message["do"] == "prompt"
        self.acknowledged.append(
            {
                "viewer": message["viewer"],
                "number": message["number"],
                "outcome": outcome,
                "sentence": "",
                "block": self.block if shown else None,
                "first_frame": self.block * BLOCK if shown else None,
            }
        )

    def _change(self, **fields: Any) -> None:
        with self.lock:
            self.__dict__.update(fields)
            self.sequence += 1

    def ask(self, message: dict[str, Any]) -> str:
        """Puts a message into the mailbox; returns why it cannot be obeyed, or nothing."""
        with self.lock:
            key = (message["viewer"], message["number"])
            if key in self.taken:
                return ""
            if message["do"] == "prompt":
                if not any(colour in message["prompt"] for colour in COLOURS):
                    return f"No colour in this prompt; name one of {', '.join(COLOURS)}."
                if message["mode"] not in self.modes:
                    return f"This run cannot {message['mode']}; choose {' or '.join(self.modes)}."
            elif message["do"] not in ("pause", "resume", "stop"):
                return 'Send "pause", "resume", "stop" or "prompt".'
            self.taken.add(key)
            self.pending.append(message)
            self._change()
            return ""

    def state(self) -> dict[str, Any]:
        """Returns the object of docs/preview.md."""
        with self.lock:
            frames = self.segments.parts[-1][1].frames if self.segments.parts else 0
            return {
                "session": self.session,
                "node": self.node,
                "workflow": "w",
                "prompt_id": "fake",
                "begun": self.begun,
                "sequence": self.sequence,
                "phase": self.phase,
                "sentence": "",
                "block": self.block,
                "blocks": self.blocks,
                "frames": frames,
                "fps": FPS,
                "width": WIDTH,
                "height": HEIGHT,
                "made_per_second": FPS * self.speed if self.block else 0,
                "vram": {"used": int(7.1 * GIB), "total": 12 * GIB},
                "media": self._media(frames),
                "prompts": list(self.prompts),
                "prompt_count": len(self.prompts),
                "modes": self.modes,
                "switch": "",
                "pending": list(self.pending),
                "acknowledged": self.acknowledged[-64:],
                "video": self.writer.result is not None,
                "file": "take.mp4",
            }

    def _media(self, frames: int) -> dict[str, Any] | None:
        if not frames:
            return None
        return {
            "codec": self.segments.parts[0][1].codec,
            "next": self.segments.next,
            "oldest": self.segments.place(0),
            "newest": self.segments.place(frames - 1),
        }


def picture(number: int, prompt: str) -> np.ndarray:
    """Returns a bouncing disc [H, W, 3] in the prompt's colour, with a bar that tells the frame's number."""
    colour = next((COLOURS[word] for word in prompt.split() if word in COLOURS), COLOURS["red"])
    x = 40 + abs((number * 5) % (2 * (WIDTH - 80)) - (WIDTH - 80))
    y = 40 + abs((number * 3) % (2 * (HEIGHT - 80)) - (HEIGHT - 80))
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), (28, 36, 44), np.uint8)
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < 32**2] = colour
    pixels[-6:, : 1 + number * 4 % WIDTH] = (230, 230, 230)
    return pixels


def jpeg(number: int, prompt: str) -> bytes:
    """Returns one picture as JPEG."""
    coded = BytesIO()
    Image.fromarray(picture(number, prompt)).save(coded, format="JPEG", quality=85)
    return coded.getvalue()

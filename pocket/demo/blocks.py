"""What happens between the blocks of a take: viewers are heard, pictures written, the work is timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from torch import Tensor

from ...model_patches.stream.pipeline import Chunk
from ...model_patches.viewers.live import Told
from ...model_patches.viewers.session import Session

SWITCH = "smooth"  # the text changes and nothing is forgotten


class Blocks:
    """Callbacks for the pipeline, over the session that viewers see."""

    def __init__(self, session: Session, encode: Callable[[str], Tensor], prompt: str, seed: int) -> None:
        self.session, self.seed, self._encode = session, seed, encode
        self.first_text_BLE = encode(prompt)
        self.worked_seconds = 0.0
        self.first_seconds: float | None = None  # what the first block took
        self._began = time.perf_counter()
        self._note(prompt)

    def stop(self) -> bool:
        """Whether the stream is to end before its next block; waits while it is paused or far ahead."""
        ends = not self.session.goes_on()
        self._began = time.perf_counter()
        return ends

    def new_text(self, block: int) -> Tensor | None:
        """The text that a viewer asked for, if the model can read it."""
        message = self.session.wish()
        if message is None:
            return None
        try:
            text_BLE = self._encode(message.prompt)
        except ValueError as why:
            self.session.refuse(message, why)
            return None
        told = self._note(message.prompt)
        self.session.live.mailbox.settle(message, "done", block=told.block, first_frame=told.first_frame)
        return text_BLE

    def on_chunk(self, chunk: Chunk) -> None:
        """Writes the pictures of a block and counts it."""
        self.session.writer.write(chunk.pixels_FHWC)
        worked = time.perf_counter() - self._began
        self.worked_seconds += worked
        if self.first_seconds is None:
            self.first_seconds = worked
        self.session.note_block(len(chunk.pixels_FHWC), worked)

    def _note(self, prompt: str) -> Told:
        """The prompt of the next block; the finished file tells what it was made from."""
        live, writer = self.session.live, self.session.writer
        told = Told(prompt, SWITCH, live.block, writer.frames_written)
        live.note_prompt(told)
        prompts = [
            {"second": each["first_frame"] / live.fps, "prompt": each["prompt"]} for each in live.prompts
        ]
        writer.metadata.update(
            title=f"Rivulet: {prompts[0]['prompt']}",
            comment=json.dumps({"seed": self.seed, "prompts": prompts}, ensure_ascii=False),
        )
        return told

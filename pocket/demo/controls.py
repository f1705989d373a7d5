"""Mailbox between the page and the stream: whatever is asked takes effect between two blocks."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

LONGEST_PROMPT = 500  # letters
REMEMBERED = 200  # prompts that took effect
GLANCE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that was asked for, already read by the text encoder."""

    number: int  # 1, 2, ... in the order of asking; 0 is the prompt the stream began with
    prompt: str
    text_BLE: Tensor


@dataclass(frozen=True, slots=True)
class Applied:
    """A prompt that took effect, and where."""

    number: int
    prompt: str
    block: int
    first_frame: int


class Controls:
    """Prompt, pause and stop, asked for by any thread and obeyed by the one that makes the stream.

    Pausing, stopping and leaving are plain flags that are looked at, so that a signal handler may set them
    too.
    """

    def __init__(self, encode: Callable[[str], Tensor], prompt: str) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._asked = 0
        self._pending: Request | None = None
        self.paused = False
        self.stopping = False  # end the stream
        self.leaving = False  # end the page with it
        self.first_text_BLE = self._read(prompt)
        self.applied: deque[Applied] = deque([Applied(0, prompt, 0, 0)], REMEMBERED)

    @property
    def pending(self) -> Request | None:
        """The request that waits for the next block."""
        return self._pending

    def ask(self, prompt: str) -> int:
        """Returns the number of the request; the newest one wins. Refuses what the model cannot read."""
        prompt = prompt.strip()
        text_BLE = self._read(prompt)
        with self._lock:
            self._asked += 1
            self._pending = Request(self._asked, prompt, text_BLE)
            return self._asked

    def take(self, block: int, first_frame: int) -> Tensor | None:
        """Returns the text that was asked for since the last block, and notes where it takes effect."""
        with self._lock:
            request, self._pending = self._pending, None
        if request is None:
            return None
        self.applied.append(Applied(request.number, request.prompt, block, first_frame))
        return request.text_BLE

    def wait_while(self, reason: Callable[[], bool]) -> None:
        """Returns when the reason is gone, or when the stream is to stop."""
        while reason() and not self.stopping:
            time.sleep(GLANCE_SECONDS)

    def _read(self, prompt: str) -> Tensor:
        if len(prompt) > LONGEST_PROMPT:
            raise ValueError(
                f"Prompt: {len(prompt)} letters, at most {LONGEST_PROMPT} are read; leave some out."
            )
        return self._encode(prompt)

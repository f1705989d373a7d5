"""Those who watch a stream, as the loop around it sees them; nobody, where nobody does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..viewers.live import PromptChange
from ..viewers.mailbox import Message


class Viewers(Protocol):
    """Those who watch a stream and may ask things of it, heard between two blocks."""

    def should_continue(self, rest: Callable[[], None]) -> bool:
        """Whether another block is to be made; waits as long as the stream is paused.

        rest: to be called where it begins to wait so; it frees the card.
        """
        ...

    def next_prompt(self) -> Message | None:
        """A prompt that is asked for; to be settled."""
        ...

    def accept(self, message: Message, block: int, first_frame: int) -> None:
        """The prompt that was asked for is seen from this block and pixel frame of the file on."""
        ...

    def refuse(self, message: Message, why: BaseException) -> None:
        """The prompt that was asked for cannot be; the stream goes on without it, or ended over it."""
        ...

    def note_prompt(self, change: PromptChange) -> None:
        """A prompt takes effect."""
        ...

    def note_plan(self, blocks: int | None) -> None:
        """The file will have so many blocks; None: nobody knows."""
        ...

    def note_block(self, frames: int, seconds: float) -> None:
        """One more block was made: so many pixel frames, after so many seconds of work."""
        ...

    def tell(self, sentence: str) -> None:
        """Something that whoever watches should know; the stream goes on."""
        ...


@dataclass(frozen=True, slots=True)
class Unwatched:
    """No viewers; `stop` alone may end the stream."""

    stop: Callable[[], bool] = lambda: False

    def should_continue(self, rest: Callable[[], None]) -> bool:
        return not self.stop()

    def next_prompt(self) -> Message | None:
        return None

    def accept(self, message: Message, block: int, first_frame: int) -> None:
        raise AssertionError("nobody can have asked")

    def refuse(self, message: Message, why: BaseException) -> None:
        raise AssertionError("nobody can have asked")

    def note_prompt(self, change: PromptChange) -> None:
        """Nobody is told."""

    def note_plan(self, blocks: int | None) -> None:
        """Nobody is told."""

    def note_block(self, frames: int, seconds: float) -> None:
        """Nobody is told."""

    def tell(self, sentence: str) -> None:
        """Nobody is told."""


NOBODY = Unwatched()

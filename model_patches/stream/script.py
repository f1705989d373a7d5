"""Which prompt each block of a stream is made with: a fixed one, or a timeline and what viewers type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from .caller import Prompt
from .config import StreamConfig
from .timeline import DEFAULT_MODE
from .timeline import Prompt as TimedPrompt

Encode = Callable[[str], Prompt]  # between two passes only: a host may move models


@dataclass(frozen=True, slots=True)
class Script:
    """The prompts of one stream, read before its first block."""

    first: Prompt  # of the beginning
    text: str | None = None  # as it was typed; None: it was encoded elsewhere
    changes: Mapping[int, TimedPrompt] = field(default_factory=dict)  # by the block they begin with
    encode: Encode | None = None  # of what is typed while it runs; None: the prompt is fixed
    switch: str = ""  # how to go over to one that names no mode; "": not said
    # seed, guidance and levels by the block they begin with, for a take that goes on: all else is as it was
    configs: Mapping[int, StreamConfig] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # sentences about what of the timeline will not be seen
    reference_BCTHW: Tensor | None = None  # in the model's units: what a shot keeps; None: the last shot's
    since: int | None = None  # block where `first` comes in, for a take that goes on; None: it holds already

    @property
    def steerable(self) -> bool:
        """Whether a prompt can be typed while the stream runs."""
        return self.encode is not None

    def due(self, block: int) -> TimedPrompt | None:
        """The timeline's prompt that begins with this block.

        The first block's does what every switch but a shot does there: it begins the stream.
        """
        due = self.changes.get(block)
        return due if block or due is None or due.mode != "shot" else replace(due, mode=DEFAULT_MODE)

    def resume(self, block: int, text: str | None) -> Script:
        """The script of a stream that goes on with this block.

        text: what held before; it holds on, or the timeline's where none is known. A fixed prompt stays the
        script's own.
        """
        if self.encode is None:
            return self
        earlier = [change for begins, change in sorted(self.changes.items()) if begins < block]
        held = earlier[-1].text if text is None and earlier else text
        return replace(self, first=self.first if held is None else self.encode(held), text=held)

"""Which prompt each block of a stream is made with: a fixed one, or a timeline and what viewers type."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ...model_patches.stream.state import StreamConfig
from ...model_patches.stream.timeline import DEFAULT_MODE, Prompt, at_borders
from ..prompts import FROM_RECIPE

log = logging.getLogger(__name__)


class Script:
    """The prompts of one stream, read before its first block."""

    def __init__(
        self, first: Any, changes: Mapping[int, Prompt], prompts: Any = None, switch: str = ""
    ) -> None:
        """first: CONDITIONING of the beginning. changes: by the block they begin with.

        prompts: encodes more of them; None: the prompt is fixed.
        switch: how to go over to one that names none; "": not said.
        """
        self.first = first
        self.prompt = changes[0].text if 0 in changes else None  # the text of `first`, where it is known
        self.switch = switch
        self._changes, self._prompts = changes, prompts

    @property
    def steerable(self) -> bool:
        """Whether a prompt can be typed while the stream runs."""
        return self._prompts is not None

    def due(self, block: int) -> Prompt | None:
        """The timeline's prompt that begins with this block."""
        return self._changes.get(block)

    def taken_up(self, block: int, prompt: str | None) -> Script:
        """The script of a stream that goes on with this block.

        prompt: what held before; it holds on, or the timeline's where none is known. A fixed one is the
        graph's.
        """
        if not self.steerable:
            return self
        past = [change for begins, change in sorted(self._changes.items()) if begins < block]
        text = past[-1].text if prompt is None and past else prompt
        first = self.first if text is None else self.encode(text)
        script = Script(first, self._changes, self._prompts, self.switch)
        script.prompt = text
        return script

    def encode(self, prompt: str) -> Any:
        """CONDITIONING of a prompt; call it between two blocks."""
        return self._prompts.conditioning(prompt)


def read_script(
    positive: Any,
    prompts: Any,
    config: StreamConfig,
    fps: float,
    blocks: int,
    given: int = 0,
    hidden: int = 0,
    recipe_switch: tuple[str, str] = (DEFAULT_MODE, ""),
) -> Script:
    """The script of a stream of so many blocks at `fps` pictures a second.

    positive: CONDITIONING, prompts: what RivuletPrompts gives; one of the two, the other None. given: latent
    frames before the first block. hidden: pictures of those that the video does not show. recipe_switch: how
    the model's recipe goes over to a prompt, and a sentence about it, which is logged where it is followed.
    """
    if (positive is None) == (prompts is None):
        both = "are both connected" if prompts is not None else "are both empty"
        raise ValueError(
            f"Stream Video: positive and prompts {both}, and one of them must say what to show; connect "
            f"positive for a fixed prompt, or prompts for a timeline and live typing."
        )
    if prompts is None:
        return Script(positive, {})
    rate = Fraction(fps).limit_denominator(1001)
    sizes = config.geometry, rate, config.block_frames
    switch = prompts.mode
    if switch == FROM_RECIPE:
        switch, said = recipe_switch
        log.info("Stream Video: %s", said)
    changes, notes = at_borders(prompts.timeline(switch), *sizes, blocks, given, hidden)
    for note in notes:
        log.warning("Stream Video: %s", note)
    # all at once, so that a prompt that cannot be read is told before anything is made
    texts = [prompts.conditioning(change.prompt.text) for change in changes]
    return Script(texts[0], {change.block: change.prompt for change in changes}, prompts, switch)

"""The script of a stream from what the graph gives: a fixed CONDITIONING, or Prompts over Time."""

from __future__ import annotations

import logging
from typing import Any

from ...model_patches.attention.positions import why_no_shot
from ...model_patches.geometry import rate_of
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.script import Script
from ...model_patches.stream.switch import modes_for
from ...model_patches.stream.timeline import DEFAULT_MODE, at_borders
from ..host.caller import HostPrompt
from ..host.inputs import GIVES_NOTHING
from ..prompts import FROM_RECIPE
from .beginnings import Beginning

log = logging.getLogger(__name__)


def read_script(
    positive: Any,
    prompts: Any,
    negative: Any,
    config: StreamConfig,
    fps: float,
    blocks: int | None,
    begin: Beginning,
    recipe_switch: tuple[str, str] = (DEFAULT_MODE, ""),
) -> Script:
    """The script of a stream of so many blocks (None: without end) at `fps` pictures a second.

    positive, negative: CONDITIONING, prompts: what RivuletPrompts gives; positive or prompts is None. begin:
    what is there before the first block. recipe_switch: how the model's recipe changes to a prompt, and a
    sentence about it, which is logged where it is followed.
    """
    if (positive is None) == (prompts is None):
        both = "are both connected" if prompts is not None else f"are both empty ({GIVES_NOTHING})"
        raise ValueError(
            f"Stream Video: positive and prompts {both}, and one of them must say what to show; connect "
            f"positive for a fixed prompt, or prompts for a timeline and live typing."
        )
    negative = () if negative is None else negative
    if prompts is None:
        return Script(HostPrompt(positive, negative))
    sizes = config.geometry, rate_of(fps), config.block_frames
    switch = prompts.mode
    if switch == FROM_RECIPE:
        switch, said = recipe_switch
        log.info("Stream Video: %s", said)
    changes, notes = at_borders(prompts.timeline(switch), *sizes, blocks, begin.latents, begin.hidden)
    if any(change.block and change.prompt.mode not in modes_for(config) for change in changes):
        raise ValueError(why_no_shot(config.positions, config.joint_frames))
    for note in notes:
        log.warning("Stream Video: %s", note)

    def encode(text: str) -> HostPrompt:
        return HostPrompt(prompts.conditioning(text), negative)

    # all at once, so that a prompt that cannot be encoded is refused before the first block
    texts = [encode(change.prompt.text) for change in changes]
    by_block = {change.block: change.prompt for change in changes}
    text = by_block[0].text if 0 in by_block else None
    return Script(texts[0], text, by_block, encode, switch, notes=notes)

"""A decoder's past, made once more from the newest latents of a scene.

C channels, T latent frames, H/W of the latent grid. Behind as many latents as a decoder's layers reach over
(`reach`), nothing of what came before is in its buffers. How numbers are rounded depends on how many latents
a layer gets at once, so they are cut where the stream had cut them; and one piece more is decoded, because a
scene's first one is another: its first latent is one picture, not four.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

import torch
from torch import Tensor

from .decoder import MAX_LATENTS, StreamDecoder, VaeBuffers

KEPT_LATENTS = 46  # newest of a scene: as many as any decoder here needs


def latents_for_past(
    decoder: StreamDecoder | None, start_frame: int, block_frames: int, given: int = 0
) -> int | None:
    """How many of a scene's newest latents give the decoder's past once more; None where none do.

    start_frame: latents that the scene has so far, of which the first `given` were there and shown at once
    before the blocks of `block_frames`.
    """
    reach = None if decoder is None else decoder.forgets_after
    if decoder is None or reach is None:
        return None
    if decoder.in_pairs:  # from the second of a scene on, so the first that is decoded is in an even place
        first = max(0, start_frame - reach - 1)
        return start_frame - (first - first % 2)
    for first, size in _pieces(start_frame, block_frames, given):
        if first + size <= start_frame - reach:
            return start_frame - first
    return start_frame


@torch.inference_mode()
def past_again(
    decoder: StreamDecoder, latents_BCTHW: Tensor, start_frame: int, block_frames: int, given: int = 0
) -> VaeBuffers | None:
    """The decoder's past behind these latents, at which it begins anew; their pictures are let go of.

    latents: as many as `latents_for_past` says, whose other arguments are these.
    """
    past, first = None, start_frame - latents_BCTHW.shape[2]
    calls = takewhile(lambda call: sum(call) > first, _calls(start_frame, block_frames, given))
    sizes = [min(size, start + size - first) for start, size in calls]
    for piece_BCTHW in latents_BCTHW.split(sizes[::-1], 2):
        _, past = decoder.decode(piece_BCTHW, past)
    return past


def _pieces(start_frame: int, block_frames: int, given: int) -> Iterator[tuple[int, int]]:
    """(first latent, latents) of all that layers got at once, from the newest on."""
    for start, size in _calls(start_frame, block_frames, given):
        for first in reversed(range(start, start + size, MAX_LATENTS)):
            yield first, min(MAX_LATENTS, start + size - first)


def _calls(start_frame: int, block_frames: int, given: int) -> Iterator[tuple[int, int]]:
    """(first latent, latents) of all that the decoder was given at once, from the newest on."""
    end, given = start_frame, min(given, start_frame)
    while end > given:
        size = (end - given) % block_frames or block_frames
        yield end - size, size
        end -= size
    if given:
        yield 0, given

"""A cache goes over to a smaller format in the middle of a stream.

Only from keys and values that are stored as they are, to a format that is made from them alone.
"""

from __future__ import annotations

import torch

from ..arch.tree import DiTTree
from .dense import DENSE
from .format import Cache, CacheFormat, Call
from .int8 import Int8Format
from .shapes import Exact


def smaller(cache_format: CacheFormat, model: DiTTree, sink_frames: int = 0) -> CacheFormat | None:
    """What a cache of this format can become at half the bytes; None where there is nothing.

    sink_frames: first latent frames that stay as they are.
    """
    made = Int8Format(exact=Exact(sink=sink_frames))
    return made if cache_format == DENSE and made.why_not(model) is None else None


@torch.inference_mode()
def shrink(
    cache: Cache, target: CacheFormat, model: DiTTree, dtype: torch.dtype, device: torch.device
) -> Cache:
    """The frames of a dense cache in another format, in a store of their own on the device.

    A fold that is pending is in them. The given cache stays as and where it is; of one that was moved away
    the device holds a layer's keys and values at a time.
    """
    frames, nowhere = cache.frames, (0,) * len(cache.frames)
    made = target.empty(model, cache.shape, len(cache.table), dtype, device)
    draft = made.begin(Call((), frames, nowhere, nowhere))
    past = draft.past(slice(None))
    for layer in range(cache.shape.layers if frames else 0):
        keys, values = (side.to(device) for side in cache.keys_values(layer, frames))
        past.write(layer, keys.flatten(2), keys, values)  # no input is left: int8 has no use for it
    return draft.commit(frames)

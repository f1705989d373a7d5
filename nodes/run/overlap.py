"""Whether a card has room for the model and the VAE at work at the same time."""

from __future__ import annotations

from typing import Any

from ...model_patches.cache.format import CacheFormat
from ...model_patches.plan.plan import plan_stream
from ...model_patches.plan.verdict import HEADROOM
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.overlap import Overlap
from ..plan import free_bytes, request_of


def overlap_for(model: Any, vae: Any, config: StreamConfig, cache: CacheFormat, fps: float) -> Overlap:
    """Has the card decode a block while the next one is made, where by the plan both fit; else in turns.

    In turns, too, where the host fetches weights while it computes: whose stream they come on is its own
    affair.
    """
    device = model.load_device
    fetched = any(getattr(each, "is_dynamic", bool)() for each in (model, vae.patcher))
    if device.type != "cuda" or vae.device != device or fetched:
        return Overlap()
    plan = plan_stream(request_of(model, vae, config, fps, 0, cache))
    return Overlap(device if HEADROOM * plan.overlap_bytes <= free_bytes(device) else None)

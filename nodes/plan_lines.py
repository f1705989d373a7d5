"""The lines of Plan Stream, verdict first, from a request and a measured device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..model_patches.cache.cost import DENSE_COST, CacheCost
from ..model_patches.cache.format import CacheFormat
from ..model_patches.geometry import blocks_for, rate_of
from ..model_patches.plan.plan import Request, plan_stream
from ..model_patches.plan.probe import Device
from ..model_patches.plan.verdict import (
    BUS_RATE,
    FITS,
    calls_of,
    describe,
    gigabytes,
    judge,
    moved_bytes,
    short,
)
from ..model_patches.stream.timeline import at_borders
from ..model_patches.vae.decoder import MAX_LATENTS
from ..model_patches.vae.tiny_cost import TinyCost
from .prompts import Prompts

LEFT_OUT = "Not counted: the text encoder, and the programs themselves."


def verdict_lines(
    request: Request, device: Device, formats: Sequence[CacheCost] = ()
) -> tuple[tuple[str, ...], bool]:
    """(the verdict as a user reads it, answer first; whether the stream can run).

    formats: others that can be proposed.
    """
    verdict = judge(request, device, formats)
    if verdict.answer == FITS:
        return (*verdict.lines, LEFT_OUT), True
    if not _fits_offloaded(request, device):
        return tuple(filter(None, (*verdict.lines, tiny_text(request, device), LEFT_OUT))), False
    first = f"Fits your card ({device.name}), but slowly: a part of the weights stays in RAM."
    own = describe(request, plan_stream(request), device)
    way = f"To have all of them there, {verdict.way}."
    return (first, *offload_lines(request, device), way, *own, LEFT_OUT), True


def offload_lines(request: Request, device: Device) -> tuple[str, str]:
    """The cost of a stream whose weights lie in RAM, and the way round."""
    weights, moved = plan_stream(request).weights_bytes, moved_bytes(request, device)
    return (
        f"ComfyUI keeps the weights ({gigabytes(weights)}) in RAM by itself. About {gigabytes(moved)} go to "
        f"the card for every block, because what has no room there is copied in each of its "
        f"{calls_of(request.stream)} calls: {short(moved / BUS_RATE)} s at {BUS_RATE / 1e9:.0f} GB/s (PCIe "
        f"4.0 x16, assumed), and a chunk takes at least that long.",
        "Weights of half the bits (fp8 or GGUF's Q8_0 in place of bf16) at least halve it; a smaller model, "
        "or a cache or picture that leaves the weights their room, needs none.",
    )


def tiny_text(request: Request, device: Device) -> str | None:
    """A sentence if a tiny decoder in place of Wan's would be enough, else None."""
    tiny = replace(request, decoder=TinyCost(), piece_latents=MAX_LATENTS)
    if isinstance(request.decoder, TinyCost) or judge(tiny, device).answer != FITS:
        return None
    width, height = tiny.picture_size
    smaller = "" if request.decoder.upscale == 1 else f" and draws {width}x{height}"
    return (
        f"As it is, it fits with a tiny decoder, which comes near Wan's VAE{smaller}: load lighttaew2_1 from "
        "models/vae_approx with Load VAE."
    )


def cache_text(request: Request, cache: CacheFormat) -> str:
    """Bytes that the stream remembers, against those of keys and values as they are."""
    shape, frames, dtype = request.cache_shape, request.cache_frames, request.stream.dtype
    size, dense = (cost.token_bytes(shape, dtype) for cost in (request.cache, DENSE_COST))
    if size == dense:
        return f"Each token takes {dense:,.0f} bytes a layer in the cache."
    all_bytes, all_dense = (
        cost.allocated_bytes(shape, frames, dtype) for cost in (request.cache, DENSE_COST)
    )
    text = (
        f"In the format {cache.name} each token takes {size:,.0f} bytes a layer in the cache instead of "
        f"{dense:,.0f}, {dense / size:.1f} times less: {gigabytes(all_bytes)} instead of "
        f"{gigabytes(all_dense)} with the frames that stay exact."
    )
    if cache.error is None:
        return text
    return f"{text} Error of attention when it was calibrated: {100 * cache.error:.2g} %."


def _fits_offloaded(request: Request, device: Device) -> bool:
    """Whether it fits with the transformer's weights in RAM."""
    if device.is_cpu or device.free_bytes is None:
        return False
    weights = plan_stream(request).weights_bytes
    ram = None if device.free_ram_bytes is None else device.free_ram_bytes - weights
    moved = replace(device, free_bytes=device.free_bytes + weights, free_ram_bytes=ram)
    return judge(request, moved).answer == FITS


def unseen(request: Request, prompts: Prompts | None, recipe_switch: str) -> tuple[str, ...]:
    """A sentence for each prompt that a video of this length, begun from nothing, will not show."""
    if prompts is None:
        return ()
    sizes, rate = request.stream, rate_of(request.fps)
    blocks = None
    if request.seconds is not None:
        pictures = max(1, round(request.seconds * request.fps))
        blocks = max(1, blocks_for(sizes.geometry, sizes.block_frames, pictures))
    timeline = prompts.timeline(recipe_switch)
    return at_borders(timeline, sizes.geometry, rate, sizes.block_frames, blocks)[1]

"""The node that says before a run what it will need, and stops a run that cannot end well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..kernels.dispatch import triton_support
from ..model_patches.arch.wan import WanConfig
from ..model_patches.cache.cost import DENSE_COST, CacheCost
from ..model_patches.cache.dense import DENSE
from ..model_patches.cache.format import CacheFormat
from ..model_patches.cache.formats import find_format
from ..model_patches.plan.cards import describe_cards, usable_formats
from ..model_patches.plan.plan import Request, plan_stream
from ..model_patches.plan.probe import Device, probe
from ..model_patches.plan.verdict import BUS_RATE, FITS, calls_of, gigabytes, judge, moved_bytes, short
from ..model_patches.stream.config import StreamConfig
from ..model_patches.vae.cost import WanCost
from ..model_patches.vae.decoder import MAX_LATENTS
from ..model_patches.vae.tiny_cost import TinyCost
from .host.decoder import decoder_cost, why_not_vae
from .host.file import expert_of
from .host.inputs import fps_input, height_input, seconds_input, width_input
from .host.recipe import block_input, cfg_input, overrides, preset_input, recipe_of, stream_config, switch_of
from .host.tree import why_not
from .host.vae import PIECE_LATENTS
from .memory import memory_of
from .small_cache import CacheChoice, CacheType

PROBE_BYTES = 3e9  # what the measurement of a card takes for a moment
LEFT_OUT = "Not counted: the text encoder, and the programs themselves."


class RivuletPlan(io.ComfyNode):
    """Memory, disk and time from sizes alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletPlan",
            display_name="Plan Stream",
            category="Rivulet",
            description="Says what a stream will need before it runs: memory, disk, seconds to the first "
            "picture and per chunk. Connect it between the model and Stream Video: a run that "
            "does not fit stops here, with a suggestion.",
            search_aliases=["vram", "memory estimate", "will it fit", "how long"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Measured, and passed on unchanged."),
                width_input(),
                height_input(),
                seconds_input(
                    "seconds",
                    10.0,
                    0.0,
                    "Length of the video in seconds; 0: endless, with disk space for one hour.",
                ),
                fps_input(),
                preset_input("Which latent frames a block sees, and so how many are stored."),
                block_input("Latent frames per block. 0: the model's, else 3."),
                cfg_input(
                    "Guidance strength, no unit; other than 1 doubles the model's memory and time. 0: the "
                    "model's, else 1.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "stop_if_too_big",
                    default=True,
                    tooltip="Stops the run if memory or disk is too small. Off: only reports it.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="To use its true size; without it, Wan 2.1's is used."
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Noise levels, falling from 1; only their number counts."
                ),
                CacheType.Input("cache", optional=True, tooltip="From Small Cache, as in Stream Video."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The same model, unchanged."),
                io.String.Output(display_name="plan", tooltip="The verdict and its figures."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        width: int,
        height: int,
        seconds: float,
        fps: float,
        preset: str,
        num_frame_per_block: int,
        cfg: float,
        stop_if_too_big: bool,
        vae: Any = None,
        sigmas: Tensor | None = None,
        cache: CacheChoice | None = None,
    ) -> io.NodeOutput:
        """Returns the model as it came, and the verdict as text; stops the run if asked to."""
        config = stream_config(model, width, height, preset, num_frame_per_block, cfg, sigmas)
        dit = model.get_model_object("diffusion_model")
        cache_format = (cache or CacheChoice()).format_for(config, dit)
        request = request_of(model, vae, config, fps, seconds, cache_format)
        formats, device = formats_for(request, dit), free_on(model.load_device, config.dtype)
        text, fits = verdict_text(request, device, smaller(request, formats))
        if stop_if_too_big and not fits:
            raise ValueError(f"Plan Stream: {text} To run it all the same, switch stop_if_too_big off.")
        differences = overrides(model, preset, num_frame_per_block, cfg, sigmas)
        parts = (
            text,
            *differences,
            _switch_text(model),
            describe_cards(request, formats),
            cache_text(request, cache_format),
        )
        text = " ".join(filter(None, (*parts, expert_of(model))))
        return io.NodeOutput(model, text, ui=ui.PreviewText(text))


def _switch_text(model: Any) -> str | None:
    """How the model's recipe has prompts change, where it says so."""
    return switch_of(model)[1] if recipe_of(model).switch else None


def request_of(
    model: Any,
    vae: Any,
    config: StreamConfig,
    fps: float,
    seconds: float,
    cache: CacheFormat = DENSE,
) -> Request:
    """What a plan is asked for this MODEL of the host; vae None: Wan 2.1's. seconds 0: without end.

    Raises ValueError for a model or VAE that cannot be streamed, and for a cache made for another model.
    """
    dit = model.get_model_object("diffusion_model")
    refusal = why_not(dit) or cache.why_not(dit) or (why_not_vae(vae) if vae is not None else None)
    if refusal:
        raise ValueError(refusal)
    sizes = WanConfig(
        dit.dim,
        dit.ffn_dim,
        len(dit.blocks),
        dit.num_heads,
        dit.text_dim,
        dit.in_dim,
        dit.out_dim,
        dit.patch_size,
        dit.freq_dim,
    )
    request = Request(
        sizes,
        config,
        fps,
        seconds or None,
        vae_dtype=management.vae_dtype(model.load_device, [torch.bfloat16, torch.float16, torch.float32]),
        weights_bytes=model.model_size(),
        decoder=WanCost(in_pairs=True),
        piece_latents=PIECE_LATENTS,
        kernels=triton_support(model.load_device).triton,
    )
    request = replace(request, cache=cache.cost, memory=memory_of(model).cost_for(config))
    if vae is None:
        return request
    decoder, piece_latents = decoder_cost(vae)
    return replace(request, decoder=decoder, piece_latents=piece_latents, vae_dtype=vae.vae_dtype)


def free_on(device: torch.device, dtype: torch.dtype) -> Device:
    """The device measured, with `free_bytes` of it."""
    is_cpu = management.is_device_cpu(device)
    if not is_cpu:
        management.free_memory(PROBE_BYTES, device)
    output = Path(folder_paths.get_output_directory())
    # before ComfyUI's first result the folder is not there
    folder = next(place for place in (output, *output.parents) if place.exists())
    return replace(
        probe(device, dtype, folder),
        free_bytes=free_bytes(device),
        free_ram_bytes=management.get_free_memory(torch.device("cpu")),
    )


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device; on a card those of the host's models are free, too: it gives them back."""
    loaded = [part for part in management.current_loaded_models if part.device == device]
    held = 0 if management.is_device_cpu(device) else sum(part.model_loaded_memory() for part in loaded)
    return management.get_free_memory(device) + held


def formats_for(request: Request, dit: Any) -> list[CacheCost]:
    """The cache formats that this model can take, the chosen one as it was chosen."""
    chosen, all_formats = request.cache, usable_formats(dit)
    others = [chosen if cost.name == chosen.name else cost for cost in all_formats]
    return others if chosen in others else [chosen, *others]


def smaller(request: Request, formats: Sequence[CacheCost]) -> list[CacheCost]:
    """Those of them to propose: they need no file, and fewer bytes than the chosen one."""
    shape, dtype = request.cache_shape, request.stream.dtype
    most = request.cache.token_bytes(shape, dtype)
    ready = [cost for cost in formats if find_format(cost.name).source is None]
    return [cost for cost in ready if cost.token_bytes(shape, dtype) < most]


def verdict_text(request: Request, device: Device, formats: Sequence[CacheCost] = ()) -> tuple[str, bool]:
    """(the verdict as a user reads it, whether the stream can run); formats: others that can be proposed."""
    verdict = judge(request, device, formats)
    if verdict.answer == FITS:
        return f"{verdict.text} {LEFT_OUT}", True
    if _fits_offloaded(request, device):
        return f"{verdict.text} {offload_text(request, device)} {LEFT_OUT}", True
    return " ".join(filter(None, (verdict.text, tiny_text(request, device), LEFT_OUT))), False


def offload_text(request: Request, device: Device) -> str:
    """The cost of a stream whose weights lie in RAM, and the way round."""
    weights, moved = plan_stream(request).weights_bytes, moved_bytes(request, device)
    return (
        f"As it is, it fits if ComfyUI keeps the model's weights ({gigabytes(weights)}) in RAM, which it "
        f"does by itself. Then about {gigabytes(moved)} go to the card for every block, because what has no "
        f"room there is copied in each of its {calls_of(request.stream)} calls: {short(moved / BUS_RATE)} s "
        f"at {BUS_RATE / 1e9:.0f} GB/s (PCIe 4.0 x16, assumed), and a chunk takes at least that long. "
        f"Weights of half the bits (fp8 or GGUF's Q8_0 in place of bf16) at least halve it; a smaller model, "
        f"or a cache or picture that leaves the weights their room, needs none."
    )


def tiny_text(request: Request, device: Device) -> str | None:
    """A sentence if a tiny decoder in place of Wan's would be enough, else None."""
    tiny = replace(request, decoder=TinyCost(), piece_latents=MAX_LATENTS)
    if isinstance(request.decoder, TinyCost) or judge(tiny, device).answer != FITS:
        return None
    return (
        "As it is, it fits with a tiny decoder, which comes near Wan's VAE: load lighttaew2_1 from "
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

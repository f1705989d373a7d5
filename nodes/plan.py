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
from ..model_patches.cache.cost import CacheCost
from ..model_patches.cache.dense import DENSE
from ..model_patches.cache.format import CacheFormat
from ..model_patches.cache.formats import find_format
from ..model_patches.memory.policy import refuse_no_ids
from ..model_patches.plan.cards import describe_cards, usable_formats
from ..model_patches.plan.plan import Request
from ..model_patches.plan.probe import Device, probe
from ..model_patches.plan.ram import within_groups
from ..model_patches.stream.config import StreamConfig
from ..model_patches.vae.cost import WanCost
from .host.decoder import decoder_cost, why_not_vae
from .host.file import expert_of
from .host.inputs import fps_input, height_input, refuse_nan, seconds_input, width_input
from .host.recipe import block_input, cfg_input, overrides, preset_input, recipe_of, stream_config, switch_of
from .host.tree import why_not
from .host.vae import PIECE_LATENTS
from .memory import memory_of
from .plan_lines import cache_text, unseen, verdict_lines
from .prompts import Prompts, PromptsType
from .small_cache import CacheChoice, CacheType

PROBE_BYTES = 3e9  # what the measurement of a card takes for a moment


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
                    "Length of the video in seconds; 0: without end, with the figures of an hour.",
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
                PromptsType.Input(
                    "prompts",
                    optional=True,
                    tooltip="From Prompts over Time: says which of them would begin after the video's end.",
                ),
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
        prompts: Prompts | None = None,
    ) -> io.NodeOutput:
        """Returns the model as it came, and the verdict as text; stops the run if asked to."""
        refuse_nan("Plan Stream", locals())
        config = stream_config(model, width, height, preset, num_frame_per_block, cfg, sigmas)
        dit = model.get_model_object("diffusion_model")
        cache_format = (cache or CacheChoice()).format_for(config, dit)
        request = request_of(model, vae, config, fps, seconds, cache_format)
        formats, device = formats_for(request, dit), free_on(model.load_device, config.dtype)
        lines, fits = verdict_lines(request, device, smaller(request, formats))
        if stop_if_too_big and not fits:
            way = "To run it all the same, switch stop_if_too_big off."
            raise ValueError("\n".join((f"Plan Stream: {lines[0]}", *lines[1:], way)))
        differences = overrides(model, preset, num_frame_per_block, cfg, sigmas)
        more = (
            *unseen(request, prompts, switch_of(model)[0]),
            *differences,
            _switch_text(model),
            cache_text(request, cache_format),
            describe_cards(request, formats),
            expert_of(model),
        )
        text = "\n".join(filter(None, (*lines, *more)))
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

    Raises ValueError for a model or VAE that cannot be streamed, for a cache made for another model, and for
    a memory that these blocks and positions leave no place for.
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
    memory = memory_of(model).cost_for(config)
    refuse_no_ids(memory, config.positions, config.block_frames)
    request = replace(request, cache=cache.cost, memory=memory)
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
        free_ram_bytes=free_bytes(torch.device("cpu")),
    )


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device; on a card those of the host's models are free, too: it gives them back."""
    loaded = [part for part in management.current_loaded_models if part.device == device]
    held = 0 if management.is_device_cpu(device) else sum(part.model_loaded_memory() for part in loaded)
    free = management.get_free_memory(device) + held
    if not management.is_device_cpu(device):
        return free
    # the host looks at the whole machine, and a container may have less of it
    return within_groups(free) or 0


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

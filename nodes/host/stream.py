"""A stream through the host's own sampling: one `guider.sample()` per block, the engine's forward inside it.

B batch, R batch rows of a call (branch by branch, each of B), C channels, T latent frames, H/W of the latent
grid, L text tokens, E text_dim. Branch 0 is the prompt, branch 1 the negative, as the host counts them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...model_patches.attention.rope import layout_of
from ...model_patches.attention.text import TextRows
from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import Cache, CacheFormat, CacheShape, call_of
from ...model_patches.memory.policy import NOTHING, OFF, Memory, MemoryPolicy, evict, room, visible
from ...model_patches.sampler.denoise import Begin
from ...model_patches.sampler.noise import BlockNoise, KeyedNoise
from ...model_patches.stream.state import Blend, StreamConfig
from .block import KEY, BlockInMaking, run_model, sample_block
from .file import expert_of
from .tree import why_not
from .weights import HostWeights


@dataclass(frozen=True, slots=True)
class HostState:
    """Where a stream stands; a block replaces it or leaves it as it was."""

    block: int  # blocks made so far
    start_frame: int  # first latent frame of the next block
    cache: Cache
    tail_BCTHW: Tensor  # the newest latents, in the VAE's units: as many as the model looks back on
    memory: Memory = NOTHING
    blend: Blend | None = None  # from one prompt to another, while it lasts


class HostStream:
    """One stream over a host model: the recipe, the guider, and the prompt's keys and values."""

    def __init__(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        config: StreamConfig,
        *,
        cache: CacheFormat = DENSE,
        memory: MemoryPolicy = OFF,
        batch: int = 1,
        noise: BlockNoise | None = None,
        like_host: bool = False,
    ) -> None:
        """model: a MODEL of the host, which stays as it is; positive, negative: CONDITIONING.

        config.dtype must be what the host runs the model in, see `dtype_of`. cache: how frames are kept.
        memory: what is remembered of those that left the window.
        like_host: angles of time and place are rounded as the host's own sampler rounds them, so that both
        can be compared bit by bit; with dense frames only.
        """
        refusal = why_not(model.get_model_object("diffusion_model")) or _why_not_options(model.model_options)
        if refusal:
            raise ValueError(refusal)
        if warning := expert_of(model):
            logging.getLogger(__name__).warning("Rivulet: %s", warning)
        if config.dtype != dtype_of(model):
            raise ValueError(
                f"Rivulet: the stream is to be in {config.dtype}, ComfyUI runs this model in "
                f"{dtype_of(model)}; give StreamConfig that dtype."
            )
        self.config, self.batch, self.like_host = config, batch, like_host
        self.format, self.policy = cache, memory
        self.noise = noise or KeyedNoise(config.seed)
        self.model = patched(model)
        self.guider = comfy.samplers.CFGGuider(self.model)
        self.positive, self.negative = positive, negative
        self.guider.set_conds(positive, negative)
        self.guider.set_cfg(config.cfg)
        always = self.model.model_options.get("disable_cfg1_optimization", False)
        self.branches = 2 if config.guided or always else 1
        self.texts: dict[tuple[int, ...], tuple[Tensor, TextRows]] = {}
        self.weights = HostWeights(adapted=bool(self.model.patches))

    def set_text(self, positive: Any, negative: Any) -> None:
        """Another prompt for the blocks that follow; what the stream remembers stays."""
        self.positive, self.negative = positive, negative
        self.guider.set_conds(positive, negative)
        self.texts.clear()

    @property
    def shape(self) -> CacheShape:
        """Sizes of what the stream remembers."""
        geometry, dit = self.config.geometry, self.model.get_model_object("diffusion_model")
        heads = dit.blocks[0].self_attn.num_heads
        rows = self.branches * self.batch
        sizes = (geometry.grid_height, geometry.grid_width, heads, dit.dim // heads)
        shape = CacheShape(len(dit.blocks), rows, *sizes, layout_of(dit))
        return room(self.policy, shape, self.config.positions, self.format.cost)

    def begin(self, reserve_frames: int = 0) -> HostState:
        """The state before the first block; its cache is allocated at once, beside the host's weights.

        reserve_frames: latent frames to make room for where the window has no end.
        """
        config = self.config
        frames = config.positions.capacity_frames or max(reserve_frames, config.block_frames)
        device = self._free_room(frames)
        dit = self.model.get_model_object("diffusion_model")
        cache = self.format.empty(dit, self.shape, frames, config.dtype, device)
        tail_BCTHW = torch.empty(config.geometry.latent_shape(0, self.batch))
        return HostState(0, 0, cache, tail_BCTHW, self.policy.start(self.shape))

    def restored(self, table: tuple[int, ...], rooms: Mapping[str, Tensor]) -> Cache:
        """The cache of an earlier run, of the same sizes, allocated as `begin` does."""
        device = self._free_room(len(table))
        dit = self.model.get_model_object("diffusion_model")
        there = {name: room.to(device) for name, room in rooms.items()}
        return self.format.restored(dit, self.shape, table, there, self.config.dtype, device)

    def _free_room(self, frames: int) -> torch.device:
        device = self.model.load_device
        shape, dit = self.shape, self.model.get_model_object("diffusion_model")
        if refusal := self.format.why_not(dit):
            raise ValueError(refusal)
        cost, sizes = self.format.cost, (shape, frames, self.config.dtype)
        comfy.model_management.free_memory(cost.kept_bytes(*sizes) + cost.workspace_bytes(*sizes), device)
        return device

    @torch.inference_mode()
    def step(self, state: HostState, begin: Begin | None = None) -> tuple[Tensor, HostState]:
        """(latents [B, C, T, H, W] of the next block in the VAE's units, float32; the state after it).

        begin: latents of the block's shape in the VAE's units to begin with, instead of noise alone. Whatever
        ends it early, an interruption in the middle of a layer too, `state` is as it was.
        """
        config, start, count = self.config, state.start_frame, self.config.block_frames
        if state.blend is not None:
            self._set_blended(state.blend.text()[0])
        call = call_of(config.positions, start, count)
        draft = state.cache.begin(call)
        making = BlockInMaking(
            self, draft, state.block, start, count, visible(self.policy, state.memory, call)
        )
        zeros = torch.zeros(config.geometry.latent_shape(count, self.batch))
        first = 0 if begin is None else begin.call
        noise = self.noise.draw(state.block, first, start, zeros)
        latents_BCTHW = self.sample(making, sample_block, noise, begin)
        making.refuse_nan(latents_BCTHW, *making.kept)
        memory, cache = self.leave(making, state.memory, draft.commit(call.kept + call.own), start + count)
        tail_BCTHW = torch.cat([state.tail_BCTHW.to(latents_BCTHW), latents_BCTHW], 2)
        tail_BCTHW = tail_BCTHW[:, :, -self.tail_frames :].clone()
        blend = state.blend and state.blend.next()
        return latents_BCTHW, HostState(state.block + 1, start + count, cache, tail_BCTHW, memory, blend)

    @torch.inference_mode()
    def leave(
        self, making: BlockInMaking, memory: Memory, whole: Cache, start_frame: int
    ) -> tuple[Memory, Cache]:
        """(memory, cache) before the block at `start_frame`: other frames are taken in and dropped.

        making: the pass that made `whole`; it refuses a memory with NaN as it does latents.
        """
        kept = call_of(self.config.positions, start_frame, self.config.block_frames).kept
        memory, cache = evict(self.policy, memory, whole, kept)
        making.refuse_nan(*memory.tensors().values())
        return memory, cache

    def _set_blended(self, text_BLE: Tensor) -> None:
        """The prompt for one block of a blend; what else comes with the new prompt goes with it."""
        self.guider.set_conds([[text_BLE, self.positive[0][1]]], self.negative)
        self.texts.clear()

    @property
    def tail_frames(self) -> int:
        """Latent frames of a state's tail, once so many were made."""
        positions = self.config.positions
        return positions.window_frames or positions.trained_frames

    def sample(
        self,
        making: BlockInMaking,
        function: Callable[..., Tensor],
        noise_BCTHW: Tensor,
        begin: Begin | None = None,
        **given: Any,
    ) -> Tensor:
        """What the host's sampling makes of the noise with this sampler function, in the VAE's units."""
        first = making.first = 0 if begin is None else begin.call
        clean_BCTHW = torch.zeros_like(noise_BCTHW) if begin is None else begin.clean_BCTHW.to(noise_BCTHW)
        options = self.guider.model_options.setdefault("transformer_options", {})
        options[KEY] = making
        try:
            return self.guider.sample(
                noise_BCTHW,
                clean_BCTHW,
                comfy.samplers.KSAMPLER(function, {"making": making, **given}),
                torch.tensor([*self.config.levels(making.start_frame, begin is not None)[first:], 0.0]),
                disable_pbar=True,
                seed=self.config.seed,
            )
        finally:
            options.pop(KEY, None)


def dtype_of(model: Any) -> torch.dtype:
    """What the host computes this model in; weights may be kept in another dtype."""
    return model.model.get_dtype_inference()


def patched(model: Any) -> Any:
    """A clone of the MODEL with our wrapper in it, once."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, run_model)
    return clone


def _why_not_options(options: dict[str, Any]) -> str | None:
    for key, what in (("context_handler", "Context Windows"), ("multigpu_clones", "multi-GPU")):
        if options.get(key):
            return f"Rivulet: the MODEL carries {what}, which cuts a clip its own way; take that node away."
    return None

"""A model of the host, called for a stream: one `guider.sample()` per pass, the engine's forward inside it.

B batch, C channels, T latent frames, H/W of the latent grid, L text tokens, E text_dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.latent_formats import Wan21
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...model_patches.attention.rope import layout_of
from ...model_patches.attention.sdpa import Attention
from ...model_patches.cache.shapes import CacheShape
from ...model_patches.stream.caller import Pass, Result
from ...model_patches.stream.card_memory import is_out_of_memory
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import same_length
from ...model_patches.stream.weights import Fingerprint
from ...model_patches.transfer import to_device
from ...model_patches.vae.wan import in_model_units, in_vae_units
from .block import KEY, HostPass, PassSampler, TextCache, run_model
from .file import expert_of
from .loaded import prepare_sampling
from .past import host_attention
from .tree import why_not
from .weights import HostWeights

log = logging.getLogger(__name__)
POSITIVE, NEGATIVE = "positive", "negative"
BEFORE_CALL = ("model_function_wrapper", "sampler_calc_cond_batch_function")  # may change what a call gets
ALL = 1e30  # bytes; what the host asks for where everything is to leave


@dataclass(frozen=True, slots=True, eq=False)
class HostPrompt:
    """CONDITIONING of the prompt, and of the negative one where the stream is guided."""

    positive: Any
    negative: Any = ()


class Unloading:
    """The host's callback of a model that leaves the device; what fails in it is logged.

    An error in the middle of the host's unloading would leave its list of models so that no later run could
    load one.
    """

    call: Callable[[], None] | None = None

    def __call__(self, patcher: Any, unpatch_all: bool) -> None:
        """unpatch_all: not where the model is only loaded anew."""
        if unpatch_all and self.call is not None:
            try:
                self.call()
            except Exception:
                log.exception("Rivulet: a stream could not follow its model off the card")


class HostCaller:
    """Runs a MODEL of the host for streams; it stays as it is, what is patched is a clone."""

    def __init__(self, model: Any, *, batch: int = 1, like_host: bool = False) -> None:
        """like_host: angles of time and place are rounded as the host's own sampler rounds them, so that both
        can be compared bit by bit; with dense frames only.
        """
        refusal = why_not(model.get_model_object("diffusion_model")) or _why_not_options(model.model_options)
        if refusal:
            raise ValueError(refusal)
        if warning := expert_of(model):
            log.warning("Rivulet: %s", warning)
        self.model = with_wrapper(model)
        self.dtype = dtype_of(model)
        self._batch, self._like_host = batch, like_host
        self._is_wan = type(model.model.latent_format) is Wan21
        self._guider = comfy.samplers.CFGGuider(self.model)
        self._texts = TextCache()
        self._weights = HostWeights(adapted=bool(self.model.patches))
        self._unloading = Unloading()
        self.model.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, self._unloading)

    @property
    def tree(self) -> Any:
        """The host's diffusion_model."""
        return self.model.get_model_object("diffusion_model")

    @property
    def attention(self) -> Attention:
        """The user's choice, as in the model's layers."""
        return host_attention(self.model.model_options.get("transformer_options", {}))

    @property
    def device(self) -> torch.device:
        return self.model.load_device

    def shape(self, prompt: HostPrompt, config: StreamConfig) -> CacheShape:
        self.check(prompt, config, self._batch)
        geometry, dit = config.geometry, self.tree
        heads = dit.blocks[0].self_attn.num_heads
        rows = self._branches(config) * self._batch
        sizes = (geometry.grid_height, geometry.grid_width, heads, dit.dim // heads)
        return CacheShape(len(dit.blocks), rows, *sizes, layout_of(dit))

    def batch(self, prompt: HostPrompt, config: StreamConfig) -> int:
        return self._batch

    def reserve(self, count: int) -> None:
        comfy.model_management.free_memory(count, self.device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return comfy.model_management.is_oom(error) or is_out_of_memory(error)

    @contextmanager
    def when_unloaded(self, call: Callable[[], None]) -> Iterator[None]:
        """By the host's callback of the patched clone; not where it only loads more or less of the model."""
        self._unloading.call = call
        try:
            yield
        finally:
            self._unloading.call = None

    def make_room(self, *, keep_model: bool) -> None:
        """Moves all models of the device away but this one, or this one too, with the texts made for it."""
        loaded, mine = comfy.model_management.current_loaded_models, self.model.model
        kept = [each for each in loaded if keep_model and getattr(each.model, "model", None) is mine]
        comfy.model_management.free_memory(ALL, self.device, keep_loaded=kept)
        if not keep_model:
            self._texts = TextCache()
        comfy.model_management.soft_empty_cache()

    def check(self, prompt: HostPrompt, config: StreamConfig, batch: int) -> None:
        if config.dtype != self.dtype:
            raise ValueError(
                f"Rivulet: the stream is to be in {config.dtype}, ComfyUI runs this model in {self.dtype}; "
                f"give StreamConfig that dtype."
            )
        assert batch == self._batch, f"a caller for {self._batch} streams, a state of {batch}"

    def blend(self, old: HostPrompt, new: HostPrompt, share: float) -> HostPrompt:
        """Blends the texts; everything else is the new prompt's."""
        texts = same_length(_text_of(old.positive), _text_of(new.positive))
        return HostPrompt([[torch.lerp(*texts, share), new.positive[0][1]]], new.negative)

    def dump(self, prompt: HostPrompt) -> Mapping[str, Tensor]:
        """Only the texts: the graph that resumes has the whole conditioning."""
        sides = {POSITIVE: prompt.positive, NEGATIVE: prompt.negative}
        return {name: conditioning[0][0] for name, conditioning in sides.items() if len(conditioning)}

    def load(self, parts: Mapping[str, Tensor]) -> HostPrompt:
        sides = ([[parts[name], {}]] if name in parts else [] for name in (POSITIVE, NEGATIVE))
        return HostPrompt(*sides)

    @torch.inference_mode()
    def run(self, work: Pass, prompt: HostPrompt, config: StreamConfig) -> Result:
        """All calls of the pass in one sampling, where the host has the weights loaded."""
        if prompt is not self._texts.prompt:
            self._guider.set_conds(self._placed(prompt.positive), self._placed(prompt.negative))
            self._texts = TextCache(prompt, _varies(self.model.model_options, prompt))
        self._guider.set_cfg(config.cfg)
        branches = self._branches(config)
        inside = HostPass(work, config, branches, self._texts, self._weights, self._like_host)
        batch, channels, frames, *grid = work.shape
        most = frames if work.joint is None else config.joint_frames
        nothing = torch.zeros((batch, channels, most, *grid), device=self.device)
        options = self._guider.model_options.setdefault("transformer_options", {})
        options[KEY] = inside
        try:
            sampler = PassSampler(inside)
            sigmas = to_device(torch.tensor([*inside.levels, 0.0]), self.device)
            self._guider.sample(nothing, nothing, sampler, sigmas, disable_pbar=True, seed=config.seed)
        finally:
            options.pop(KEY, None)
        assert inside.latents_BCTHW is not None
        return Result(inside.latents_BCTHW, tuple(inside.last), inside.under_way_BCTHW)

    def fingerprint(self, config: StreamConfig) -> Fingerprint | None:
        return self._weights.fingerprint

    def expect(self, made_with: Fingerprint, source: str, config: StreamConfig) -> None:
        """Compared in the first call, where the weights are loaded."""
        self._weights.expect(made_with, source)

    def to_vae(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents in the units of the VAE, float32, from the model's."""
        latents_BCTHW = latents_BCTHW.float()
        if self._is_wan:
            # the host's own would copy its numbers to the card and have the computer wait for them
            return in_vae_units(latents_BCTHW)
        return self.model.model.process_latent_out(latents_BCTHW)

    def from_vae(self, latents_BCTHW: Tensor) -> Tensor:
        """Latents in the model's units from the VAE's."""
        if self._is_wan:
            return in_model_units(latents_BCTHW)
        return self.model.model.process_latent_in(latents_BCTHW)

    def _placed(self, conditioning: Any) -> Any:
        """The conditioning with its texts as the model reads them, so that no call copies them."""
        return [
            [text if text is None else to_device(text, self.device, self.dtype), more]
            for text, more in conditioning
        ]

    def _branches(self, config: StreamConfig) -> int:
        always = self.model.model_options.get("disable_cfg1_optimization", False)
        return 2 if config.guided or always else 1


def dtype_of(model: Any) -> torch.dtype:
    """What the host computes this model in; weights may be kept in another dtype."""
    return model.model.get_dtype_inference()


def with_wrapper(model: Any) -> Any:
    """A clone of the MODEL with our wrappers in it, once."""
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    clone.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, run_model)
    clone.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, KEY)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, prepare_sampling)
    return clone


def _why_not_options(options: dict[str, Any]) -> str | None:
    for key, what in (("context_handler", "Context Windows"), ("multigpu_clones", "multi-GPU")):
        if options.get(key):
            return f"Rivulet: the MODEL carries {what}, which splits a clip in its own way; remove that node."
    return None


def _varies(options: dict[str, Any], prompt: HostPrompt) -> bool:
    """Whether a text, or the weights that read it (the host's hooks), may change from call to call."""
    hooked = any("hooks" in more for side in (prompt.positive, prompt.negative) for _, more in side)
    return hooked or any(options.get(name) for name in BEFORE_CALL)


def _text_of(conditioning: Any) -> Tensor:
    """[B, L, E] of a prompt; refused where it is several, which have no middle."""
    if len(conditioning) != 1:
        raise ValueError(
            f"Stream Video: a blend goes from one text to another, and this prompt is {len(conditioning)} "
            f"conditionings; encode a single prompt, without Conditioning (Combine) and prompt schedules."
        )
    return conditioning[0][0]

"""Who runs the model for one block: the only part of a stream that differs between engine and host.

B batch, C channels, T latent frames, H/W of the latent grid, R batch rows of a call, L tokens, N heads, D
head width. `model_caller.ModelCaller` calls a model that is there; inside ComfyUI the guider calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ..arch.tree import DiTTree
from ..attention.past import Past
from ..attention.sdpa import Attention
from ..cache.format import CacheFormat, Draft
from ..cache.shapes import CacheShape
from ..memory.policy import MemoryKeysValues
from ..sampler.denoise import InitLatents
from ..sampler.noise import BlockNoise
from .config import StreamConfig
from .weights import Fingerprint

Prompt: TypeAlias = Any  # what a caller makes of a text, and of a negative one; opaque to the stream


@dataclass(frozen=True, slots=True)
class Joint:
    """Blocks that are denoised together with a pass's own, the oldest of them; see `sampler.rolling`."""

    under_way_BCTHW: Tensor | None  # estimates of all but the newest, before this pass; None: there are none
    past: Callable[[int, slice], Past]  # (latent frames of a call, its batch rows) -> what it attends to


@dataclass(frozen=True, slots=True)
class Pass:
    """One block to be made; or, without sigmas, latents whose keys and values are to be left in the draft."""

    block: int
    start_frame: int  # latent frame of the scene
    format: CacheFormat  # of the draft
    draft: Draft  # takes the keys and values of the pass at timestep 0
    memory: MemoryKeysValues  # what the first call sees beside the frames, and what later ones see
    shape: tuple[int, int, int, int, int]  # [B, C, T, H, W] of the latents
    sigmas: tuple[float, ...] = ()  # falling noise levels, one per call
    noise: BlockNoise | None = None  # asked for where there are sigmas
    begin: InitLatents | None = None  # latents in the model's units to begin with, instead of noise alone
    clean_BCTHW: Tensor | None = None  # where there are no sigmas: the latents, in the model's units
    joint: Joint | None = None  # blocks that the noisy calls denoise besides


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass gives beside the draft's keys and values."""

    latents_BCTHW: Tensor  # clean, in the model's units, float32 or wider
    last_keys_values: tuple[
        Tensor, ...
    ]  # [R, L, N, D] of the last layer at timestep 0; NaN is looked for here
    under_way_BCTHW: Tensor | None = None  # estimates of the blocks that are denoised together with it


class Caller(Protocol):
    """Runs a model for streams; it holds nothing of a stream. A BaseException passes through it."""

    @property
    def tree(self) -> DiTTree:
        """The model's layers, for cache formats that derive something from the weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where caches and latents lie."""
        ...

    @property
    def attention(self) -> Attention:
        """What a memory's encoder attends with."""
        ...

    def shape(self, prompt: Prompt, config: StreamConfig) -> CacheShape:
        """Sizes of the cache of a stream. ValueError where model, prompt and config do not fit together."""
        ...

    def batch(self, prompt: Prompt, config: StreamConfig) -> int:
        """Streams that run side by side under this prompt."""
        ...

    def reserve(self, count: int) -> None:
        """Makes room for so many bytes on the device; a host moves other models away."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether the error says that the device is full."""
        ...

    def when_unloaded(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """While it is entered, `call` is called whenever a host has moved the whole model away."""
        ...

    def make_room(self, *, keep_model: bool) -> None:
        """Gives up all that is not in use on the device; a host moves all models away, this one only if it
        need not be kept, and brings it back for the next `run`.
        """
        ...

    def check(self, prompt: Prompt, config: StreamConfig, batch: int) -> None:
        """ValueError unless a stream of this config and batch can go on under the prompt."""
        ...

    def blend(self, old: Prompt, new: Prompt, share: float) -> Prompt:
        """The prompt that is `share` new and the rest old; ValueError where there is none in between."""
        ...

    def dump(self, prompt: Prompt) -> Mapping[str, Tensor]:
        """The prompt as named tensors, for a file."""
        ...

    def load(self, parts: Mapping[str, Tensor]) -> Prompt:
        """The prompt that `dump` took apart, on the device."""
        ...

    def run(self, work: Pass, prompt: Prompt, config: StreamConfig) -> Result:
        """Makes the block, or remembers the latents. Whatever ends it early, only the draft has changed."""
        ...

    def fingerprint(self, config: StreamConfig) -> Fingerprint | None:
        """Of all of the model's weights, see `arch.fingerprint`; None where they were not loaded yet."""
        ...

    def expect(self, made_with: Fingerprint, source: str, config: StreamConfig) -> None:
        """ValueError where the weights are not those that made the file `source`.

        At once; or, where a host loads weights only for a run, in the next `run`.
        """
        ...

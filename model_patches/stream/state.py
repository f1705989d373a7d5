"""The state of a stream: one frozen value that holds everything it needs to go on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..cache.format import Cache, CacheFormat
from ..memory.policy import Memory, MemoryPolicy
from ..vae.decoder import VaeBuffers
from .caller import Caller, Prompt
from .config import StreamConfig
from .ledger import FrameLedger


@dataclass(frozen=True, slots=True)
class Blend:
    """The prompt before, which turns into the state's prompt block by block."""

    old: Prompt
    blocks: int  # over which; in the last one the prompt is the new one
    done: int = 0  # blocks of them that were made

    @property
    def share(self) -> float:
        """Of the new prompt in the next block."""
        return (self.done + 1) / self.blocks

    def next(self) -> Blend | None:
        """The blend after one more block, None when it is over."""
        return None if self.done + 1 == self.blocks else replace(self, done=self.done + 1)


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands between two blocks; a step replaces it or leaves it as it was.

    Successive states share the bytes of their caches, whose slots are reused in place: the newest state is
    always whole; an older one can be read until the second block after it begins, and not after a recache.
    """

    config: StreamConfig
    format: CacheFormat  # of the cache
    policy: MemoryPolicy  # of the memory
    block: int  # blocks made so far
    start_frame: int  # first latent frame of the next block, counted in its scene
    cache: Cache
    memory: Memory
    prompt: Prompt  # of the blocks to come
    # the newest clean latents [B, C, T, H, W] of this scene in the model's units, T up to `kept_frames`
    tail_BCTHW: Tensor
    blend: Blend | None = None  # from an earlier prompt to `prompt`, while it lasts
    must_recache: bool = False  # the frames beside the sink are to be run again under the prompt
    shot: bool = False  # the scene's sink is frames of the last shot, run again before its first block
    past: VaeBuffers | None = None  # the decoder's; None: the next latent is a scene's first
    ledger: FrameLedger = field(default_factory=FrameLedger)
    text: str | None = None  # the prompt as it was typed; None: it was encoded elsewhere
    followed: bool = False  # the newest block began with an incoming video, which is not in here
    steered: bool = False  # the prompt that is due with the next block was gone over to already
    # estimates [B, C, T, H, W] of the blocks that are under way behind the newest one, the oldest first, in
    # the model's units; None: of none, at a scene's start or where a block is made by itself
    under_way_BCTHW: Tensor | None = None
    shrunk: str | None = (
        None  # from which format and block the cache went over to this one: the card was full
    )

    @property
    def given(self) -> int:
        """Latents of the scene that were there before its first block."""
        return self.config.positions.sink_frames if self.shot else self.ledger.given

    @torch.inference_mode()
    def to(self, device: torch.device) -> StreamState:
        """The state with its cache, memory and newest latents there, bit for bit; itself if they are.

        The cache is moved in place, and that of every other state of this stream with it. Prompts and the
        decoder's past stay. A step brings what was moved away back to its caller; until then the state can be
        saved and switched. Where it fails, the cache is where it was.
        """
        self.cache.move(device)
        tensors, under_way = self.memory.tensors(), self.under_way_BCTHW
        if all(tensor.device == device for tensor in (self.tail_BCTHW, *tensors.values())):
            return self
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        memory = self.policy.restore(moved, self.cache.shape)
        under_way = under_way if under_way is None else under_way.to(device)
        return replace(self, memory=memory, tail_BCTHW=self.tail_BCTHW.to(device), under_way_BCTHW=under_way)


def next_prompt(caller: Caller, state: StreamState) -> Prompt:
    """The prompt of the state's next block: in the middle of a blend, in between."""
    blend = state.blend
    if blend is None or blend.share == 1:
        return state.prompt
    return caller.blend(blend.old, state.prompt, blend.share)

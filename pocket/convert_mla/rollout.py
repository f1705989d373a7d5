"""A walk along clips, block by block: the dense model with its own past, the student beside it with its own.

R rows (clips), C latent channels, T latent frames, L text tokens, E text_dim. Both see the same latents: the
past of a block is the clips' own frames (teacher forcing), the block itself a clip's frames with noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model_patches.arch.parts import embed_time
from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.forward import forward, remember
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.attention.text import TextRows, TextState, read_text
from ...model_patches.cache.format import Call, call_of
from .trainable_context import Grid, Inputs, TaughtPast, attend, outputs_of


@dataclass(frozen=True, slots=True)
class Clips:
    """What one walk goes along."""

    clean_RCTHW: Tensor  # what noise is added to
    context_RCTHW: Tensor  # what the past is made of: the same, or worn as a long stream wears it
    texts: tuple[Tensor, ...]  # of each block, [R, L, E]
    sigmas: tuple[Tensor, ...]  # of each block, each row's share of noise [R]

    def to(self, device: torch.device) -> Clips:
        """The same on a device."""
        texts, sigmas = (tuple(t.to(device) for t in each) for each in (self.texts, self.sigmas))
        return Clips(self.clean_RCTHW.to(device), self.context_RCTHW.to(device), texts, sigmas)


@dataclass(frozen=True, slots=True)
class Seen:
    """The dense model at one block: what its attentions were given, and what they and it made of it."""

    pasts: tuple[TaughtPast, ...]  # of the noisy call, and of the clean one
    outputs: tuple[tuple[Tensor, ...], ...]  # of each, by layer; the clean call's last layer has none
    flow: Tensor
    noisy: Tensor
    time: tuple[Tensor, Tensor]  # of the noisy call, and of the clean one
    block: int
    call: Call


class Walker:
    """Walks a dense model and, where there is one, a student along clips."""

    def __init__(
        self, dense: WanModel, preset: PositionPreset, block_frames: int, attention: Attention = sdpa
    ) -> None:
        self.dense, self.preset, self.block_frames, self.attention = dense, preset, block_frames, attention

    def along(self, clips: Clips, generator: torch.Generator) -> Iterator[Seen]:
        """The dense model at each block; its past goes on when the next is asked for."""
        inputs = Inputs()
        for block in range(clips.clean_RCTHW.shape[2] // self.block_frames):
            seen = self._see(clips, block, inputs, generator)
            yield seen
            inputs.take(seen.call, seen.pasts[1].own, self.call(block + 1).kept)

    def flow(self, student: WanModel, seen: Seen, clips: Clips, inputs: Inputs) -> Tensor:
        """The student's flow for the block, over a past of its own."""
        text = read_rows(student, clips.texts[seen.block])
        return self.flow_at(student, seen.noisy, seen.time[0], text, inputs, seen.call)

    @torch.no_grad()
    def remember(self, student: WanModel, seen: Seen, clips: Clips, inputs: Inputs) -> None:
        """Take the block's clean frames into the student's past."""
        text = read_rows(student, clips.texts[seen.block])
        context = clips.context_RCTHW[:, :, self.frames(seen.block)].to(seen.noisy)
        self.take_in(student, context, text, inputs, seen.block)

    def flow_at(
        self,
        model: WanModel,
        noisy_RCTHW: Tensor,
        sigma_R1: Tensor,
        text: TextRows,
        inputs: Inputs,
        call: Call,
    ) -> Tensor:
        """A model's flow of latents with that share of noise, over a past of its own."""
        past = TaughtPast(model, inputs, call, grid_of(model, noisy_RCTHW))
        time = embed_time(model, 1000 * sigma_R1, noisy_RCTHW.dtype)
        return forward(model, noisy_RCTHW, time, text, past, self.attention)

    @torch.no_grad()
    def take_in(
        self, model: WanModel, clean_RCTHW: Tensor, text: TextRows, inputs: Inputs, block: int
    ) -> None:
        """Take a block's clean latents into a model's past."""
        call = self.call(block)
        past = TaughtPast(model, inputs, call, grid_of(model, clean_RCTHW))
        sigma_R1 = torch.zeros(len(clean_RCTHW), 1, device=clean_RCTHW.device)
        time = embed_time(model, sigma_R1, clean_RCTHW.dtype)
        remember(model, clean_RCTHW, time, text, past, self.attention)
        inputs.take(call, past.own, self.call(block + 1).kept)

    def attended(self, student: WanModel, seen: Seen) -> Iterator[tuple[Tensor, Tensor]]:
        """Layer by layer and call by call: what the student's attention makes of the dense model's inputs,
        and what the dense one made."""
        for past, outputs in zip(seen.pasts, seen.outputs, strict=True):
            for layer, wanted in enumerate(outputs):
                yield attend(student.blocks[layer].self_attn, past, layer, self.attention), wanted

    @torch.no_grad()
    def _see(self, clips: Clips, block: int, inputs: Inputs, generator: torch.Generator) -> Seen:
        dense, frames, call = self.dense, self.frames(block), self.call(block)
        clean = clips.clean_RCTHW[:, :, frames]
        dtype = dense.patch_embedding.weight.dtype
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        sigma = clips.sigmas[block][:, None, None, None, None].to(clean)
        noisy = ((1 - sigma) * clean + sigma * noise).to(dtype)
        times = (sigma[:, :, 0, 0, 0], torch.zeros_like(sigma[:, :, 0, 0, 0]))
        text = read_rows(dense, clips.texts[block])
        pasts = tuple(TaughtPast(dense, inputs, call, grid_of(dense, noisy)) for _ in times)
        vectors = [embed_time(dense, 1000 * time, dtype) for time in times]
        with outputs_of(dense) as outputs:
            flow = forward(dense, noisy, vectors[0], text, pasts[0], self.attention)
            at_noise = tuple(outputs)
            outputs.clear()
            context = clips.context_RCTHW[:, :, frames].to(dtype)
            remember(dense, context, vectors[1], text, pasts[1], self.attention)
            at_clean = tuple(outputs)
        return Seen(pasts, (at_noise, at_clean), flow, noisy, times, block, call)

    def frames(self, block: int) -> slice:
        """A block's latent frames."""
        return slice(block * self.block_frames, (block + 1) * self.block_frames)

    def call(self, block: int) -> Call:
        """What a block's calls keep and where they stand."""
        return call_of(self.preset, self.frames(block).start, self.block_frames)


def grid_of(model: WanModel, latents_RCTHW: Tensor) -> Grid:
    """Where the tokens of latents stand."""
    _, down, across = model.patch_size
    rows, columns = latents_RCTHW.shape[-2] // down, latents_RCTHW.shape[-1] // across
    return Grid(rows, columns, model.config.head_dim, latents_RCTHW.device)


def read_rows(dit: WanModel, text_RLE: Tensor) -> TextRows:
    """Keys and values of one text a row."""
    state: TextState = read_text.__wrapped__(dit, (text_RLE,))  # outside inference mode: for training
    return state.groups[0]


def relative(made: Tensor, wanted: Tensor) -> Tensor:
    """Squared error as a share of what was wanted."""
    made, wanted = made.float(), wanted.float()
    return (made - wanted).square().mean() / wanted.square().mean()


def chance(generator: torch.Generator) -> float:
    """A number between 0 and 1."""
    return float(torch.rand((), generator=generator))


def joined(blocks: Sequence[Tensor]) -> Tensor:
    """A stream's blocks [R, C, T, H, W] as one clip that gradients may pass beside: no inference tensor."""
    with torch.inference_mode():
        clip = torch.cat(list(blocks), 2)
    return clip.clone()

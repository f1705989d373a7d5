"""A rollout along clips, block by block: the dense model and the student side by side, each with its context.

R rows (clips), C latent channels, T latent frames, L text tokens, E text_dim. Both see the same latents: the
context of a block is the clips' frames before it (teacher forcing), the block itself its frames with noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model_patches.arch.parts import embed_time
from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.forward import forward, write_past
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.attention.text import TextRows, TextState, read_text
from ...model_patches.cache.format import Call, call_of
from .trainable_context import ContextInputs, Grid, TrainableContext, record_outputs, run_attention


@dataclass(frozen=True, slots=True)
class RolloutClips:
    """What one rollout goes along."""

    clean_RCTHW: Tensor  # what noise is added to
    context_RCTHW: Tensor  # what the context is made of: the same, or corrupted as a long stream is
    texts: tuple[Tensor, ...]  # of each block, [R, L, E]
    sigmas: tuple[Tensor, ...]  # of each block, each row's share of noise [R]

    def to(self, device: torch.device) -> RolloutClips:
        """The same on a device."""
        texts, sigmas = (tuple(t.to(device) for t in each) for each in (self.texts, self.sigmas))
        return RolloutClips(self.clean_RCTHW.to(device), self.context_RCTHW.to(device), texts, sigmas)


@dataclass(frozen=True, slots=True)
class Reference:
    """The dense model at one block: the inputs of its attentions, their outputs and its flow."""

    contexts: tuple[TrainableContext, ...]  # of the noisy call, and of the clean one
    outputs: tuple[tuple[Tensor, ...], ...]  # of each, by layer; the clean call's last layer has none
    flow: Tensor
    noisy: Tensor
    time: tuple[Tensor, Tensor]  # of the noisy call, and of the clean one
    block: int
    call: Call


class PairedRollout:
    """Runs a dense model and, where there is one, a student along clips."""

    def __init__(
        self, dense: WanModel, preset: PositionPreset, block_frames: int, attention: Attention = sdpa
    ) -> None:
        self.dense, self.preset, self.block_frames, self.attention = dense, preset, block_frames, attention

    def blocks(self, clips: RolloutClips, generator: torch.Generator) -> Iterator[Reference]:
        """The dense model at each block; its context is extended when the next is asked for."""
        inputs = ContextInputs()
        for block in range(clips.clean_RCTHW.shape[2] // self.block_frames):
            reference = self._run_dense(clips, block, inputs, generator)
            yield reference
            inputs.append(reference.call, reference.contexts[1].projected, self.call(block + 1).cached)

    def student_flow(
        self, student: WanModel, reference: Reference, clips: RolloutClips, inputs: ContextInputs
    ) -> Tensor:
        """The student's flow for the block, over its own context."""
        text = read_text_rows(student, clips.texts[reference.block])
        return self.flow_at(student, reference.noisy, reference.time[0], text, inputs, reference.call)

    @torch.no_grad()
    def append_block(
        self, student: WanModel, reference: Reference, clips: RolloutClips, inputs: ContextInputs
    ) -> None:
        """Add the block's clean frames to the student's context."""
        text = read_text_rows(student, clips.texts[reference.block])
        context = clips.context_RCTHW[:, :, self.frames(reference.block)].to(reference.noisy)
        self.append_clean(student, context, text, inputs, reference.block)

    def flow_at(
        self,
        model: WanModel,
        noisy_RCTHW: Tensor,
        sigma_R1: Tensor,
        text: TextRows,
        inputs: ContextInputs,
        call: Call,
    ) -> Tensor:
        """A model's flow of latents with that share of noise, over the context of these inputs."""
        context = TrainableContext(model, inputs, call, token_grid(model, noisy_RCTHW))
        time = embed_time(model, 1000 * sigma_R1, noisy_RCTHW.dtype)
        return forward(model, noisy_RCTHW, time, text, context, self.attention)

    @torch.no_grad()
    def append_clean(
        self, model: WanModel, clean_RCTHW: Tensor, text: TextRows, inputs: ContextInputs, block: int
    ) -> None:
        """Add a block's clean latents to a model's context."""
        call = self.call(block)
        context = TrainableContext(model, inputs, call, token_grid(model, clean_RCTHW))
        sigma_R1 = torch.zeros(len(clean_RCTHW), 1, device=clean_RCTHW.device)
        time = embed_time(model, sigma_R1, clean_RCTHW.dtype)
        write_past(model, clean_RCTHW, time, text, context, self.attention)
        inputs.append(call, context.projected, self.call(block + 1).cached)

    def attention_outputs(self, student: WanModel, reference: Reference) -> Iterator[tuple[Tensor, Tensor]]:
        """(student's output, dense model's output) of each self-attention on the dense model's inputs.

        By call, the noisy one first, then by layer.
        """
        for context, outputs in zip(reference.contexts, reference.outputs, strict=True):
            for layer, wanted in enumerate(outputs):
                yield run_attention(student.blocks[layer].self_attn, context, layer, self.attention), wanted

    @torch.no_grad()
    def _run_dense(
        self, clips: RolloutClips, block: int, inputs: ContextInputs, generator: torch.Generator
    ) -> Reference:
        dense, frames, call = self.dense, self.frames(block), self.call(block)
        clean = clips.clean_RCTHW[:, :, frames]
        dtype = dense.patch_embedding.weight.dtype
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        sigma = clips.sigmas[block][:, None, None, None, None].to(clean)
        noisy = ((1 - sigma) * clean + sigma * noise).to(dtype)
        times = (sigma[:, :, 0, 0, 0], torch.zeros_like(sigma[:, :, 0, 0, 0]))
        text = read_text_rows(dense, clips.texts[block])
        contexts = tuple(TrainableContext(dense, inputs, call, token_grid(dense, noisy)) for _ in times)
        vectors = [embed_time(dense, 1000 * time, dtype) for time in times]
        with record_outputs(dense) as outputs:
            flow = forward(dense, noisy, vectors[0], text, contexts[0], self.attention)
            at_noise = tuple(outputs)
            outputs.clear()
            context = clips.context_RCTHW[:, :, frames].to(dtype)
            write_past(dense, context, vectors[1], text, contexts[1], self.attention)
            at_clean = tuple(outputs)
        return Reference(contexts, (at_noise, at_clean), flow, noisy, times, block, call)

    def frames(self, block: int) -> slice:
        """A block's latent frames."""
        return slice(block * self.block_frames, (block + 1) * self.block_frames)

    def call(self, block: int) -> Call:
        """What a block's calls keep and where they stand."""
        return call_of(self.preset, self.frames(block).start, self.block_frames)


def token_grid(model: WanModel, latents_RCTHW: Tensor) -> Grid:
    """Where the tokens of latents stand."""
    _, down, across = model.patch_size
    rows, columns = latents_RCTHW.shape[-2] // down, latents_RCTHW.shape[-1] // across
    return Grid(rows, columns, model.config.head_dim, latents_RCTHW.device)


def read_text_rows(dit: WanModel, text_RLE: Tensor) -> TextRows:
    """Keys and values of one text a row."""
    state: TextState = read_text.__wrapped__(dit, (text_RLE,))  # outside inference mode: for training
    return state.groups[0]


def relative_error(output: Tensor, wanted: Tensor) -> Tensor:
    """Squared error as a share of what was wanted."""
    output, wanted = output.float(), wanted.float()
    return (output - wanted).square().mean() / wanted.square().mean()


def uniform(generator: torch.Generator) -> float:
    """A number between 0 and 1."""
    return float(torch.rand((), generator=generator))


def concat_blocks(blocks: Sequence[Tensor]) -> Tensor:
    """A stream's blocks [R, C, T, H, W] as one clip that gradients may pass beside: no inference tensor."""
    with torch.inference_mode():
        clip = torch.cat(list(blocks), 2)
    return clip.clone()

"""A rollout along clips with a memory, block by block, in the order a stream makes its calls.

Each block: frames that leave the window are read into the memory's state; noisy calls are graded where the
lesson says so; one clean pass leaves the block's keys and values. The first noisy call of a block still sees
the state before that update (and none if there was none), later calls and the clean pass the one after it
(Echo-Infinity, arXiv 2606.04527; the same order as `model_patches.stream`). R rows (clips), C latent
channels, T latent frames, L text tokens, E text width, M memory tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...model_patches.arch.parts import embed_time, project_kv
from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.forward import forward, write_past
from ...model_patches.attention.positions import PositionPreset, plan
from ...model_patches.attention.sdpa import Attention
from ...model_patches.cache.format import Call, call_of
from ...model_patches.memory.encoder import MemoryEncoder
from ...model_patches.sampler.noise import KeyedNoise
from ...model_patches.stream.config import StreamConfig
from ..convert_mla.rollout import read_text_rows
from ..convert_mla.student_states import grade_sampling
from ..convert_mla.trainable_context import Grid
from .memory_context import FrameCache, FrameTokens, MemoryContext, unfused_sdpa

STATE_WEIGHT = 0.1  # of a student's relative error in the memory's state, beside that of its flow


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one rollout goes along, and where it is graded."""

    clean_RCTHW: Tensor  # what noise is added to
    context_RCTHW: Tensor  # what the context is made of
    texts: tuple[Tensor, ...]  # of each block, [R, L, E]
    graded: tuple[tuple[int, Tensor], ...]  # block, and each row's share of noise [R]; 1 is a first call
    positions: PositionPreset  # its memory frames say whether there is a memory
    unchanged: PositionPreset | None = None  # of the model before training, whose flow is wanted then
    sampled: bool = False  # graded where the model's own sampler leads; rows: prompts, then negatives


@dataclass(slots=True)
class MemoryStates:
    """The memory before and after a block's update; None before anything was read into it."""

    before: Tensor | None = None  # [R, M, C]
    after: Tensor | None = None

    def visible(self, first_R: Tensor) -> Tensor | None:
        """The state each row's noisy call sees."""
        if self.before is not None and self.after is not None:
            return torch.where(first_R[:, None, None].to(self.after.device), self.before, self.after)
        if self.after is None or not bool(first_R.any()):
            return self.after
        if not bool(first_R.all()):
            raise ValueError(
                "Lesson: in the block of the first update some rows make their first call, which sees no "
                "memory, and others a later one; give all rows a share of noise of 1, or none."
            )
        return None


@dataclass(slots=True)
class BlockInputs:
    """What a block starts from."""

    call: Call
    cache: FrameCache
    states: MemoryStates

    def snapshot(self) -> BlockInputs:
        """The same when frames have left the cache since: a call may be repeated later."""
        return BlockInputs(self.call, FrameCache(dict(self.cache.frames)), self.states)


class MemoryRollout:
    """Runs a model and its memory along lessons; gradients reach what made the graded calls.

    teacher: whose flow for the same call, over a context and a memory of its own, is wanted in place of the
    clip's; nothing of it is trained. unchanged: the dense model before training, for lessons that hold the
    model to it; without one they are graded as all others. attention: what runs it. recompute: graded calls
    run a second time for their gradients, so that the activations of one call at most lie in memory.
    sampler: how the model's streams are run, for lessons that are graded where that leads.
    """

    def __init__(
        self,
        dit: WanModel,
        encoder: MemoryEncoder,
        block_frames: int,
        teacher: MemoryRollout | None = None,
        unchanged: MemoryRollout | None = None,
        attention: Attention = unfused_sdpa,
        recompute: bool = False,
        sampler: StreamConfig | None = None,
    ) -> None:
        self.dit, self.encoder, self.block_frames = dit, encoder, block_frames
        self.teacher, self.unchanged, self.attention = teacher, unchanged, attention
        self.recompute, self.sampler = recompute, sampler

    def grade_lesson(self, lesson: Lesson, generator: torch.Generator) -> list[tuple[int, Tensor, Tensor]]:
        """(block, squared error of the flow [R], the rows' noise levels [R]) of every graded call."""
        count = max(block for block, _ in lesson.graded) + 1
        target, its_lesson = self._target(lesson)
        its_blocks = target.blocks(its_lesson, count) if target else repeat(None, count)
        results: list[tuple[int, Tensor, Tensor]] = []
        for block, (inputs, its_inputs) in enumerate(
            zip(self.blocks(lesson, count), its_blocks, strict=True)
        ):
            for at, sigma_R in lesson.graded:
                if at != block:
                    continue
                if lesson.sampled and target is not None and its_inputs is not None:
                    keyed = KeyedNoise(int(torch.randint(1 << 30, (), generator=generator)))
                    error_R = self.grade_sampled(lesson, inputs, keyed, target, its_inputs)
                    error_R = error_R.expand(len(sigma_R))
                else:
                    clean = lesson.clean_RCTHW[:, :, inputs.call.new]
                    noise = torch.randn(clean.shape, generator=generator).to(clean)
                    error_R = self.grade(lesson, inputs, sigma_R, noise, target, its_inputs)
                results.append((block, error_R, sigma_R))
        return results

    def blocks(self, lesson: Lesson, count: int) -> Iterator[BlockInputs]:
        """What each block starts from; its clean pass is made when the next one is asked for."""
        cache, states = FrameCache(), MemoryStates()
        for block in range(count):
            call = call_of(lesson.positions, block * self.block_frames, self.block_frames)
            states = self._update(lesson, states, cache.evict(call.cached))
            inputs = BlockInputs(call, cache, states)
            yield inputs
            if block + 1 < count:
                self.append_block(lesson, inputs)

    def grade(
        self,
        lesson: Lesson,
        inputs: BlockInputs,
        sigma_R: Tensor,
        noise: Tensor,
        target: MemoryRollout | None = None,
        its_inputs: BlockInputs | None = None,
    ) -> Tensor:
        """Squared error of the flow of each row [R].

        target: whose flow is wanted, from its inputs; a memory of its own is to be matched too.
        """
        clean = lesson.clean_RCTHW[:, :, inputs.call.new]
        sigma, first_R = sigma_R[:, None, None, None, None].to(clean), sigma_R == 1
        noisy, wanted = (1 - sigma) * clean + sigma * noise, noise - clean
        state, state_error_R = inputs.states.visible(first_R), torch.zeros(len(clean))
        if target is not None and its_inputs is not None:
            with torch.no_grad():
                its_state = its_inputs.states.visible(first_R)
                wanted = target.flow(lesson, its_inputs, its_state, noisy, sigma_R).float()
            if state is not None and its_state is not None:
                square = (state - its_state).float().square().mean((1, 2))
                state_error_R = STATE_WEIGHT * square / its_state.float().square().mean((1, 2))
        if self.recompute:
            arguments = lesson, inputs.snapshot(), state, noisy, sigma_R
            flow = checkpoint(self.flow, *arguments, use_reentrant=False)
        else:
            flow = self.flow(lesson, inputs, state, noisy, sigma_R)
        return (flow.float() - wanted).square().mean((1, 2, 3, 4)) + state_error_R.to(clean.device)

    def grade_sampled(
        self,
        lesson: Lesson,
        inputs: BlockInputs,
        noise: KeyedNoise,
        target: MemoryRollout,
        its_inputs: BlockInputs,
    ) -> Tensor:
        """Weighed relative error of the flows at the states to which the model's own sampler leads.

        See `convert_mla.student_states`; the latents that are made of the block are not gone on from.
        """
        assert self.sampler is not None, "a sampled lesson needs to know how"
        rows, errors = len(lesson.clean_RCTHW), []
        streams = rows // 2 if self.sampler.guided else rows

        def flows(x_RCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            sigma_R = torch.full((rows,), sigma)
            with torch.no_grad():
                its_state = its_inputs.states.visible(sigma_R == 1)
                wanted = target.flow(lesson, its_inputs, its_state, x_RCTHW, sigma_R)
            return self.flow(lesson, inputs, inputs.states.visible(sigma_R == 1), x_RCTHW, sigma_R), wanted

        like = torch.empty_like(lesson.clean_RCTHW[:streams, :, inputs.call.new])
        block = inputs.call.new[0] // self.block_frames
        grade_sampling(self.sampler, noise, block, like, rows, flows, errors.append)
        return torch.stack(errors).sum()

    def _target(self, lesson: Lesson) -> tuple[MemoryRollout | None, Lesson]:
        """Whose flow is wanted in place of the clip's, and the lesson as that one runs it."""
        if self.unchanged is not None and lesson.unchanged is not None:
            return self.unchanged, replace(lesson, positions=lesson.unchanged)
        return self.teacher, lesson

    def flow(
        self,
        lesson: Lesson,
        inputs: BlockInputs,
        state_RMC: Tensor | None,
        noisy_RCTHW: Tensor,
        sigma_R: Tensor,
    ) -> Tensor:
        """Flow of a noisy call that sees this state of the memory."""
        context = self._context(lesson, inputs, state_RMC, trainable=torch.is_grad_enabled())
        noisy = noisy_RCTHW.to(self.dit.patch_embedding.weight.dtype)
        time = embed_time(self.dit, 1000 * sigma_R[:, None].to(noisy.device), noisy.dtype)
        text = read_text_rows(self.dit, self._text(lesson, inputs.call))
        return forward(self.dit, noisy, time, text, context, self.attention)

    @torch.no_grad()
    def append_block(self, lesson: Lesson, inputs: BlockInputs) -> None:
        """The clean pass of a block, whose frames go into the cache."""
        call = inputs.call
        context = self._context(lesson, inputs, inputs.states.after)
        clean = lesson.context_RCTHW[:, :, call.new].to(self.dit.patch_embedding.weight.dtype)
        time = embed_time(self.dit, torch.zeros(len(clean), 1, device=clean.device), clean.dtype)
        text = read_text_rows(self.dit, self._text(lesson, call))
        write_past(self.dit, clean, time, text, context, self.attention)
        inputs.cache.append(call.new, context.by_layer)

    def _update(self, lesson: Lesson, states: MemoryStates, evicted: FrameTokens | None) -> MemoryStates:
        """The states of the block before which these frames left the window.

        A student's keys and values are projected anew, so that it learns to write what the encoder can read.
        """
        state = states.after
        if evicted is None or not lesson.positions.memory_frames:
            return MemoryStates(state, state)
        start = self.encoder.fresh(len(lesson.clean_RCTHW)) if state is None else state
        pair = evicted.k, evicted.v
        if self.teacher is not None:
            pair = project_kv(self.dit.blocks[-1].self_attn, evicted.x)
        return MemoryStates(state, self.encoder.update(start, *pair, self.attention))

    def _text(self, lesson: Lesson, call: Call) -> Tensor:
        return lesson.texts[call.new[0] // self.block_frames].to(self.dit.patch_embedding.weight.dtype)

    def _context(
        self, lesson: Lesson, inputs: BlockInputs, state_RMC: Tensor | None, trainable: bool = False
    ) -> MemoryContext:
        call, config, device = inputs.call, self.encoder.config, lesson.clean_RCTHW.device
        grid = Grid(config.grid_height, config.grid_width, config.dim // config.num_heads, device)
        if state_RMC is None:
            return MemoryContext(self.dit, inputs.cache, call, grid, trainable=trainable)
        ids = plan(lesson.positions, call.new[0], self.block_frames, memory_visible=True).memory
        memory = self.encoder.read(state_RMC)
        return MemoryContext(self.dit, inputs.cache, call, grid, memory, ids, trainable)

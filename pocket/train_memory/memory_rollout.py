"""A walk along clips with a memory, block by block, in the order a stream makes its calls.

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
from ...model_patches.attention.forward import forward, remember
from ...model_patches.attention.positions import PositionPreset, plan
from ...model_patches.attention.sdpa import Attention
from ...model_patches.cache.format import Call, call_of
from ...model_patches.memory.encoder import MemoryEncoder
from ...model_patches.sampler.noise import KeyedNoise
from ...model_patches.stream.state import StreamConfig
from ..convert_mla.rollout import read_rows
from ..convert_mla.student_states import sampled
from ..convert_mla.trainable_context import Grid
from .memory_context import Kept, Tokens, WalkPast, written_out

STATE_WEIGHT = 0.1  # of a pupil's relative error in the memory's state, beside that of its flow


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one walk goes along, and where it is graded."""

    clean_RCTHW: Tensor  # what noise is added to
    context_RCTHW: Tensor  # what the past is made of
    texts: tuple[Tensor, ...]  # of each block, [R, L, E]
    graded: tuple[tuple[int, Tensor], ...]  # block, and each row's share of noise [R]; 1 is a first call
    positions: PositionPreset  # its memory frames say whether there is a memory
    kept: PositionPreset | None = None  # of the model as it was: its flow is wanted, not the clip's
    sampled: bool = False  # graded where the model's own sampler leads; rows: prompts, then negatives


@dataclass(slots=True)
class States:
    """The memory as a block finds it and as it leaves it; None before anything was read into it."""

    before: Tensor | None = None  # [R, M, C]
    after: Tensor | None = None

    def seen(self, first_R: Tensor) -> Tensor | None:
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
class Found:
    """What a block finds before it."""

    call: Call
    kept: Kept
    states: States

    def at_call(self) -> Found:
        """The same when frames have left since: a call may be made again later."""
        return Found(self.call, Kept(dict(self.kept.frames)), self.states)


class MemoryWalker:
    """Walks a model and its memory along lessons; gradients reach what made the graded calls.

    teacher: whose flow for the same call, over a past and a memory of its own, is wanted in place of the
    clip's; nothing of it is trained. before: the dense model as it was, for lessons that are to keep it so;
    without one they are graded as all others. attention: what runs it. again: graded calls are made a second
    time for their gradients, so that the activations of one call at most lie in memory.
    sampler: how the model's streams are run, for lessons that are graded where that leads.
    """

    def __init__(
        self,
        dit: WanModel,
        encoder: MemoryEncoder,
        block_frames: int,
        teacher: MemoryWalker | None = None,
        before: MemoryWalker | None = None,
        attention: Attention = written_out,
        again: bool = False,
        sampler: StreamConfig | None = None,
    ) -> None:
        self.dit, self.encoder, self.block_frames = dit, encoder, block_frames
        self.teacher, self.before, self.attention, self.again = teacher, before, attention, again
        self.sampler = sampler

    def along(self, lesson: Lesson, generator: torch.Generator) -> list[tuple[int, Tensor, Tensor]]:
        """(block, squared error of the flow [R], the rows' noise levels [R]) of every graded call."""
        blocks = max(block for block, _ in lesson.graded) + 1
        asked, lesson_there = self._asked(lesson)
        others = asked.blocks(lesson_there, blocks) if asked else repeat(None, blocks)
        results: list[tuple[int, Tensor, Tensor]] = []
        for block, (found, other) in enumerate(zip(self.blocks(lesson, blocks), others, strict=True)):
            for at, sigma_R in lesson.graded:
                if at != block:
                    continue
                if lesson.sampled and asked is not None and other is not None:
                    keyed = KeyedNoise(int(torch.randint(1 << 30, (), generator=generator)))
                    error_R = self.grade_sampled(lesson, found, keyed, asked, other).expand(len(sigma_R))
                else:
                    clean = lesson.clean_RCTHW[:, :, found.call.own]
                    noise = torch.randn(clean.shape, generator=generator).to(clean)
                    error_R = self.grade(lesson, found, sigma_R, noise, asked, other)
                results.append((block, error_R, sigma_R))
        return results

    def blocks(self, lesson: Lesson, count: int) -> Iterator[Found]:
        """What each block finds; its clean pass is made when the next one is asked for."""
        kept, states = Kept(), States()
        for block in range(count):
            call = call_of(lesson.positions, block * self.block_frames, self.block_frames)
            states = self._updated(lesson, states, kept.leave(call.kept))
            found = Found(call, kept, states)
            yield found
            if block + 1 < count:
                self.remember(lesson, found)

    def grade(
        self,
        lesson: Lesson,
        found: Found,
        sigma_R: Tensor,
        noise: Tensor,
        asked: MemoryWalker | None = None,
        other: Found | None = None,
    ) -> Tensor:
        """Squared error of the flow of each row [R].

        asked: who says what is wanted, and other: what it finds; a memory of its own is to be copied too.
        """
        clean = lesson.clean_RCTHW[:, :, found.call.own]
        sigma, first_R = sigma_R[:, None, None, None, None].to(clean), sigma_R == 1
        noisy, wanted = (1 - sigma) * clean + sigma * noise, noise - clean
        seen, apart_R = found.states.seen(first_R), torch.zeros(len(clean))
        if asked is not None and other is not None:
            with torch.no_grad():
                state = other.states.seen(first_R)
                wanted = asked.flow(lesson, other, state, noisy, sigma_R).float()
            if seen is not None and state is not None:
                square = (seen - state).float().square().mean((1, 2))
                apart_R = STATE_WEIGHT * square / state.float().square().mean((1, 2))
        if self.again:
            given = lesson, found.at_call(), seen, noisy, sigma_R
            flow = checkpoint(self.flow, *given, use_reentrant=False)
        else:
            flow = self.flow(lesson, found, seen, noisy, sigma_R)
        return (flow.float() - wanted).square().mean((1, 2, 3, 4)) + apart_R.to(clean.device)

    def grade_sampled(
        self, lesson: Lesson, found: Found, noise: KeyedNoise, asked: MemoryWalker, other: Found
    ) -> Tensor:
        """Weighed relative error of the flows at the states to which the model's own sampler comes.

        See `convert.sampled`; the latents that are made of the block are not gone on from.
        """
        assert self.sampler is not None, "a sampled lesson needs to know how"
        rows, errors = len(lesson.clean_RCTHW), []
        streams = rows // 2 if self.sampler.guided else rows

        def flows(x_RCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            sigma_R = torch.full((rows,), sigma)
            with torch.no_grad():
                wanted = asked.flow(lesson, other, other.states.seen(sigma_R == 1), x_RCTHW, sigma_R)
            return self.flow(lesson, found, found.states.seen(sigma_R == 1), x_RCTHW, sigma_R), wanted

        like = torch.empty_like(lesson.clean_RCTHW[:streams, :, found.call.own])
        block = found.call.own[0] // self.block_frames
        sampled(self.sampler, noise, block, like, rows, flows, errors.append)
        return torch.stack(errors).sum()

    def _asked(self, lesson: Lesson) -> tuple[MemoryWalker | None, Lesson]:
        """Who says what is wanted in place of the clip's flow, and the lesson as that one sees it."""
        if self.before is not None and lesson.kept is not None:
            return self.before, replace(lesson, positions=lesson.kept)
        return self.teacher, lesson

    def flow(
        self,
        lesson: Lesson,
        found: Found,
        state_RMC: Tensor | None,
        noisy_RCTHW: Tensor,
        sigma_R: Tensor,
    ) -> Tensor:
        """Flow of a noisy call that sees the given state."""
        past = self._past(lesson, found, state_RMC, taught=torch.is_grad_enabled())
        noisy = noisy_RCTHW.to(self.dit.patch_embedding.weight.dtype)
        time = embed_time(self.dit, 1000 * sigma_R[:, None].to(noisy.device), noisy.dtype)
        text = read_rows(self.dit, self._text(lesson, found.call))
        return forward(self.dit, noisy, time, text, past, self.attention)

    @torch.no_grad()
    def remember(self, lesson: Lesson, found: Found) -> None:
        """The clean pass of a block."""
        call = found.call
        past = self._past(lesson, found, found.states.after)
        context = lesson.context_RCTHW[:, :, call.own].to(self.dit.patch_embedding.weight.dtype)
        time = embed_time(self.dit, torch.zeros(len(context), 1, device=context.device), context.dtype)
        text = read_rows(self.dit, self._text(lesson, call))
        remember(self.dit, context, time, text, past, self.attention)
        found.kept.take(call.own, past.made)

    def _updated(self, lesson: Lesson, states: States, evicted: Tokens | None) -> States:
        """The states of the block that finds these frames gone from its window.

        A pupil's keys and values are made anew, so that it learns to write what the encoder can read.
        """
        state = states.after
        if evicted is None or not lesson.positions.memory_frames:
            return States(state, state)
        start = self.encoder.fresh(len(lesson.clean_RCTHW)) if state is None else state
        pair = evicted.k, evicted.v
        if self.teacher is not None:
            pair = project_kv(self.dit.blocks[-1].self_attn, evicted.x)
        return States(state, self.encoder.update(start, *pair, self.attention))

    def _text(self, lesson: Lesson, call: Call) -> Tensor:
        return lesson.texts[call.own[0] // self.block_frames].to(self.dit.patch_embedding.weight.dtype)

    def _past(self, lesson: Lesson, found: Found, state_RMC: Tensor | None, taught: bool = False) -> WalkPast:
        kept, call = found.kept, found.call
        config, device = self.encoder.config, lesson.clean_RCTHW.device
        head_dim = config.dim // config.num_heads
        grid = Grid(config.grid_height, config.grid_width, head_dim, device)
        if state_RMC is None:
            return WalkPast(self.dit, kept, call, grid, taught=taught)
        ids = plan(lesson.positions, call.own[0], self.block_frames, memory_visible=True).memory
        return WalkPast(self.dit, kept, call, grid, self.encoder.read(state_RMC), ids, taught)

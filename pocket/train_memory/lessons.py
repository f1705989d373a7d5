"""Lessons for the memory: stories of hiding with it and without, ordinary clips, streams' first blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...model_patches.attention.positions import PositionPreset
from ...model_patches.attention.positions import preset as preset_of
from ...model_patches.vae.wan import WanVAE
from .. import text
from ..convert_mla.clip_sources import PocketClips
from ..convert_mla.rollout import RolloutClips
from ..convert_mla.student_rollouts import UNPROMPTED_SHARE
from ..hiding import LIFTED, HidingClips, Story, draw
from ..train_pocket.clips import FIRST_BATCH, PairedClips
from ..train_pocket.dit import PocketTraining, damage, draw_sigma
from .memory_rollout import Lesson

MEMORY = preset_of("pocket_memory")
SINK_AND_WINDOW = replace(MEMORY, name="pocket_memory_off", memory_frames=0)
WINDOW = PositionPreset("pocket_window", 0, 9, last_id=8, trained_frames=9)
PLAIN = preset_of("pocket")  # as the model runs without a memory
FULL = PositionPreset("pocket_full", 3, None, None, trained_frames=96, endless="pocket_memory")


POSITIONS = {"memory": MEMORY, "full": FULL, "sink_and_window": SINK_AND_WINDOW, "window": WINDOW}
KINDS = (*POSITIONS, "ordinary", "beginnings")
SAMPLED_FIRST = 2  # times as many first blocks as clips, where each of their calls is graded


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each kind of lesson comes, and how long things stay hidden."""

    memory: float = 0.56
    full: float = 0.0
    sink_and_window: float = 0.05
    window: float = 0.04
    ordinary: float = 0.35
    beginnings: float = 0.0  # streams' first blocks alone
    beside: float = 0.5  # of the ordinary ones, with a memory beside; the others as the model runs without
    sampled: float = 0.0  # of the ordinary ones and first blocks, graded where the model's own sampler leads
    first: float = 1 / 3  # of graded calls that are a block's first
    unprompted: float = 0.08  # rows without a prompt, as guidance has them
    easy: float = 0.12  # of the training, in which things are hidden just long enough to leave the window
    growing: float = 0.4  # of the training after that, in which waits grow to the longest
    easy_full: float = 0.52  # the same for a cache that keeps all, which begins with what the window holds
    growing_full: float = 0.3
    most_hidden: int = 26  # blocks

    def with_share(self, kind: str, share: float) -> Shares:
        """The same, with so many of all lessons of one kind."""
        if not 0 <= share < 1:
            raise ValueError(f"--{kind} {share}: a share of the lessons, at least 0 and less than 1.")
        rest = sum(getattr(self, other) for other in KINDS if other != kind)
        return replace(self, **{kind: rest * share / (1 - share)})


@dataclass(frozen=True, slots=True)
class LessonPlan:
    """What one lesson shall be, the same for every process."""

    kind: str
    positions: PositionPreset
    story: Story | None  # None: an ordinary clip, or first blocks
    graded: tuple[int, ...]  # blocks
    first: bool  # of the block of the memory's first update: all rows make their first call
    sampled: bool = False

    @property
    def hidden(self) -> int:
        """Blocks under the band."""
        return self.story.hidden if self.story else 0

    @property
    def lifted(self) -> int:
        """The block in which the band is gone, -1 if there is no band."""
        return self.story.parts.index(LIFTED) if self.story else -1


# for a converted model, whose ordinary streams must stay as good as they are
CONVERTED = Shares(
    memory=0.65, full=0.0, sink_and_window=0.05, window=0.0, ordinary=0.3, easy=-1.0, most_hidden=8
)


class Lessons:
    """Draws lessons; `done` is the share of the training that lies behind."""

    def __init__(
        self,
        vae: WanVAE,
        stories: HidingClips,
        clips: PairedClips,
        first_blocks: PairedClips | None,
        training: PocketTraining,
        shares: Shares,
        batch: int,
    ) -> None:
        """first_blocks: needed where there is a share of them."""
        self.vae, self.stories, self.training, self.shares, self.batch = vae, stories, training, shares, batch
        self.ordinary = PocketClips(clips, training, batch)
        guided = replace(training, no_text_share=UNPROMPTED_SHARE)
        self.beginnings = PocketClips(first_blocks, guided, FIRST_BATCH * batch) if first_blocks else None
        self.ordinary_blocks = clips.latents_BVCTHW.shape[3] // training.block_frames

    def refresh(self, count: int, limit: int, generator: torch.Generator) -> None:
        """Draw new stories beside those at hand."""
        training = self.training
        new = draw(self.vae, count, training.block_frames, training.size, generator, "seen")
        self.stories = self.stories.concat(new, limit)

    def plan(self, done: float, generator: torch.Generator) -> LessonPlan:
        """What comes next."""
        weights = torch.tensor([getattr(self.shares, kind) for kind in KINDS])
        kind = KINDS[int(torch.multinomial(weights, 1, generator=generator))]
        first = float(torch.rand((), generator=generator)) < self.shares.first
        sampled = self.shares.sampled > 0 and float(torch.rand((), generator=generator)) < self.shares.sampled
        if kind == "beginnings":
            return LessonPlan(kind, PLAIN, None, (0,), first, sampled)
        if kind == "ordinary":
            blocks = torch.randperm(self.ordinary_blocks, generator=generator)[: 1 if sampled else 3]
            with_memory = float(torch.rand((), generator=generator)) < self.shares.beside
            positions = MEMORY if with_memory else PLAIN
            return LessonPlan(kind, positions, None, tuple(sorted(blocks.tolist())), first, sampled)
        hidden = self._hidden(kind, generator, done)
        visible = 2 if hidden < 3 else int(torch.randint(1, 3, (), generator=generator))
        story = Story(visible, hidden, 2)
        lifted = story.parts.index(LIFTED)
        other = int(torch.randint(0, lifted + 2, (), generator=generator))
        return LessonPlan(kind, POSITIONS[kind], story, (lifted, lifted, other), first)

    def lesson(self, plan: LessonPlan, generator: torch.Generator) -> Lesson:
        """The lesson, on clips and noise of this process's own."""
        if plan.kind == "beginnings":
            assert self.beginnings is not None
            clips = self.beginnings.draw(generator)
            graded = ((0, clips.sigmas[0]),)
            return self._unchanged_lesson(clips, graded, plan, SAMPLED_FIRST * self.batch)
        graded = tuple((block, self._noise(block, plan.first, generator)) for block in plan.graded)
        if plan.story is None:
            return self._unchanged_lesson(self.ordinary.draw(generator), graded, plan, self.batch)
        rows = torch.randint(len(self.stories), (self.batch,), generator=generator)
        clean, texts = self.stories.select(rows).assemble(plan.story, self.training.block_frames)
        context = damage(clean, self.training.block_frames, generator)
        unprompted = torch.rand(self.batch, generator=generator) < self.shares.unprompted
        prompts = tuple(torch.where(unprompted[:, None, None], text.no_text(), each) for each in texts)
        return Lesson(clean, context, prompts, graded, plan.positions)

    def _unchanged_lesson(
        self, clips: RolloutClips, graded: tuple[tuple[int, Tensor], ...], plan: LessonPlan, streams: int
    ) -> Lesson:
        """A lesson that holds the model to what it was; of sampled ones so many streams, each guided."""
        clean, context, texts = clips.clean_RCTHW, clips.context_RCTHW, clips.texts
        if plan.sampled:
            clean, context = (each[:streams].repeat(2, 1, 1, 1, 1) for each in (clean, context))
            negative = text.no_text()
            texts = tuple(torch.cat([t[:streams], negative.expand_as(t[:streams])]) for t in texts)
        return Lesson(clean, context, texts, graded, plan.positions, PLAIN, plan.sampled)

    def _hidden(self, kind: str, generator: torch.Generator, done: float) -> int:
        """Blocks hidden: at first few, then up to more and more, short waits oftener than long ones."""
        shares = self.shares
        if kind in ("sink_and_window", "window"):
            return int(torch.randint(1, 4, (), generator=generator))
        least, easy, growing = (
            (1, shares.easy_full, shares.growing_full) if kind == "full" else (2, shares.easy, shares.growing)
        )
        most = least + min(1.0, max(0.0, (done - easy) / growing)) * (shares.most_hidden - least)
        return round(least * (most / least) ** float(torch.rand((), generator=generator)))

    def _noise(self, block: int, first: bool, generator: torch.Generator) -> Tensor:
        """Each row's share of noise; in the block of the memory's first update all rows are alike."""
        sigma = draw_sigma((self.batch,), self.training, generator).clamp_max(0.999)
        alike = first if block * self.training.block_frames == MEMORY.capacity_frames else None
        return torch.where(draw_first_calls(self.batch, self.shares.first, alike, generator), 1.0, sigma)


def draw_first_calls(rows: int, share: float, alike: bool | None, generator: torch.Generator) -> Tensor:
    """Which rows [R] make a block's first call: so many of them, or where `alike` is given all or none."""
    firsts = torch.rand(rows, generator=generator) < share
    return firsts if alike is None else torch.full_like(firsts, alike)

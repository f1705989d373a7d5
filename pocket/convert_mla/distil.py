"""Distils a dense model's attentions into VideoMLA's: start, layer by layer, the flow, the sampler's states.

The student shares every layer but its self-attentions with the dense model, or has copies of its own where
all of it is trained. In the first phase each attention gets the inputs of the dense model's and has to match
its outputs, so gradients never leave a layer; in the second the student runs by itself, later along clips
that it streams too; in the third it samples, and learns at the states it reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanModel
from ..train_pocket.checkpointing import Run, WeightAverage, hash_seed, learning_rate
from ..train_pocket.distributed import average_gradients, broadcast, rank
from ..train_pocket.interleaving import interleave
from ..train_pocket.record import PhaseRecord
from .rollout import PairedRollout, Reference, RolloutClips, relative_error, uniform
from .spectral import Moments, initialize_attention
from .student_rollouts import BATCHES
from .student_states import StudentSampling
from .trainable_context import ContextInputs

HELD_OUT = 1 << 20  # seed of what is never trained on
TIME_SHARES = {
    "local": 0.2,
    "flow": 0.8,
    "sampled": 1.0,
}  # of the minutes: third phase, half; the others the rest

# fields of the recipe that a phase may not change when it goes on
LASTING = {
    "local": ("moment_rollouts", "key_weight", "local_rate", "half"),
    "flow": ("flow_rate", "whole", "half", "student_from", "student_share", "beginnings"),
    "sampled": ("sampled_rate", "whole", "half"),
}
Lesson = Callable[[float], dict[str, float]]  # share of the phase that is done -> figures; leaves gradients


class ClipSource(Protocol):
    """Where clips come from."""

    def draw(self, generator: torch.Generator) -> RolloutClips:
        """Clips for one rollout."""
        ...


@dataclass(frozen=True, slots=True)
class Conversion:
    """Lengths and rates of one conversion; a step is one block of one rollout, or of streams side by side."""

    moment_rollouts: int = 6  # along which moments are taken
    local_steps: int = 300
    flow_steps: int = 600
    local_rate: float = 2e-3  # AdamW
    flow_rate: float = 1e-3
    sampled_steps: int = 0
    sampled_rate: float = 3e-4
    key_weight: float = 1.0  # of the spectral start
    minutes: float | None = None  # end the phases in time, see `TIME_SHARES`
    whole: bool = False  # train every layer from the second phase on, not the attentions alone
    half: bool = False  # bfloat16 products
    offload: bool = False  # what the backward pass needs lies in RAM, from the second phase on
    student_from: float = 0.5  # of the second phase, after which clips are in part streamed by the student
    student_share: float = 0.0  # of the clips from there on, first blocks left out
    beginnings: float = 0.0  # of all rollouts of the second phase: along streams' first blocks alone


def build_student(dense: WanModel, sizes: MlaSizes, whole: bool) -> MlaModel:
    """A model with new self-attentions in float32; its other layers are the dense model's own, or copies."""
    with torch.device("meta"):
        student = MlaModel(dense.config, sizes)
    device = next(dense.parameters()).device
    for name, _ in list(student.named_children()):
        if name != "blocks":
            setattr(student, name, getattr(dense, name))
    for ours, theirs in zip(student.blocks, dense.blocks, strict=True):
        ours.self_attn.to_empty(device=device)
        for name, _ in list(ours.named_children()):
            if name != "self_attn":
                setattr(ours, name, getattr(theirs, name))
        ours.modulation = theirs.modulation
    if not whole:
        return student
    separate = MlaModel(dense.config, sizes).to(device)
    separate.load_state_dict(student.state_dict())
    return separate


class Distiller:
    """One conversion in a folder; goes on from the newest checkpoint there."""

    def __init__(
        self,
        rollout: PairedRollout,
        student: MlaModel,
        source: ClipSource,
        recipe: Conversion,
        folder: Path,
        student_clips: ClipSource | None = None,
        beginnings: ClipSource | None = None,
        sampling: StudentSampling | None = None,
        seed: int = 11,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """student_clips: what the student streams, beginnings: first blocks, sampling: what the third phase
        goes along; each needed where the recipe has a share or steps of it. about: what beside the recipe may
        not change when a phase goes on, as JSON has it."""
        self.rollout, self.student, self.source, self.recipe = rollout, student, source, recipe
        self.student_clips, self.beginnings, self.sampling = student_clips, beginnings, sampling
        self.folder, self.seed, self.about = folder, seed, about or {}
        self.device = next(student.parameters()).device

    def initialize(self) -> None:
        """Give every attention its spectral start, from the moments of a few rollouts."""
        blocks = self.rollout.dense.blocks
        moments = [Moments() for _ in blocks]
        for index in range(self.recipe.moment_rollouts):
            generator = torch.Generator().manual_seed(self.seed + index)
            clips = self.source.draw(generator).to(self.device)
            for reference in self.rollout.blocks(clips, generator):
                for context in reference.contexts:
                    for moment, block, x in zip(moments, blocks, context.projected, strict=True):
                        moment.add(block.self_attn, x)
        for moment, ours, theirs in zip(moments, self.student.blocks, blocks, strict=True):
            initialize_attention(ours.self_attn, theirs.self_attn, moment, self.recipe.key_weight)

    def train(self) -> None:
        """All phases to their last steps."""
        attentions = nn.ModuleList(block.self_attn for block in self.student.blocks)
        attentions.requires_grad_(True)
        recipe = self.recipe
        self._phase("local", attentions, recipe.local_steps, recipe.local_rate)
        trained = self.student.requires_grad_(True) if recipe.whole else attentions
        self._phase("flow", trained, recipe.flow_steps, recipe.flow_rate)
        if recipe.sampled_steps or (self.folder / "sampled.pt").exists():
            self._phase("sampled", trained, recipe.sampled_steps, recipe.sampled_rate)

    def _phase(self, name: str, trained: nn.Module, steps: int, rate: float) -> None:
        recipe = self.recipe
        share = TIME_SHARES[name] / (2 if recipe.sampled_steps else 1)
        seconds = 60 * share * recipe.minutes if recipe.minutes else float("inf")
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
        average = WeightAverage(trained, 0.99)
        parts = {"trained": trained, "optimizer": optimizer, "average": average}
        run = Run(self.folder, name, parts, writes=rank() == 0, phase=self._record(name, steps))
        generator = torch.Generator().manual_seed(hash_seed(f"{name} {rank()}", run.step))
        lesson = (
            self._sampling_lessons(generator) if name == "sampled" else self._clip_lessons(name, generator)
        )
        while (done := broadcast(max(run.step / max(steps, 1), run.elapsed() / seconds))) < 1 and steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done, rate)
            optimizer.zero_grad(set_to_none=True)
            figures = lesson(done)
            average_gradients(trained)
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            average.update(trained, run.step)
            run.tick(every=20, **figures)
        run.save()
        if not run.step:
            return
        trained.load_state_dict(average.weights())

    def _record(self, name: str, steps: int) -> PhaseRecord:
        """What may not change while a phase is trained; one that is not asked for stays as long as it is."""
        fields = {key: getattr(self.recipe, key) for key in LASTING[name]}
        length = {"steps": steps, "minutes": self.recipe.minutes} if steps else {}
        return PhaseRecord({**self.about, **fields}, length)

    def _sampling_lessons(self, generator: torch.Generator) -> Lesson:
        """A block of one of the batches of streams that the student samples."""

        def begin(generator: torch.Generator) -> Iterator[dict[str, float]]:
            assert self.sampling is not None, "the recipe has steps of it"
            return self.sampling.graded_blocks(generator)

        blocks = interleave(begin, BATCHES, generator)

        def lesson(_: float) -> dict[str, float]:
            with self._precision(), self._offloaded():
                return next(blocks)

        return lesson

    def _clip_lessons(self, name: str, generator: torch.Generator) -> Lesson:
        """A block of a rollout along clips."""
        blocks: Iterator[tuple[RolloutClips, Reference, ContextInputs]] = iter(())

        def lesson(done: float) -> dict[str, float]:
            nonlocal blocks
            if (block := next(blocks, None)) is None:
                blocks = self._clip_blocks(name, self._choose_source(name, done, generator), generator)
                block = next(blocks)
            clips, reference, inputs = block
            if name == "local":
                loss = self._attention_loss(reference)
            else:
                loss = self._flow_loss(reference, clips, inputs)
            return {"loss": loss, "block": reference.block}

        return lesson

    def _choose_source(self, name: str, done: float, generator: torch.Generator) -> ClipSource:
        """What the next rollout goes along."""
        recipe = self.recipe
        if name != "flow":
            return self.source
        if self.beginnings is not None and uniform(generator) < recipe.beginnings:
            return self.beginnings
        if self.student_clips is None or done < recipe.student_from:
            return self.source
        return self.student_clips if uniform(generator) < recipe.student_share else self.source

    def _clip_blocks(
        self, name: str, source: ClipSource, generator: torch.Generator
    ) -> Iterator[tuple[RolloutClips, Reference, ContextInputs]]:
        """Blocks of a rollout, with the student's own context in the phase in which it runs by itself."""
        with self._precision():
            clips, inputs = source.draw(generator).to(self.device), ContextInputs()
            for reference in self.rollout.blocks(clips, generator):
                yield clips, reference, inputs
                if name == "flow" and reference.block + 1 < len(clips.sigmas):
                    self.rollout.append_block(self.student, reference, clips, inputs)

    def _attention_loss(self, reference: Reference) -> float:
        """Gradients of every attention's relative error, a layer at a time; their mean."""
        total, count = 0.0, 0
        with self._precision():
            for output, wanted in self.rollout.attention_outputs(self.student, reference):
                loss = relative_error(output, wanted)
                loss.backward()
                total, count = total + float(loss.detach()), count + 1
        return total / count

    def _flow_loss(self, reference: Reference, clips: RolloutClips, inputs: ContextInputs) -> float:
        """Gradients of the flow's relative error."""
        with self._precision(), self._offloaded():
            flow = self.rollout.student_flow(self.student, reference, clips, inputs)
            loss = relative_error(flow, reference.flow)
        loss.backward()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, rollouts: int = 3) -> dict[str, list[float]]:
        """Relative errors on clips that are never trained on: each attention's, and the flow's by block."""
        attention: dict[int, list[float]] = {}
        flow: dict[int, list[float]] = {}
        for index in range(rollouts):
            generator = torch.Generator().manual_seed(HELD_OUT + index)
            clips, inputs = self.source.draw(generator).to(self.device), ContextInputs()
            with self._precision():
                for reference in self.rollout.blocks(clips, generator):
                    layers = len(reference.outputs[0])
                    pairs = self.rollout.attention_outputs(self.student, reference)
                    for number, (output, wanted) in enumerate(pairs):
                        attention.setdefault(number % layers, []).append(
                            float(relative_error(output, wanted))
                        )
                    student_flow = self.rollout.student_flow(self.student, reference, clips, inputs)
                    error = float(relative_error(student_flow, reference.flow))
                    flow.setdefault(reference.block, []).append(error)
                    self.rollout.append_block(self.student, reference, clips, inputs)
        means = [[round((sum(e) / len(e)) ** 0.5, 4) for e in each.values()] for each in (attention, flow)]
        figures = {"attention_error": means[0], "flow_error": means[1]}
        if self.sampling is not None:
            with self._precision():
                figures["sampled_error"] = self.sampling.errors(4, HELD_OUT)
        return figures

    def _offloaded(self) -> AbstractContextManager[object]:
        """Where what the backward pass needs is kept."""
        return torch.autograd.graph.save_on_cpu(pin_memory=True) if self.recipe.offload else nullcontext()

    def _precision(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.recipe.half else nullcontext()

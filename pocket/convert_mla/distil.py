"""Distils a dense model's attentions into VideoMLA's: start, layer by layer, the flow, the sampler's states.

The student shares every layer but its self-attentions with the dense model, or has copies of its own where
all of it is trained. In the first phase each attention is given what the dense model's was given and has to
make of it what that made, so gradients never leave a layer; in the second the student runs by itself, later
along its own streams too; in the third it samples, and learns at the states it comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanModel
from ..train_pocket.checkpointing import Average, Run, hash_seed, learning_rate
from ..train_pocket.distributed import agreed, average_gradients, rank
from ..train_pocket.vae_streaming import next_piece
from .rollout import Clips, Seen, Walker, chance, relative
from .spectral import Moments, start
from .student_rollouts import HELD
from .student_states import SampledStreams
from .trainable_context import Inputs

HELD_OUT = 1 << 20  # seed of what is never trained on
SHARES = {"local": 0.2, "flow": 0.8, "sampled": 1.0}  # of the minutes: third phase, half; the others the rest

Lesson = Callable[[float], dict[str, float]]  # share of the phase that is done -> figures; leaves gradients


class Source(Protocol):
    """Where clips come from."""

    def draw(self, generator: torch.Generator) -> Clips:
        """Clips for one walk."""
        ...


@dataclass(frozen=True, slots=True)
class Conversion:
    """Lengths and rates of one conversion; a step is one block of one walk, or of streams side by side."""

    walks: int = 6  # along which moments are taken
    local_steps: int = 300
    flow_steps: int = 600
    local_rate: float = 2e-3  # AdamW
    flow_rate: float = 1e-3
    sampled_steps: int = 0
    sampled_rate: float = 3e-4
    key_weight: float = 1.0  # of the spectral start
    minutes: float | None = None  # end the phases in time, see `SHARES`
    whole: bool = False  # train every layer from the second phase on, not the attentions alone
    half: bool = False  # bfloat16 products
    offload: bool = False  # what is kept for gradients from the second phase on lies in RAM
    own_from: float = 0.5  # of the second phase, after which the student walks along streams of its own too
    own_share: float = 0.0  # of the walks from there on that go along clips, not first blocks
    beginnings: float = 0.0  # of all walks of the second phase: along streams' first blocks alone


def student_of(dense: WanModel, sizes: MlaSizes, whole: bool) -> MlaModel:
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
        walker: Walker,
        student: MlaModel,
        source: Source,
        recipe: Conversion,
        folder: Path,
        own: Source | None = None,
        beginnings: Source | None = None,
        sampled: SampledStreams | None = None,
        seed: int = 11,
    ) -> None:
        """own: what the student streams by itself, beginnings: first blocks, sampled: what the third phase
        goes along; each needed where the recipe has a share or steps of it."""
        self.walker, self.student, self.source, self.recipe = walker, student, source, recipe
        self.own, self.beginnings, self.sampled = own, beginnings, sampled
        self.folder, self.seed = folder, seed
        self.device = next(student.parameters()).device

    def start(self) -> None:
        """Give every attention its spectral start, from the moments of a few walks."""
        blocks = self.walker.dense.blocks
        moments = [Moments() for _ in blocks]
        for walk in range(self.recipe.walks):
            generator = torch.Generator().manual_seed(self.seed + walk)
            clips = self.source.draw(generator).to(self.device)
            for seen in self.walker.along(clips, generator):
                for past in seen.pasts:
                    for moment, block, x in zip(moments, blocks, past.own, strict=True):
                        moment.add(block.self_attn, x)
        for moment, ours, theirs in zip(moments, self.student.blocks, blocks, strict=True):
            start(ours.self_attn, theirs.self_attn, moment, self.recipe.key_weight)

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
        share = SHARES[name] / (2 if recipe.sampled_steps else 1)
        seconds = 60 * share * recipe.minutes if recipe.minutes else float("inf")
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
        average = Average(trained, 0.99)
        parts = {"trained": trained, "optimizer": optimizer, "average": average}
        run = Run(self.folder, name, parts, writes=rank() == 0)
        generator = torch.Generator().manual_seed(hash_seed(f"{name} {rank()}", run.step))
        lesson = self._sampled(generator) if name == "sampled" else self._walked(name, generator)
        while (done := agreed(max(run.step / max(steps, 1), run.elapsed() / seconds))) < 1 and steps:
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

    def _sampled(self, generator: torch.Generator) -> Lesson:
        """A block of one of the batches of streams that the student samples."""
        lanes: list[Iterator[dict[str, float]]] = [iter(()) for _ in range(HELD)]

        def lesson(_: float) -> dict[str, float]:
            assert self.sampled is not None, "the recipe has steps of it"
            with self._precision(), self._kept():
                return next_piece(lanes, self.sampled.along, generator)

        return lesson

    def _walked(self, name: str, generator: torch.Generator) -> Lesson:
        """A block of a walk along clips."""
        walk: Iterator[tuple[Clips, Seen, Inputs]] = iter(())

        def lesson(done: float) -> dict[str, float]:
            nonlocal walk
            if (place := next(walk, None)) is None:
                walk = self._walk(name, self._source(name, done, generator), generator)
                place = next(walk)
            clips, seen, inputs = place
            loss = self._attended(seen) if name == "local" else self._flown(seen, clips, inputs)
            return {"loss": loss, "block": seen.block}

        return lesson

    def _source(self, name: str, done: float, generator: torch.Generator) -> Source:
        """What the next walk goes along."""
        recipe = self.recipe
        if name != "flow":
            return self.source
        if self.beginnings is not None and chance(generator) < recipe.beginnings:
            return self.beginnings
        if self.own is None or done < recipe.own_from:
            return self.source
        return self.own if chance(generator) < recipe.own_share else self.source

    def _walk(
        self, name: str, source: Source, generator: torch.Generator
    ) -> Iterator[tuple[Clips, Seen, Inputs]]:
        """Blocks of a walk, with the student's own past where it runs by itself."""
        with self._precision():
            clips, inputs = source.draw(generator).to(self.device), Inputs()
            for seen in self.walker.along(clips, generator):
                yield clips, seen, inputs
                if name == "flow" and seen.block + 1 < len(clips.sigmas):
                    self.walker.remember(self.student, seen, clips, inputs)

    def _attended(self, seen: Seen) -> float:
        """Gradients of every attention's relative error, a layer at a time; their mean."""
        total, count = 0.0, 0
        with self._precision():
            for made, wanted in self.walker.attended(self.student, seen):
                loss = relative(made, wanted)
                loss.backward()
                total, count = total + float(loss.detach()), count + 1
        return total / count

    def _flown(self, seen: Seen, clips: Clips, inputs: Inputs) -> float:
        """Gradients of the flow's relative error."""
        with self._precision(), self._kept():
            loss = relative(self.walker.flow(self.student, seen, clips, inputs), seen.flow)
        loss.backward()
        return float(loss.detach())

    @torch.no_grad()
    def held_out(self, walks: int = 3) -> dict[str, list[float]]:
        """Relative errors on clips that are never trained on: each attention's, and the flow's by block."""
        attention: dict[int, list[float]] = {}
        flow: dict[int, list[float]] = {}
        for walk in range(walks):
            generator = torch.Generator().manual_seed(HELD_OUT + walk)
            clips, inputs = self.source.draw(generator).to(self.device), Inputs()
            with self._precision():
                for seen in self.walker.along(clips, generator):
                    layers = len(seen.outputs[0])
                    for index, (made, wanted) in enumerate(self.walker.attended(self.student, seen)):
                        attention.setdefault(index % layers, []).append(float(relative(made, wanted)))
                    error = relative(self.walker.flow(self.student, seen, clips, inputs), seen.flow)
                    flow.setdefault(seen.block, []).append(float(error))
                    self.walker.remember(self.student, seen, clips, inputs)
        means = [[round((sum(e) / len(e)) ** 0.5, 4) for e in each.values()] for each in (attention, flow)]
        found = {"attention_error": means[0], "flow_error": means[1]}
        if self.sampled is not None:
            with self._precision():
                found["sampled_error"] = self.sampled.errors(4, HELD_OUT)
        return found

    def _kept(self) -> AbstractContextManager[object]:
        """Where what gradients need is kept."""
        return torch.autograd.graph.save_on_cpu(pin_memory=True) if self.recipe.offload else nullcontext()

    def _precision(self) -> torch.autocast | nullcontext[None]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.recipe.half else nullcontext()

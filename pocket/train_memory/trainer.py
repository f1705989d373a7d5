"""Trains a memory encoder and, beside it, low-rank changes of the model, or its attentions.

The frames that leave the window reach the encoder as the clean pass left them, without gradients; the chain
of updates is differentiated whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...model_patches.arch.wan import WanModel
from ...model_patches.memory.encoder import MemoryEncoder
from ..half_products import half_products
from ..muon import Muon
from ..train_pocket.checkpointing import Run, WeightAverage, hash_seed, learning_rate
from ..train_pocket.distributed import average_gradients, broadcast, rank
from ..train_pocket.record import PhaseRecord
from .lessons import LessonPlan, Lessons
from .lora import Adapters
from .memory_rollout import MemoryRollout


@dataclass(frozen=True, slots=True)
class MemoryTraining:
    """Lengths and rates of one training."""

    steps: int = 4500
    minutes: float | None = None  # end in time, whatever the steps
    matrix_rate: float = 1e-2  # Muon, the encoder's matrices
    encoder_rate: float = 2e-3  # AdamW, the rest of the encoder
    model_rate: float = 1.5e-3  # AdamW, the changes of the model
    clipped: float = 1.0  # norm of the gradients
    more_clips: int = 8  # stories drawn anew
    more_every: int = 100  # steps
    most_clips: int = 2000
    half: bool = True  # bfloat16 products
    encoder: bool = True  # trained with the changes of the model; else left as it is
    kept_weight: float = 1.0  # of lessons that hold the model to what it was: their errors are small

    def record(self, about: Mapping[str, Any]) -> PhaseRecord:
        """What may not change while it is trained, with more of it in `about`."""
        fields = asdict(self)
        length = {name: fields.pop(name) for name in ("steps", "minutes")}
        return PhaseRecord({**fields, **about}, length)

    def with_options(
        self, steps: int | None, minutes: float | None, rate: float, kept_weight: float = 1.0
    ) -> MemoryTraining:
        """The same for so many lessons or minutes, None: as it is, at so many times the rates."""
        if not kept_weight > 0:
            raise ValueError(f"--kept-weight {kept_weight}: more than 0.")
        if not 0 < rate <= 10:
            raise ValueError(f"--rate {rate}: times the recipe's rates, more than 0, at most 10.")
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            minutes=self.minutes if minutes is None else minutes,
            matrix_rate=rate * self.matrix_rate,
            encoder_rate=rate * self.encoder_rate,
            model_rate=rate * self.model_rate,
            kept_weight=kept_weight,
        )


def build_optimizers(
    encoder: MemoryEncoder | None, changes: list[nn.Parameter], recipe: MemoryTraining
) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of an encoder that is trained, AdamW for the rest."""
    adamw = [{"params": changes, "peak": recipe.model_rate}]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if encoder is not None:
        matrices = [p for p in encoder.parameters() if p.ndim == 2]
        adamw.insert(
            0, {"params": [p for p in encoder.parameters() if p.ndim != 2], "peak": recipe.encoder_rate}
        )
        muon = [{"params": matrices, "peak": recipe.matrix_rate}]
        optimizers["muon"] = Muon(muon, lr=0.0, momentum=0.95, weight_decay=0.0)
    return optimizers | {"adamw": torch.optim.AdamW(adamw, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)}


class Trainer:
    """One training in a folder; goes on from the newest checkpoint there."""

    def __init__(
        self,
        rollout: MemoryRollout,
        lessons: Lessons,
        recipe: MemoryTraining,
        folder: Path,
        adapters: Adapters | None,
        phase: PhaseRecord | None = None,
    ) -> None:
        """adapters: the model's low-rank changes, trained with the encoder where the recipe says so; without,
        the encoder stays as it is and the model's self-attentions are trained whole. phase: what may not
        change when the training goes on."""
        self.rollout, self.lessons, self.recipe, self.adapters = rollout, lessons, recipe, adapters
        encoder = rollout.encoder.requires_grad_(adapters is not None and recipe.encoder)
        changes = _trained_layers(rollout.dit, adapters)
        trained = encoder if adapters is not None and recipe.encoder else None
        self.learner = nn.ModuleDict(
            {"model": changes} if trained is None else {"encoder": trained, "model": changes}
        )
        optimizers = build_optimizers(trained, [*changes.parameters()], recipe)
        self.optimizers = list(optimizers.values())
        self.average = WeightAverage(self.learner, 0.995)
        parts = {"learner": self.learner, "average": self.average, **optimizers}
        self.run = Run(folder, "memory", parts, writes=rank() == 0, phase=phase)
        seed = hash_seed("memory", self.run.step)
        self.shared = torch.Generator().manual_seed(seed)
        self.local = torch.Generator().manual_seed(seed + 1 + rank())
        self.figures: dict[str, float] = {}

    def train(self) -> None:
        """Train to the last step or the end of the time; the learner is left with its averaged weights."""
        recipe = self.recipe
        seconds = 60 * recipe.minutes if recipe.minutes else float("inf")
        while (done := broadcast(max(self.run.step / recipe.steps, self.run.elapsed() / seconds))) < 1:
            if self.run.step % recipe.more_every == recipe.more_every - 1:
                self.lessons.refresh(recipe.more_clips, recipe.most_clips, self.local)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(done, group["peak"])
            self.step(done)
            self.average.update(self.learner, self.run.step)
            self.run.tick(every=25, **self.figures, done=done)
        self.run.save()
        self.learner.load_state_dict(self.average.weights())

    def step(self, done: float) -> float:
        """One lesson; its loss."""
        plan = self.lessons.plan(done, self.shared)
        lesson = self.lessons.lesson(plan, self.local)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._precision():
            if self.adapters is not None:
                self.adapters.fold()
            errors = self.rollout.grade_lesson(lesson, self.local)
        loss = torch.stack([error_R.mean() for _, error_R, _ in errors]).mean()
        (loss * (self.recipe.kept_weight if lesson.unchanged else 1.0)).backward()
        self._update()
        self._log_errors(plan, errors)
        return float(loss.detach())

    def _update(self) -> None:
        for parameter in self.learner.parameters():
            if parameter.grad is None and torch.distributed.is_initialized():
                parameter.grad = torch.zeros_like(parameter)  # all share equally many numbers
        average_gradients(self.learner)
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clipped)
        for optimizer in self.optimizers:
            optimizer.step()

    def _log_errors(self, plan: LessonPlan, errors: list[tuple[int, Tensor, Tensor]]) -> None:
        """Running means of first calls' errors at the lifted block, by how long it was hidden."""
        with torch.no_grad():
            for block, error_R, sigma_R in errors:
                first = sigma_R == 1
                name = f"{plan.kind}_{_length(plan.hidden)}" if block == plan.lifted else "elsewhere"
                name = name if plan.story else plan.kind
                for suffix, rows in (("first", first), ("later", ~first)):
                    if bool(rows.any()):
                        key, value = f"{name}_{suffix}", float(error_R[rows].mean())
                        self.figures[key] = 0.95 * self.figures.get(key, value) + 0.05 * value
        gate = self.rollout.encoder.gate_linear.bias
        self.figures["gate_bias"] = float(gate.detach().mean())

    def _precision(self) -> AbstractContextManager[object]:
        return half_products(next(self.learner.parameters()).device, self.recipe.half)


def _trained_layers(dit: WanModel, adapters: Adapters | None) -> nn.Module:
    if adapters is not None:
        return nn.ParameterList(adapters.parts())
    return nn.ModuleList(block.self_attn for block in dit.blocks).requires_grad_(True)


def _length(hidden: int) -> str:
    return "short" if hidden < 4 else "mid" if hidden < 11 else "long"

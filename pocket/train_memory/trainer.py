"""Trains a memory encoder and, beside it, low-rank changes of the model, or its attentions.

The frames that leave the window reach the encoder as the clean pass left them, without gradients; the chain
of updates is followed back whole.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.arch.wan import WanModel
from ...model_patches.memory.encoder import MemoryEncoder
from ..train_pocket.checkpointing import Average, Run, hash_seed, learning_rate
from ..train_pocket.distributed import agreed, average_gradients, rank
from .lessons import Lessons, Place
from .lora import Adapters
from .memory_rollout import MemoryWalker


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
    kept_weight: float = 1.0  # of lessons that keep the model what it was: their errors are small

    def told(
        self, steps: int | None, minutes: float | None, rate: float, kept_weight: float = 1.0
    ) -> MemoryTraining:
        """The same for so many lessons or minutes, where they are given, at so many times the rates."""
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


def optimizers(
    encoder: MemoryEncoder | None, changes: list[nn.Parameter], recipe: MemoryTraining
) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of an encoder that is trained, AdamW for the rest."""
    adamw = [{"params": changes, "peak": recipe.model_rate}]
    found: dict[str, torch.optim.Optimizer] = {}
    if encoder is not None:
        matrices = [p for p in encoder.parameters() if p.ndim == 2]
        adamw.insert(
            0, {"params": [p for p in encoder.parameters() if p.ndim != 2], "peak": recipe.encoder_rate}
        )
        muon = [{"params": matrices, "peak": recipe.matrix_rate}]
        found["muon"] = torch.optim.Muon(muon, lr=0.0, momentum=0.95, weight_decay=0.0)
    return found | {"adamw": torch.optim.AdamW(adamw, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)}


class Trainer:
    """One training in a folder; goes on from the newest checkpoint there."""

    def __init__(
        self,
        walker: MemoryWalker,
        lessons: Lessons,
        recipe: MemoryTraining,
        folder: Path,
        adapters: Adapters | None,
    ) -> None:
        """adapters: the model's low-rank changes, trained with the encoder where the recipe says so; without,
        the encoder stays as it is and the model's self-attentions are trained whole."""
        self.walker, self.lessons, self.recipe, self.adapters = walker, lessons, recipe, adapters
        encoder = walker.encoder.requires_grad_(adapters is not None and recipe.encoder)
        changes = _changes(walker.dit, adapters)
        learns = encoder if adapters is not None and recipe.encoder else None
        self.learner = nn.ModuleDict(
            {"model": changes} if learns is None else {"encoder": learns, "model": changes}
        )
        made = optimizers(learns, [*changes.parameters()], recipe)
        self.optimizers = list(made.values())
        self.average = Average(self.learner, 0.995)
        parts = {"learner": self.learner, "average": self.average, **made}
        self.run = Run(folder, "memory", parts, writes=rank() == 0)
        seed = hash_seed("memory", self.run.step)
        self.shared = torch.Generator().manual_seed(seed)
        self.own = torch.Generator().manual_seed(seed + 1 + rank())
        self.figures: dict[str, float] = {}

    def train(self) -> None:
        """Train to the last step or the end of the time; the learner is left with its averaged weights."""
        recipe = self.recipe
        seconds = 60 * recipe.minutes if recipe.minutes else float("inf")
        while (done := agreed(max(self.run.step / recipe.steps, self.run.elapsed() / seconds))) < 1:
            if self.run.step % recipe.more_every == recipe.more_every - 1:
                self.lessons.refresh(recipe.more_clips, recipe.most_clips, self.own)
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
        place = self.lessons.plan(done, self.shared)
        lesson = self.lessons.lesson(place, self.own)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._precision():
            if self.adapters is not None:
                self.adapters.fold()
            found = self.walker.along(lesson, self.own)
        loss = torch.stack([error_R.mean() for _, error_R, _ in found]).mean()
        (loss * (self.recipe.kept_weight if lesson.kept else 1.0)).backward()
        self._descend()
        self._note(place, found)
        return float(loss.detach())

    def _descend(self) -> None:
        for parameter in self.learner.parameters():
            if parameter.grad is None and torch.distributed.is_initialized():
                parameter.grad = torch.zeros_like(parameter)  # all share equally many numbers
        average_gradients(self.learner)
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clipped)
        for optimizer in self.optimizers:
            optimizer.step()

    def _note(self, place: Place, found: list[tuple[int, Tensor, Tensor]]) -> None:
        """Running means of first calls' errors at the lifted block, by how long it was hidden."""
        with torch.no_grad():
            for block, error_R, sigma_R in found:
                first = sigma_R == 1
                name = f"{place.kind}_{_length(place.hidden)}" if block == place.lifted else "elsewhere"
                name = name if place.story else place.kind
                for suffix, rows in (("first", first), ("later", ~first)):
                    if bool(rows.any()):
                        key, value = f"{name}_{suffix}", float(error_R[rows].mean())
                        self.figures[key] = 0.95 * self.figures.get(key, value) + 0.05 * value
        gate = self.walker.encoder.gate_linear.bias
        self.figures["gate_bias"] = float(gate.detach().mean())

    def _precision(self) -> torch.autocast | nullcontext[None]:
        device = next(self.learner.parameters()).device.type
        return torch.autocast(device, torch.bfloat16) if self.recipe.half else nullcontext()


def _changes(dit: WanModel, adapters: Adapters | None) -> nn.Module:
    if adapters is not None:
        return nn.ParameterList(adapters.parts())
    return nn.ModuleList(block.self_attn for block in dit.blocks).requires_grad_(True)


def _length(hidden: int) -> str:
    return "short" if hidden < 4 else "mid" if hidden < 11 else "long"

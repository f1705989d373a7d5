"""Training that can be stopped at any moment and goes on where it was: checkpoint, log, learning rate."""

import json
import math
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .record import PhaseRecord
from .whole_file import write_whole


class Run:
    """One phase of training in a folder: `<name>.pt` is the newest checkpoint, `<name>.jsonl` the log."""

    def __init__(
        self,
        folder: Path,
        name: str,
        parts: dict[str, Any],
        save_every_seconds: float = 120.0,
        writes: bool = True,
        phase: PhaseRecord | None = None,
    ) -> None:
        """phase: what it depends on. Raises ValueError where the checkpoint is of another one."""
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.log_path = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.parts, self.save_every_seconds, self.writes = parts, save_every_seconds, writes
        self.step, self.seconds = 0, 0.0
        stored = self._stored()
        (phase or PhaseRecord()).begin_or_go_on(
            folder, name, None if stored is None else stored["step"], writes
        )
        if stored is not None:
            for key, part in parts.items():
                part.load_state_dict(stored[key])
            self.step, self.seconds = stored["step"], stored["seconds"]
        self._since, self._saved = time.monotonic(), time.monotonic()

    def _stored(self) -> dict[str, Any] | None:
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, weights_only=True, map_location="cpu")

    def elapsed(self) -> float:
        """Seconds of training in this phase, earlier starts included."""
        return self.seconds + time.monotonic() - self._since

    def tick(self, every: int = 50, **figures: float) -> None:
        """Count one step; log every `every` steps; save when it is time."""
        self.step += 1
        if self.writes and (self.step % every == 0 or self.step < 3):
            row = {"step": self.step, "seconds": round(self.elapsed(), 1)}
            row |= {key: round(float(value), 6) for key, value in figures.items()}
            with self.log_path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        if time.monotonic() - self._saved > self.save_every_seconds:
            self.save()

    def save(self) -> None:
        """Write the checkpoint whole or not at all; one of several processes writes."""
        if not self.writes:
            return
        state = {key: part.state_dict() for key, part in self.parts.items()}
        state |= {"step": self.step, "seconds": self.elapsed()}
        write_whole(self.checkpoint, lambda partial: torch.save(state, partial))
        self._saved = time.monotonic()


class WeightAverage(nn.Module):
    """Exponential average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name, value in model.state_dict().items():
            self.register_buffer(name.replace(".", "/"), value.detach().clone())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            getattr(self, name.replace(".", "/")).lerp_(value, 1 - decay)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name.replace("/", "."): value for name, value in self.state_dict().items()}


def hash_seed(name: str, step: int) -> int:
    """A seed of its own for every phase and every start of it."""
    return zlib.crc32(f"{name} {step}".encode())


def learning_rate(share_done: float, peak: float, warm: float = 0.03, floor: float = 0.02) -> float:
    """Linear warm-up over the first `warm` of the phase, then a half cosine down to `floor` of the peak."""
    if share_done < warm:
        return peak * share_done / warm + 1e-6
    angle = math.pi * min(1.0, (share_done - warm) / (1 - warm))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(angle)))

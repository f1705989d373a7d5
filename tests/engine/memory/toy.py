"""A memory as somebody would add it: one module. It counts the frames that left, and shows nothing."""

from dataclasses import dataclass

import torch
from rivulet.model_patches.memory.kind import MemoryKind, Option
from rivulet.model_patches.memory.policy import Stateless
from torch import Tensor


@dataclass(frozen=True)
class Count:
    frames: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"frames": self.frames}


@dataclass(frozen=True)
class Counting(Stateless):
    step: float = 1.0
    name: str = "count"

    def start(self, shape) -> Count:
        return Count(torch.zeros(()))

    def restore(self, tensors, shape) -> Count:
        return Count(tensors["frames"])

    def update(self, memory, cache, evicted, attention=None):
        return Count(memory.frames + self.step * len(evicted)), cache

    def spec(self):
        return {"name": self.name, "step": self.step}


@dataclass(frozen=True)
class CountKind(MemoryKind):
    def build(self, contract, device, source, options) -> Counting:
        return Counting(self.option("count_step", options))


KIND = CountKind(
    "count",
    "frames that left the window are counted",
    options=(Option("count_step", 2.0, "what each of them counts.", most=9.0, step=0.5),),
)

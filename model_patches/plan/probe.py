"""Rates of this machine's matrix products and copies, from two short measurements."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .ram import free_ram_bytes

SIZES = {"cpu": (512, 128 << 20), "cuda": (8192, 1 << 30)}  # side of a square product, bytes of a copy


@dataclass(frozen=True, slots=True)
class Device:
    """Rates and free memory of a device. None: unknown, so not judged."""

    name: str
    matmul_flops: float  # per second, in the stream's dtype
    bytes_per_second: float  # of the model's memory
    free_bytes: int | None = None  # of that memory, before the model is loaded
    free_ram_bytes: int | None = None
    free_disk_bytes: int | None = None
    is_cpu: bool = False  # the model is in RAM

    def __post_init__(self) -> None:
        if not (self.matmul_flops > 0 and self.bytes_per_second > 0):
            raise ValueError(
                f"Device {self.name}: rates must be above 0, got {self.matmul_flops} FLOP/s and "
                f"{self.bytes_per_second} bytes/s; take those that probe() measured."
            )


def probe(device: torch.device, dtype: torch.dtype, folder: Path, seconds: float = 0.5) -> Device:
    """Measures a device in about `seconds`: a square product in `dtype`, and a copy larger than any cache.

    The copy's rate counts bytes read and bytes written. free_disk_bytes: of the drive of `folder`.
    """
    is_cpu = device.type == "cpu"
    free_ram = free_ram_bytes()  # what is measured with takes some of it
    free = free_ram if is_cpu else torch.cuda.mem_get_info(device)[0]
    side, size = SIZES["cpu" if is_cpu else "cuda"]
    a = torch.ones(side, side, dtype=dtype, device=device)
    product = best_seconds(lambda: a @ a, device, seconds / 2)
    old = torch.zeros(size, dtype=torch.uint8, device=device)
    new = torch.empty_like(old)
    copy = best_seconds(lambda: new.copy_(old), device, seconds / 2)
    name = "CPU" if is_cpu else torch.cuda.get_device_name(device)
    return Device(
        name,
        2 * side**3 / product,
        2 * size / copy,
        free,
        free_ram,
        shutil.disk_usage(folder).free,
        is_cpu,
    )


def best_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest run in `seconds`, of at least three runs after one to warm up."""

    def timed() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    end = time.perf_counter() + seconds
    timed()
    times = [timed() for _ in range(3)]
    while time.perf_counter() < end:
        times.append(timed())
    return min(times)

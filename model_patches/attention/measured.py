"""Attention by whichever of torch's kernels is the fastest on a card, measured once there and kept in a file.

For the engine alone: inside a host the user chooses. B batch, L tokens, N heads, D head width.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...kernels.out_of_memory import is_out_of_memory
from .sdpa import sdpa

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
OWN = "torch's own choice"
# that a kernel has to be faster by: less is noise, and another kernel's roundings are another video
MARGIN = 0.05
FOLDER = "RIVULET_CACHE"  # names the folder of the file, instead of rivulet/ in the user's cache
QUERIES, KEYS, HEADS = 4680, 14040, 12  # a block of Wan 1.3B at 832x480 over a window of nine latent frames
CALLS = 5  # timed; the shortest counts
NO_KERNEL = re.compile(
    r"no (viable|available) (backend|kernel)", re.IGNORECASE
)  # torch's words for a refusal

Clock = Callable[[Callable[[], object]], float]  # runs the work; its seconds


def measured_sdpa(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """`sdpa`, on a CUDA card by the kernel that `chosen` names; without gradients only."""
    if not q_BLND.is_cuda or q_BLND.requires_grad or torch.compiler.is_compiling():
        return sdpa(q_BLND, k_BLND, v_BLND)
    return attend_by(chosen(q_BLND.device, q_BLND.dtype, q_BLND.shape[-1]), q_BLND, k_BLND, v_BLND)


def attend_by(name: str, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """`sdpa` by a kernel of KERNELS; by torch's own choice for OWN, and where it takes no such tensors."""
    if name != OWN:
        try:
            with sdpa_kernel(KERNELS[name]):
                return sdpa(q_BLND, k_BLND, v_BLND)
        except RuntimeError as error:
            if not NO_KERNEL.search(str(error)):
                raise
    return sdpa(q_BLND, k_BLND, v_BLND)


@cache
def chosen(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """A name of KERNELS, or OWN: from the file, else measured now, which takes a tenth of a second, and kept.

    OWN where there is no CUDA card, and in float32, which none but one of the kernels takes.
    """
    if not torch.cuda.is_available() or dtype == torch.float32:
        return OWN
    entry = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {dtype}, heads of {width}"
    table = read_table()
    if entry not in table:
        try:
            table[entry] = measure(device, dtype, width)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return OWN
        write_table(table)
    return fastest(table[entry])


def fastest(seconds: Mapping[str, float]) -> str:
    """The kernel with the least seconds, if it beats torch's own choice by MARGIN, else OWN."""
    name = min(seconds, key=seconds.__getitem__, default=OWN)
    own = seconds.get(OWN, 0.0)
    return name if name in KERNELS and seconds[name] < own * (1 - MARGIN) else OWN


@torch.inference_mode()
def measure(
    device: torch.device, dtype: torch.dtype, width: int, clock: Clock | None = None
) -> dict[str, float]:
    """Seconds of one attention by torch's own choice and by each kernel that takes it and is right.

    clock: None: the device's. What says that the card is full passes.
    """
    clock = clock or (lambda work: _seconds(work, device))
    numbers = torch.Generator(device).manual_seed(20)
    q, k, v = (
        torch.randn(1, count, HEADS, width, generator=numbers, dtype=dtype, device=device)
        for count in (QUERIES, KEYS, KEYS)
    )
    own = sdpa(q, k, v)
    # weights and results are rounded once each, in each of the two; what float32 rounds in a score is less
    bound = 4 * torch.finfo(dtype).eps * v.abs().max()
    found = {OWN: clock(lambda: sdpa(q, k, v))}
    for name, kernel in KERNELS.items():
        try:
            with sdpa_kernel(kernel):
                # a NaN is not within a bound
                if (sdpa(q, k, v) - own).abs().max() <= bound:
                    found[name] = clock(lambda: sdpa(q, k, v))
        except RuntimeError as error:  # a kernel that this card, dtype or build of torch has not
            if is_out_of_memory(error):
                raise
    return found


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    times = []
    for _ in range(CALLS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def table_path() -> Path:
    """The file that keeps what was measured."""
    if folder := os.environ.get(FOLDER):
        return Path(folder) / "attention.json"
    base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rivulet" / "attention.json"


def read_table() -> dict[str, dict[str, float]]:
    """What was measured, by card, version of torch, dtype and head width; {} where there is no such file."""
    try:
        table = json.loads(table_path().read_text(encoding="utf-8"))
        rows = {entry: {str(k): float(v) for k, v in row.items()} for entry, row in table.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {entry: row for entry, row in rows.items() if OWN in row and min(row.values()) > 0}


def write_table(table: Mapping[str, Mapping[str, float]]) -> None:
    """Keep it; where that is not possible the next process measures again, and the log says so."""
    path = table_path()
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(table, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("attention: what was measured is not kept: %s", error)

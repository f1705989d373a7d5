"""All that only a GPU can tell about kernels and cache formats, in one command: tests, kernels, whole blocks.

A block is five forwards of a Wan 1.3B of random weights over a full window, as a stream runs them: what a
format costs beside the dense window, and beside a dense window whose keys are all turned in float64 in every
layer of every forward, as the released code of the models' ancestors does it.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...kernels.rope import rotate_reference
from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.tree import DiTTree
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from ...model_patches.cache.core import StoredFormat
from ...model_patches.cache.cost import CacheCost
from ...model_patches.cache.dense import DENSE, DenseStore
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS, compatible_formats
from ...model_patches.cache.shapes import CacheShape, KeysValues
from ...model_patches.cache.store import Layout
from ...model_patches.geometry import Geometry
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from . import kernels
from .records import Rows

ROOT = Path(__file__).parents[2]
WAN = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
SMALL = WanConfig(dim=256, ffn_dim=512, num_layers=2, text_dim=64)  # --quick: shows that everything runs
WINDOWS = (9, 21)  # latent frames, the block's own included
PLANS = {"latent 256 int8 + 256 int4": (512, 256), "latent 256 int8 + 768 int4": (1024, 256)}  # rank, wide
TEST_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Float64Rope(StoredFormat):
    """The dense format with its keys turned as the ancestors do: a pass in float64, one back."""

    name: str = "dense, float64 RoPE"

    @property
    def cost(self) -> CacheCost:
        """Returns the dense format's."""
        return DENSE.cost

    def store(
        self, model: DiTTree, shape: CacheShape, frames: int, dtype: torch.dtype, device: torch.device
    ) -> DenseStore:
        """Returns new bytes for so many latent frames."""
        return Float64Store(shape, frames, dtype, device)

    def spec(self) -> dict[str, object]:
        """Returns its name."""
        return {"name": self.name}


class Float64Store(DenseStore):
    """Dense keys whose turn is a chain of float64 operations over the whole window."""

    def read(
        self, layer: int, rows: slice, at: Layout, key_table: Tensor, new: KeysValues | None
    ) -> tuple[Tensor, Tensor]:
        """Returns turned keys and values."""
        keys, values = self.view_keys_values(layer, rows, at)
        return rotate_reference(keys.double(), key_table.double()).to(keys.dtype), values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--no-tests", action="store_true", help="leave the tests of the kernels out")
    parser.add_argument("--rounds", type=int, help="blocks of each format that are timed; default 8, quick 2")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the kernels' tests pass; 2 without a GPU, where --quick still runs a small model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not chosen.quick:
        print("bench gpu: needs a CUDA GPU; with --quick it runs a small model on the CPU.", file=sys.stderr)
        return 2
    passed = chosen.no_tests or tested(rows, device)
    options = {"op": None, "aot": False, "targets": None, "markdown": False, "quick": chosen.quick}
    kernels.run(argparse.Namespace(**options), rows)
    for frames in WINDOWS:
        blocks(rows, frames, device, chosen.rounds or (2 if chosen.quick else 8), chosen.quick)
        gc.collect()
        torch.cuda.empty_cache()
    return 0 if passed else 1


def tested(rows: Rows, device: torch.device) -> bool:
    """Prints whether the kernels' tests pass here, where nothing of them may be skipped."""
    required = {} if device.type == "cpu" else {"RIVULET_REQUIRE_GPU": "1", "RIVULET_REQUIRE_TRITON": "1"}
    command = [sys.executable, "-I", "-m", "pytest", "-q", str(ROOT / "tests" / "kernels")]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | required,
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
        )
        ok, said = done.returncode == 0, done.stdout
    except subprocess.TimeoutExpired:
        ok, said = False, f"not done after {TEST_SECONDS} s"
    if not ok:
        print(said, file=sys.stderr)
    last = (said.strip().splitlines() or ["nothing was said"])[-1]
    rows("tests", ok=ok, why=last, test_seconds=time.perf_counter() - start)
    return ok


def blocks(rows: Rows, frames: int, device: torch.device, rounds: int, quick: bool) -> None:
    """Prints the time of a block over a full window for every format, taken in turns."""
    config, geometry = (SMALL, Geometry(64, 64)) if quick else (WAN, Geometry(832, 480))
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    preset = PositionPreset(f"window of {frames}", 3, frames - 3, frames - 1, trained_frames=frames)
    stream = StreamConfig(geometry, preset, dtype=dtype)
    text_BLE = torch.randn(1, 512, config.text_dim, device=device).to(dtype)
    found: dict[str, list[float]] = {}
    streams: dict[str, tuple[ModelCaller, StreamState]] = {}
    for name, (model, cache) in subjects(config, device, dtype).items():
        caller = ModelCaller(model, text_BLE.device)
        state = init(caller, (text_BLE,), stream, cache=cache)
        for _ in range(frames // 3 + 1):
            _, state = step(caller, state)
        streams[name], found[name] = (caller, state), []
    for _ in range(rounds):
        for name, (caller, state) in streams.items():
            start = _now(device)
            _, after = step(caller, state)
            found[name].append(_now(device) - start)
            streams[name] = caller, after
    for name, taken in found.items():
        dense = found["dense"]
        rows(
            "block",
            case=name,
            window_frames=frames,
            block_ms=1e3 * statistics.median(taken),
            best_block_ms=1e3 * min(taken),
            to_dense_ratio=statistics.median(a / b for a, b in zip(taken, dense, strict=True)),
            cache_bytes=streams[name][1].cache.bytes,
        )


def subjects(
    config: WanConfig, device: torch.device, dtype: torch.dtype
) -> Mapping[str, tuple[nn.Module, CacheFormat]]:
    """Returns (model, format) by name; the weights are random, so only times and bytes mean anything."""
    torch.manual_seed(0)
    sizes = MlaSizes()
    with device:
        wan = WanModel(config).to(dtype).eval().requires_grad_(False)
        mla = MlaModel(config, sizes).to(dtype).eval().requires_grad_(False)
    found: dict[str, tuple[nn.Module, CacheFormat]] = {}
    for model in (wan, mla):
        for kind in compatible_formats(model):
            if kind.source is None:
                found.setdefault(kind.name, (model, kind.build(model)))
    found |= {Float64Rope().name: (wan, Float64Rope()), "mla, dense window": (mla, DENSE)}
    for name, (rank, wide) in PLANS.items():
        # a small model has no more directions than channels
        plan = LayerPlan("latent", min(rank, config.dim), min(wide, config.dim))
        down_CR = torch.linalg.qr(torch.randn(config.dim, config.dim, device=device))[0].contiguous()
        layer = LayerBasis(torch.zeros(config.dim, device=device), down_CR, down_CR.T.contiguous())
        basis = Basis((layer,) * config.num_layers, (plan,) * config.num_layers)
        found[name] = wan, FORMATS["latent"].build(wan, source=basis)
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

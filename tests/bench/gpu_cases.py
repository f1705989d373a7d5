"""Streams of `bench gpu`, one after another: what is measured of each, with the figures of a plan beside it.

Models have Wan 1.3B's sizes and random weights, so only times and bytes mean anything. No two cases are on
the card together; those of one model share its weights.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...kernels.rope import rotate_reference
from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.tree import DiTTree
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset, preset
from ...model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from ...model_patches.cache.core import StoredFormat
from ...model_patches.cache.cost import CacheCost
from ...model_patches.cache.dense import DENSE, DenseStore
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.cache.shapes import CacheShape, KeysValues
from ...model_patches.cache.store import Layout, Turn
from ...model_patches.geometry import Geometry
from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.policy import OFF, MemoryPolicy
from ...model_patches.plan.plan import Request, plan_stream
from ...model_patches.plan.probe import Device
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.pipeline import Chunk
from ...model_patches.stream.pipeline import run as make_video
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init, step
from ...model_patches.vae.cost import DecoderCost, WanCost
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.vae.tiny import WIDTHS, TinyDecoder
from ...model_patches.vae.tiny_cost import TinyCost
from ...model_patches.vae.wan import WanVAE
from ...model_patches.writer.video import Mp4Writer
from .memory_subjects import random_encoder

FPS = 16
MORE_BLOCKS = 2  # beyond a full window, before speed counts
PLANS = {"latent 256 int8 + 256 int4": (512, 256), "latent 256 int8 + 768 int4": (1024, 256)}  # rank, wide
EIGHTH = "latent 256 int8 + 768 int4"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of models and pictures, and how long each case runs."""

    config: WanConfig
    geometry: Geometry
    vae_dim: int
    tiny_widths: tuple[int, int, int, int]
    text_tokens: int
    blocks: int  # whose pictures are counted, once the window is full
    rounds: int  # blocks of the transformer alone


WAN = Sizes(
    WanConfig(dim=1536, ffn_dim=8960, num_layers=30), Geometry(832, 480), 96, WIDTHS, 512, blocks=6, rounds=4
)
# --quick: shows that everything runs
SMALL = Sizes(
    WanConfig(dim=256, ffn_dim=512, num_layers=2, text_dim=64),
    Geometry(64, 64),
    8,
    (32, 16, 16, 16),
    16,
    blocks=1,
    rounds=1,
)


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
        self,
        layer: int,
        rows: slice,
        at: Layout,
        key_table: Tensor,
        new: KeysValues | None,
        turn: Turn | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns turned keys and values; the call's own keys are turned by `turn`, where there is one."""
        keys, values = self.view_keys_values(layer, rows, at)
        turned = rotate_reference(keys.double(), key_table.double()).to(keys.dtype)
        if new is not None and turn is not None:
            for slots, tokens in at.new:
                turn(new[0][:, tokens], key_table[slots], out=turned[:, slots])
        return turned, values


@dataclass(frozen=True, slots=True)
class Case:
    """One stream: how frames are kept, how many are seen, what is remembered, and what decodes."""

    format: str
    window: int = 9  # latent frames, the block's own included
    learned: bool = False
    tiny: bool = False
    mla: bool = False  # VideoMLA's layers instead of Wan's

    @property
    def name(self) -> str:
        """Of its rows."""
        more = (", learned memory" * self.learned) + (", tiny VAE" * self.tiny)
        return f"{self.format}, W{self.window}{more}" + (", VideoMLA's layers" * self.mla)

    @property
    def positions(self) -> PositionPreset:
        """Three frames of sink; a learned memory has Echo-Infinity's places."""
        if self.learned:
            return preset("echo")
        return PositionPreset(
            f"window of {self.window}", 3, self.window - 3, self.window - 1, trained_frames=self.window
        )


# the most important first
CASES = (
    Case("dense"),
    Case(EIGHTH),
    Case("dense", tiny=True),
    Case(EIGHTH, 12, learned=True),
    Case("dense", 12, learned=True),
    Case("int8"),
    Case("mla", mla=True),
    Case("mla-int8", mla=True),
)
# measured last, with what time is left
MORE = (
    Case("dense", mla=True),
    Case("dense", 21),
    Case(EIGHTH, 21),
    Case("latent 256 int8 + 256 int4"),
    Case("dense, float64 RoPE"),
)


@dataclass
class Bench:
    """The device, the sizes, and the model and the decoder that lie on it now."""

    device: torch.device
    sizes: Sizes
    rates: Device
    dit: nn.Module | None = None
    vae: nn.Module | None = None
    kinds: tuple[bool, bool] | None = None  # (VideoMLA's layers, tiny decoder)

    @property
    def dtype(self) -> torch.dtype:
        """Of models and cache."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def hold(self, case: Case) -> tuple[nn.Module, nn.Module]:
        """The case's model and decoder; what another case had is freed first."""
        kinds = (case.mla, case.tiny)
        if self.kinds != kinds or self.dit is None or self.vae is None:
            if self.kinds is None or self.kinds[0] != case.mla:
                self.dit = None
            self.vae = None
            self.free()
            torch.manual_seed(0)
            with self.device:
                self.dit = self.dit or self._ready(self._model(case))
                self.vae = self._ready(self._decoder(case))
            self.kinds = kinds
        assert self.dit is not None and self.vae is not None
        return self.dit, self.vae

    def drop(self) -> None:
        """Frees model and decoder."""
        self.dit = self.vae = self.kinds = None
        self.free()

    def free(self) -> None:
        """Gives back what nobody holds."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def now(self) -> float:
        """Seconds, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _model(self, case: Case) -> nn.Module:
        config = self.sizes.config
        return MlaModel(config, MlaSizes()) if case.mla else WanModel(config)

    def _decoder(self, case: Case) -> nn.Module:
        return TinyDecoder(self.sizes.tiny_widths) if case.tiny else WanVAE(self.sizes.vae_dim)

    def _ready(self, model: nn.Module) -> nn.Module:
        return model.to(self.dtype).eval().requires_grad_(False)


def measure(bench: Bench, case: Case) -> dict[str, float]:
    """Makes a video of the case, then blocks without pictures; what it took, and what a plan says of it."""
    dit, vae = bench.hold(case)
    bench.free()
    cache, policy = cache_of(case, dit, bench), memory_of(case, bench)
    bench.free()
    config = StreamConfig(bench.sizes.geometry, case.positions, dtype=bench.dtype)
    text_BLE = torch.randn(1, bench.sizes.text_tokens, bench.sizes.config.text_dim, device=bench.device)
    caller = ModelCaller(dit, bench.device)
    start = bench.now()
    state = init(caller, (text_BLE.to(bench.dtype),), config, cache=cache, memory=policy)
    found, state = video(bench, case, caller, vae, state, start)
    found |= blocks(bench, caller, state)
    if bench.device.type == "cuda":
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated(bench.device)
    return found | planned(bench, case, config, cache, policy, found)


def video(
    bench: Bench, case: Case, caller: ModelCaller, vae: nn.Module, state: StreamState, start: float
) -> tuple[dict[str, float], StreamState]:
    """Pictures a second into a file once the window is full, and when the first ones were handed over."""
    geometry, sizes = bench.sizes.geometry, bench.sizes
    warm, ends, frames = case.window // 3 + MORE_BLOCKS, [], []

    def on_chunk(chunk: Chunk) -> None:
        ends.append(time.perf_counter())
        frames.append(len(chunk.frames))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mp4"
        width, height = geometry.picture_size(vae.upscale)
        writer = Mp4Writer(path, width=width, height=height, fps=FPS)
        state = make_video(
            caller, VaeDecoder(vae), state, [writer], blocks=warm + sizes.blocks, on_chunk=on_chunk
        )
    counted, seconds = sum(frames[warm:]), ends[-1] - ends[warm - 1]
    return {
        "pictures_fps": counted / seconds,
        "chunk_ms": 1e3 * seconds / sizes.blocks,
        "first_picture_seconds": ends[0] - start,
        "cache_bytes": state.cache.bytes,
    }, state


def blocks(bench: Bench, caller: ModelCaller, state: StreamState) -> dict[str, float]:
    """Time of a block of the transformer alone."""
    taken: list[float] = []
    for _ in range(bench.sizes.rounds):
        start = bench.now()
        _, state = step(caller, state)
        taken.append(bench.now() - start)
    return {"block_ms": 1e3 * statistics.median(taken)}


def planned(
    bench: Bench,
    case: Case,
    config: StreamConfig,
    cache: CacheFormat,
    policy: MemoryPolicy,
    found: dict[str, float],
) -> dict[str, float]:
    """What a plan predicts at the rates that were measured here, and the share of the floor that was reached.

    The floor is the time of the products alone at the rate of a large one; the prediction adds the memory
    traffic of everything else.
    """
    sizes = bench.sizes
    request = Request(
        sizes.config,
        config,
        FPS,
        text_tokens=sizes.text_tokens,
        decoder=decoder_cost(case, sizes),
        vae_dtype=bench.dtype,
        cache=cache.cost,
        memory=policy.cost,
    )
    plan, rate = plan_stream(request), bench.rates.matmul_flops
    floor = (plan.block.flops + plan.decode.flops) / rate
    return {
        "predicted_chunk_ms": 1e3 * plan.seconds_per_chunk(bench.rates),
        "predicted_block_ms": 1e3 * plan.block.seconds(rate, bench.rates.bytes_per_second),
        "predicted_first_picture_seconds": plan.seconds_to_first_chunk(bench.rates),
        "floor_ms": 1e3 * floor,
        "of_floor_share": 1e3 * floor / found["chunk_ms"],
        "planned_bytes": plan.device_bytes,
    }


def decoder_cost(case: Case, sizes: Sizes) -> DecoderCost:
    """Of the case's decoder."""
    return TinyCost(sizes.tiny_widths) if case.tiny else WanCost(sizes.vae_dim)


def memory_of(case: Case, bench: Bench) -> MemoryPolicy:
    """The learned memory with an encoder as it is before training, or none."""
    if not case.learned:
        return OFF
    config = bench.sizes.config
    with bench.device:
        encoder = random_encoder(config.dim, config.num_heads, case.positions, bench.sizes.geometry)
    return LearnedMemory(encoder.to(bench.dtype), "random")


def cache_of(case: Case, dit: nn.Module, bench: Bench) -> CacheFormat:
    """How the case keeps frames; any directions do where a format wants some."""
    if case.format in FORMATS:
        return FORMATS[case.format].build(dit)
    return _MADE[case.format](dit, bench)


def _latent(rank: int, wide: int) -> Callable[[nn.Module, Bench], CacheFormat]:
    def build(dit: nn.Module, bench: Bench) -> CacheFormat:
        dim, layers = bench.sizes.config.dim, bench.sizes.config.num_layers
        # a small model has no more directions than channels
        plan = LayerPlan("latent", min(rank, dim), min(wide, dim))
        down_CC = torch.linalg.qr(torch.randn(dim, dim, device=bench.device))[0].contiguous()
        layer = LayerBasis(torch.zeros(dim, device=bench.device), down_CC, down_CC.T.contiguous())
        return FORMATS["latent"].build(dit, source=Basis((layer,) * layers, (plan,) * layers))

    return build


_MADE: dict[str, Callable[[nn.Module, Bench], CacheFormat]] = {
    Float64Rope().name: lambda dit, bench: Float64Rope(),
    **{name: _latent(*sizes) for name, sizes in PLANS.items()},
}

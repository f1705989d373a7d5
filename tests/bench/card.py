"""What a stream asks of a card, counted without one: operators, launches, bytes, waits and copies by block,
peak memory beside the plan's, and the time that cards are predicted to take.

True sizes on a card that is not there (tests/card): every operation runs, with shapes, strides and devices
and without numbers. Layers are alike, so counts with one layer and with two give those of all thirty.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.attention.positions import PositionPreset
from ...model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from ...model_patches.cache.cost import CacheCost
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.geometry import Geometry
from ...model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from ...model_patches.memory.learned import LearnedMemory
from ...model_patches.memory.off import OFF
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.plan.plan import Plan, Request, plan_stream
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.step import init, step
from ...model_patches.vae.cost import WAN_VAE, DecoderCost
from ...model_patches.vae.decoder import decode_stream
from ...model_patches.vae.tiny import TinyDecoder
from ...model_patches.vae.tiny_cost import TinyCost
from ...model_patches.vae.wan import WanVAE
from ..card.counting import CardCount, card_with_kernels
from ..card.guard import why_no_card
from ..card.watch import (
    ATTENTION,
    FREE_TO_CARD,
    FREE_TO_HOST,
    LAUNCH,
    TO_CARD,
    TO_HOST,
    WAIT,
    Row,
)
from .card_times import CARDS, HOST_SECONDS, block_work, model_seconds, total_seconds
from .records import Rows

WAN = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
SMALL = WanConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64)  # --quick: shows that everything runs
HALF = torch.bfloat16
# as ComfyUI is given them: Wan's VAE two latents at a time
PIECES = {"wan": 2, "tiny": 4}


@dataclass(frozen=True, slots=True)
class Case:
    """One stream to count."""

    format: str = "dense"
    frames: int = 9  # latent frames that a call attends to, its own included
    memory: str = "off"

    @property
    def preset(self) -> PositionPreset:
        """Three frames of sink, the rest window, and ids for a memory where there is one."""
        memory = 3 if self.memory == "learned" else 0
        last = self.frames - 1 + memory
        return PositionPreset(
            f"window of {self.frames}",
            3,
            self.frames - 3,
            last,
            trained_frames=last + 1,
            memory_frames=memory,
        )


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Of one block once the window is full."""

    operators: int  # of torch, each one kernel or more
    launches: int  # of Triton kernels
    attention_calls: int
    waits: int  # of the program for the card
    copies: int  # between card and host, from or into memory that is not pinned
    pass_bytes: int  # moved by all but products and attention
    resident_bytes: int  # alive on the card between two blocks, without a decoder
    peak_bytes: int  # alive on the card, without a decoder
    cache_bytes: int
    asked: tuple[Row, ...]  # waits and copies, by file and function; not one of them is a layer's


@dataclass(frozen=True, slots=True)
class DecodeCounts:
    """Of the decoding of one block after a stream's first."""

    operators: int
    pass_bytes: int
    resident_bytes: int  # weights and layer buffers
    peak_bytes: int  # the same, and what a piece needs


CASES = (
    *(Case(name) for name in ("dense", "int8", "latent", "mla", "mla-int8")),
    Case("dense", 12),
    Case("dense", 12, "learned"),
    Case("latent", 12, "learned"),
    Case("dense", 21),
)
QUICK = (Case(), Case("latent", 12, "learned"), Case("mla"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--case", help="only this cache format")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0; 2 where no card can be faked."""
    if why := why_no_card():
        print(f"bench card: {why}.", file=sys.stderr)
        return 2
    sizes, geometry = (SMALL, Geometry(64, 64)) if chosen.quick else (WAN, Geometry(832, 480))
    decoders = {name: count_decoding(name, geometry) for name in PIECES}
    for name, found in decoders.items():
        rows("decoding", is_counted=True, decoder=name, **asdict(found))
    for case in QUICK if chosen.quick else CASES:
        if chosen.case in (None, case.format):
            counted(rows, case, sizes, geometry, decoders)
    return 0


def counted(
    rows: Rows, case: Case, sizes: WanConfig, geometry: Geometry, decoders: Mapping[str, DecodeCounts]
) -> None:
    """Prints a case's counts, and with each decoder its peak beside the plan's, and predicted times."""
    block = count_layers(case, sizes, geometry)
    names = {"is_counted": True, "format": case.format, "window_frames": case.frames, "memory": case.memory}
    rows("block", **names, **{name: value for name, value in asdict(block).items() if name != "asked"})
    for row in block.asked:
        rows(
            "asked", **names, op=row.kind, file=row.file, mode=row.function, calls=row.count, bytes=row.bytes
        )
    for name, decoding in decoders.items():
        request = request_of(case, sizes, geometry, name)
        plan = plan_stream(request)
        peak = peak_of(block, decoding)
        peaks = {"counted_bytes": peak, "planned_bytes": plan.device_bytes}
        rows("peak", **names, decoder=name, **peaks, planned_to_counted_ratio=plan.device_bytes / peak)
        predicted(rows, {**names, "decoder": name}, request, plan, block.pass_bytes)


def peak_of(block: BlockCounts, decoding: DecodeCounts) -> int:
    """Most bytes that are alive on the card: in a block beside the decoder, or in their making."""
    return max(
        block.resident_bytes + decoding.peak_bytes,
        block.peak_bytes + decoding.resident_bytes,
    )


def predicted(rows: Rows, names: Mapping[str, Any], request: Request, plan: Plan, pass_bytes: int) -> None:
    """Prints what cards are predicted to take for a block and its pictures."""
    work = block_work(request, plan, pass_bytes)
    pictures = request.geometry.time_stride * request.stream.block_frames
    for card in CARDS:
        seconds = total_seconds(work, card)
        rows(
            "predicted",
            **names,
            gpu=card.name,
            model_ms=1e3 * model_seconds(work, card),
            total_ms=1e3 * seconds,
            assumed_host_ms=1e3 * HOST_SECONDS,
            predicted_fps=pictures / seconds,
        )


def count_layers(case: Case, sizes: WanConfig, geometry: Geometry) -> BlockCounts:
    """Counts one block of a model of these sizes from those with one layer and with two."""
    one, two = (count_block(case, replace(sizes, num_layers=layers), geometry) for layers in (1, 2))
    more = sizes.num_layers - 1
    totals = {
        name: first + more * (getattr(two, name) - first)
        for name, first in asdict(one).items()
        if name != "asked"
    }
    return BlockCounts(**totals, asked=two.asked)


def count_block(case: Case, sizes: WanConfig, geometry: Geometry) -> BlockCounts:
    """Counts one block of a model of these sizes, once its window is full."""
    with torch.device("meta"):
        model = model_for(case.format, sizes)
        encoder = MemoryEncoder(encoder_config(sizes, geometry))
    blocks = case.frames // 3 + 2
    with card_with_kernels() as card, CardCount() as alive:
        card.attended = deque(maxlen=0)  # they would stay alive
        for part in (model, *([encoder] if case.memory == "learned" else [])):
            card.carry(part, HALF)
        text_BLE = torch.empty(1, 512, sizes.text_dim, dtype=HALF, device=card.device)
        memory: MemoryPolicy = LearnedMemory(encoder, "counted") if case.memory == "learned" else OFF
        caller = ModelCaller(model, card.device)
        config = StreamConfig(geometry, case.preset, dtype=HALF)
        state = init(caller, (text_BLE,), config, cache=cache_format(case.format, model), memory=memory)
        for block in range(blocks):
            card.watch.begin(f"block {block}")
            alive.start()
            _, state = step(caller, state)
        resident, cache = alive.live_bytes, state.cache.bytes
    seen = card.watch.sections[-1].rows()
    count = Counter[str]()
    for row in seen:
        count[row.kind] += row.count
    return BlockCounts(
        operators=alive.operators,
        launches=count[LAUNCH],
        attention_calls=count[ATTENTION],
        waits=count[WAIT],
        copies=count[TO_CARD] + count[TO_HOST],
        pass_bytes=alive.pass_bytes + sum(row.bytes for row in seen if row.kind == LAUNCH),
        resident_bytes=resident,
        peak_bytes=alive.peak_bytes,
        cache_bytes=cache,
        asked=tuple(row for row in seen if row.kind in (WAIT, TO_CARD, TO_HOST, FREE_TO_CARD, FREE_TO_HOST)),
    )


def count_decoding(name: str, geometry: Geometry) -> DecodeCounts:
    """Counts the pictures of one block after a stream's first."""
    with torch.device("meta"):
        vae = (WanVAE() if name == "wan" else TinyDecoder()).eval()
    with card_with_kernels() as card, CardCount() as alive:
        card.attended = deque(maxlen=0)  # they would stay alive
        card.carry(vae, HALF)
        latents_BCTHW = torch.empty(geometry.latent_shape(3), device=card.device)
        given, past = alive.live_bytes, None
        weights = given - latents_BCTHW.nbytes
        for _ in range(2):
            alive.start()
            pixels_FHWC, past = decode_stream(vae, latents_BCTHW, past, PIECES[name])
        buffers = alive.live_bytes - given - pixels_FHWC.nbytes
    return DecodeCounts(
        alive.operators, alive.pass_bytes, weights + buffers, alive.peak_bytes - latents_BCTHW.nbytes
    )


def model_for(name: str, sizes: WanConfig) -> WanModel | MlaModel:
    """A model that this cache format is for."""
    wan = WanModel(sizes)
    return (wan if FORMATS[name].why_not(wan) is None else MlaModel(sizes, MlaSizes())).eval()


def cache_format(name: str, model: nn.Module) -> CacheFormat:
    """The format for a model on the card; the latent one as large as a plan expects it."""
    kind = FORMATS[name]
    if name != "latent":
        return kind.build(model)
    config = model.config
    whole = torch.empty(config.dim, config.dim, device=model.head.head.weight.device)
    plan = latent_plan(config)
    layer = LayerBasis(whole[0], whole, whole)
    return kind.build(model, source=Basis((layer,) * config.num_layers, (plan,) * config.num_layers))


def latent_plan(sizes: WanConfig) -> LayerPlan:
    """An eighth of the dense bytes: three quarters of the width, a sixth of it in int8."""
    return LayerPlan("latent", sizes.dim * 3 // 4 // 64 * 64, sizes.dim // 6 // 64 * 64 or 32)


def encoder_config(sizes: WanConfig, geometry: Geometry) -> EncoderConfig:
    """Three latent frames of memory tokens, as Echo-Infinity's (arXiv 2606.04527)."""
    return EncoderConfig(sizes.dim, sizes.num_heads, 3, geometry.grid_height, geometry.grid_width)


def request_of(case: Case, sizes: WanConfig, geometry: Geometry, decoder_name: str) -> Request:
    """What a plan is asked for this case."""
    with torch.device("meta"):
        model = model_for(case.format, sizes)
        cost: CacheCost = FORMATS[case.format].cost(model)
    decoder: DecoderCost = WAN_VAE if decoder_name == "wan" else TinyCost()
    request = Request(
        sizes,
        StreamConfig(geometry, case.preset, dtype=HALF),
        fps=16,
        decoder=decoder,
        cache=cost,
        piece_latents=PIECES[decoder_name],
        weights_bytes=sum(p.numel() for p in model.parameters()) * HALF.itemsize,
    )
    if case.memory == "off":
        return request
    with torch.device("meta"):
        encoder = MemoryEncoder(encoder_config(sizes, geometry))
    return replace(request, memory=LearnedMemory(encoder, "counted").cost)

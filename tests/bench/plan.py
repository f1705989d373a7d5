"""What a stream is computed to need at real sizes, and how far the prediction is from the pocket model."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.geometry import Geometry
from ...model_patches.plan.plan import Plan, Request, plan_stream
from ...model_patches.plan.probe import Device, probe
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.step import step
from ...model_patches.vae.cost import WanCost
from ...model_patches.vae.decoder import decode_stream
from .plan_cards import cards, table
from .records import Rows
from .subject import Subject, subject

WAN_1_3B = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
PICTURES = ((832, 480), (1280, 720))
# presets and planned seconds; self_forcing keeps every frame of its 81 pictures
PRESETS = {"videomla_6": None, "reward_forcing": None, "longlive_infinity": None, "self_forcing": 81 / 16}
# rates that a run would have to reach, so that a time can be computed; nobody's measurement
ASSUMED = Device("assumed", matmul_flops=100e12, bytes_per_second=800e9)
WARM_BLOCKS = 6  # the pocket's window is full


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--blocks", type=int, help="pocket blocks to measure; default 30, quick 10")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument("--computed-only", action="store_true", help="leave the measured comparison out")
    parser.add_argument("--table", action="store_true", help="print the table of cards of docs/plan.md alone")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0: computed rows for Wan 1.3B, cards for 1.3B and 14B, then the pocket's predicted and measured
    seconds."""
    if chosen.table:
        print(table(), file=rows.out)
        return 0
    for width, height in PICTURES:
        for name, seconds in PRESETS.items():
            stream = StreamConfig(Geometry(width, height), name, dtype=torch.bfloat16)
            computed(rows, Request(WAN_1_3B, stream, fps=16, seconds=seconds))
    cards(rows)
    if not chosen.computed_only:
        compared(rows, subject(chosen.weights), chosen.blocks or (10 if chosen.quick else 30))
    return 0


def computed(rows: Rows, request: Request) -> None:
    """Prints what a request needs by formula; every row says so."""
    plan, stream, geometry = plan_stream(request), request.stream, request.geometry
    rows(
        "computed",
        is_computed=True,
        case="wan_1.3b",
        preset=stream.positions.name,
        width_pixels=geometry.width,
        height_pixels=geometry.height,
        capacity_frames=request.cache_frames,
        cache_token_bytes=request.cache.token_bytes(request.cache_shape, stream.dtype),
        **memory(plan),
        block_tflop=plan.block.flops / 1e12,
        decode_tflop=plan.decode.flops / 1e12,
        block_moved_bytes=plan.block.operand_bytes + plan.block.pass_bytes,
        decode_moved_bytes=plan.decode.operand_bytes + plan.decode.pass_bytes,
        assumed_chunk_seconds=plan.seconds_per_chunk(ASSUMED),
        assumed_first_chunk_seconds=plan.seconds_to_first_chunk(ASSUMED),
    )


def memory(plan: Plan) -> dict[str, int]:
    """Returns the bytes of a plan under their names."""
    return {
        "weights_bytes": plan.weights_bytes,
        "vae_weights_bytes": plan.vae_weights_bytes,
        "cache_bytes": plan.cache_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "text_bytes": plan.text_bytes,
        "past_bytes": plan.buffer_bytes,
        "activation_bytes": plan.activation_bytes,
        "decode_bytes": plan.decode_bytes,
        "device_bytes": plan.device_bytes,
        "ram_bytes": plan.ram_bytes,
        "snapshot_bytes": plan.snapshot_bytes,
        "hour_of_video_bytes": plan.video_bytes_per_hour,
    }


def compared(rows: Rows, given: Subject, blocks: int) -> None:
    """Prints predicted and measured seconds of the pocket model on this CPU; the ratio is a fact, no test."""
    request = request_of(given)
    plan, config = plan_stream(request), request.stream
    device = probe(torch.device("cpu"), config.dtype, Path.cwd())
    state, past = given.start(), None
    block_seconds, decode_seconds = [], []
    for index in range(WARM_BLOCKS + blocks):
        start = time.perf_counter()
        latents, state = step(given.caller, state)
        middle = time.perf_counter()
        _, past = decode_stream(given.vae, latents, past)
        if index >= WARM_BLOCKS:
            block_seconds.append(middle - start)
            decode_seconds.append(time.perf_counter() - middle)
    rates = device.matmul_flops, device.bytes_per_second
    rows("probe", matmul_gflop_per_seconds=rates[0] / 1e9, copy_gigabytes_per_seconds=rates[1] / 1e9)
    for case, work, found in (("block", plan.block, block_seconds), ("decode", plan.decode, decode_seconds)):
        # the probe's rates are its best runs, so the best block stands beside them
        predicted, best = work.seconds(*rates), min(found)
        rows(
            "measured",
            case=case,
            weights=given.weights,
            predicted_seconds=predicted,
            best_seconds=best,
            median_seconds=statistics.median(found),
            predicted_to_best_ratio=predicted / best,
            chunk_tflop=work.flops / 1e12,
        )
    rows("measured", case="cache", planned_bytes=plan.cache_bytes, cache_bytes=state.cache.bytes)


def request_of(given: Subject) -> Request:
    """Returns what a plan is asked for this subject."""
    assert isinstance(given.dit, WanModel)
    dtype = next(given.vae.parameters()).dtype
    return Request(
        given.dit.config,
        given.config,
        given.fps,
        text_tokens=given.text_BLE.shape[1],
        decoder=WanCost(given.vae.decoder.conv1.out_channels // 4, upscale=given.vae.upscale),
        vae_dtype=dtype,
    )

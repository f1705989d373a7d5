"""Time and memory of one layer of Wan 1.3B's true width over a full window, against the plan of the same.

On a processor the layer and the picture are small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from ..arch.tree import DiTTree
from ..arch.wan import WanConfig, WanModel
from ..attention.positions import PositionPreset
from ..cache.formats import find_format
from ..geometry import Geometry
from ..plan.cards import usable_formats
from ..plan.plan import Plan, Request, plan_stream
from ..plan.probe import Device, probe
from ..plan.verdict import FITS, FITS_WITH, HEADROOM, gigabytes, judge
from ..stream.config import StreamConfig
from ..stream.model_caller import ModelCaller
from ..stream.step import init, step
from .clock import Clock, timed
from .finding import BROKEN, OK, SKIPPED, SLOW, Finding

WAN = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
NARROW = WanConfig(dim=384, ffn_dim=1536, num_layers=1, text_dim=512)  # for a processor
WINDOW = PositionPreset("window of 9", 3, 6, last_id=8, trained_frames=9)
CARD_PICTURE, PROCESSOR_PICTURE = Geometry(832, 480), Geometry(64, 64)
TEXT_TOKENS = 512
FILL = 3  # blocks until the window is full
TIMES = 3
SLOWER = 3.0  # times the plan's seconds from which on a machine is called slow: the plan counts no launches
# cuBLAS and cuBLASLt keep up to 32 MiB each on Hopper, less elsewhere (docs.nvidia.com/cuda/cublas, 2.1.17)
WORKSPACE_BYTES = 64 << 20
PROBE_BYTES = 2.6e9  # that `plan.probe` takes of a card for a moment


@dataclass(frozen=True, slots=True)
class Measured:
    """What a block of the layer took."""

    seconds: float
    peak_bytes: int | None  # of the card, beyond what was there before; None: not counted there


def request_for(model: WanConfig, device: torch.device, dtype: torch.dtype) -> Request:
    """The stream whose plan is asked for."""
    picture = PROCESSOR_PICTURE if device.type == "cpu" else CARD_PICTURE
    stream = StreamConfig(picture, WINDOW, dtype=dtype)
    return Request(model, stream, 16, 10.0, TEXT_TOKENS, vae_dtype=dtype)


def check_speed(device: torch.device, dtype: torch.dtype, clock: Clock) -> Iterator[Finding]:
    """Seconds of a block, and peak bytes, each against the plan; whether the whole model fits."""
    there = measured_device(device, dtype)
    clock.tick()
    layer = NARROW if device.type == "cpu" else replace(WAN, num_layers=1)
    request = request_for(layer, device, dtype)
    plan, found = plan_stream(request), measure_layer(request, device, clock)
    yield time_finding(plan, found, there, layer.dim)
    yield memory_finding(plan, found)
    if there is not None and not there.is_cpu:
        yield fit(request_for(WAN, device, dtype), there)


def measured_device(device: torch.device, dtype: torch.dtype) -> Device | None:
    """Rates and free memory; None where they cannot be measured."""
    if device.type not in ("cpu", "cuda"):
        return None
    free = None if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if free is not None and free < PROBE_BYTES:
        return None
    return probe(device, dtype, Path(tempfile.gettempdir()))


@torch.inference_mode()
def measure_layer(request: Request, device: torch.device, clock: Clock) -> Measured:
    """Blocks over a full window; the fastest counts."""
    before = _allocated(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        model = WanModel(request.model).to(request.stream.dtype)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    shape = (1, request.text_tokens, request.model.text_dim)
    text_BLE = torch.randn(shape, dtype=request.stream.dtype, device=device, generator=generator)
    caller, seconds = ModelCaller(cast(DiTTree, model), device), []
    state = init(caller, (text_BLE,), request.stream)
    for block in range(FILL + TIMES):
        if block == FILL and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        def make() -> None:
            nonlocal state
            _, state = step(caller, state)

        seconds.append(timed(make, device))
        clock.tick()
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    return Measured(min(seconds[FILL:]), peak)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def time_finding(plan: Plan, found: Measured, device: Device | None, width: int) -> Finding:
    """The measured block against the plan's, at the rates that were measured here."""
    name, took = "Speed", f"{1e3 * found.seconds:.3g} ms for five calls of one layer of width {width}"
    figures = {"block_ms": 1e3 * found.seconds}
    if device is None:
        return Finding(name, OK, f"{took}; rates of this device were not measured", figures=figures)
    planned = plan.block.seconds(device.matmul_flops, device.bytes_per_second)
    figures |= {
        "planned_ms": 1e3 * planned,
        "tflop_per_second": device.matmul_flops / 1e12,
        "gb_per_second": device.bytes_per_second / 1e9,
    }
    said = f"{took}, {found.seconds / planned:.2g} times the plan's"
    if device.is_cpu or found.seconds <= SLOWER * planned:
        return Finding(name, OK, said, figures=figures)
    way = "other programs on the card, a power limit, or kernels that are not used (above)"
    return Finding(name, SLOW, said, way, figures)


def memory_finding(plan: Plan, found: Measured) -> Finding:
    """The peak against the plan's, which a verdict raises by its headroom; libraries' own is apart."""
    name = "Peak memory"
    if found.peak_bytes is None:
        return Finding(name, SKIPPED, "only cards of NVIDIA and AMD count it")
    parts = plan.weights_bytes, plan.cache_bytes, plan.workspace_bytes, plan.text_bytes, plan.activation_bytes
    planned = sum(parts)
    figures = {"peak_bytes": found.peak_bytes, "planned_bytes": planned}
    said = f"{gigabytes(found.peak_bytes)} for one layer, planned {gigabytes(planned)}"
    if found.peak_bytes <= HEADROOM * planned + WORKSPACE_BYTES:
        return Finding(name, OK, said, figures=figures)
    return Finding(name, BROKEN, said, "leave more memory free than Plan Stream says", figures)


def fit(request: Request, device: Device) -> Finding:
    """Whether Wan 1.3B fits this card, with the way out where it does not."""
    geometry = request.geometry
    name = f"Wan 1.3B at {geometry.width}x{geometry.height}"
    with torch.device("meta"):
        model = WanModel(request.model)
    formats = [cost for cost in usable_formats(cast(DiTTree, model)) if find_format(cost.name).source is None]
    verdict = judge(request, device, formats)
    if verdict.answer == FITS:
        return Finding(name, OK, verdict.text)
    if verdict.answer == FITS_WITH:
        return Finding(name, SLOW, verdict.text, "Plan Stream proposes it for every workflow")
    way = "the Pocket Model runs everywhere; a tiny decoder and weights of fewer bits take less"
    return Finding(name, BROKEN, verdict.text, way)

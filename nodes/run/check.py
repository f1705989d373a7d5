"""The check of a card inside ComfyUI: the engine's tests, and those of the host's own path."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...model_patches.cache.dense import DENSE
from ...model_patches.check.clock import Clock
from ...model_patches.check.finding import Figure, Finding
from ...model_patches.check.report_file import write_report
from ...model_patches.check.streams import CPU, check_resume, compare_streams
from ...model_patches.check.subject import Start
from ...model_patches.check.suite import Check, Report, Suite
from ...model_patches.geometry import Geometry
from ...model_patches.memory.policy import OFF
from ...model_patches.stream.config import StreamConfig
from ...pocket import text
from ...pocket.models import load_pocket
from ..host.caller import HostCaller, HostPrompt
from ..host.decoder import decoder_for
from ..host.needs import version
from ..host.past import host_attention
from ..pocket_model import FLAT, RivuletPocketModel

NEEDED_BYTES = 4e9  # that the tests take of a card for a moment
PROMPT = "a red circle and a blue square on a green ground"
WAY = "start ComfyUI with --use-pytorch-cross-attention; the Doctor's line Attention says what it has now"
log = logging.getLogger(__name__)


def check_card(quick: bool) -> tuple[Report, Path]:
    """The report, and the file in the output folder that it is in; an interruption passes through."""
    device = management.get_torch_device()
    if not management.is_device_cpu(device):
        management.free_memory(NEEDED_BYTES, device)
    bar: list[comfy.utils.ProgressBar] = []

    def tell(number: int, count: int, finding: Finding) -> None:
        log.info("Rivulet check [%s/%s] %.1f s  %s", number, count, finding.seconds, finding.line)
        if not bar:
            bar.append(comfy.utils.ProgressBar(count))
        bar[0].update_absolute(number, count)

    suite = Suite(
        device,
        quick,
        attentions={f"Attention, as ComfyUI calls it ({chosen_attention()})": host_attention({})},
        more=(Check("ComfyUI's path", 60, _host_stream),),
        more_facts=host_facts(),
        pulse=management.throw_exception_if_processing_interrupted,
        tell=tell,
    )
    report, path = suite.run(), _report_path()
    write_report(report, path)
    return report, path


def chosen_attention() -> str:
    """The name of the function that ComfyUI chose."""
    return import_module("comfy.ldm.modules.attention").optimized_attention.__name__


def host_facts() -> dict[str, Figure]:
    """What of the host decides how a stream runs; None for what this ComfyUI does not have."""
    memory = _module("comfy.memory_management")
    state = getattr(management, "vram_state", None)
    return {
        "comfyui": version(),
        "comfy-kitchen": _version("comfy-kitchen"),
        "comfy-aimdo": _version("comfy-aimdo"),
        "comfyui_attention": chosen_attention(),
        "vram_state": getattr(state, "name", None),
        "dynamic_vram": getattr(memory, "aimdo_enabled", None),
        "vae_dtype": str(management.vae_dtype(management.get_torch_device())).removeprefix("torch."),
    }


def _host_stream(clock: Clock) -> Iterator[Finding]:
    """The built-in model through the host's loader, sampler and VAE, against the engine on the processor."""
    model, _, vae = RivuletPocketModel.execute(look=FLAT).args
    caller, text_BLC = HostCaller(model), text.encode(PROMPT)
    places = torch.float64, caller.dtype
    starts = [_engine_start(dtype, text_BLC) for dtype in places] + [_host_start(model, text_BLC)]
    yield compare_streams("ComfyUI's path, stream", starts, caller.dtype, clock, WAY)
    decoder = decoder_for(vae, caller.to_vae)
    yield check_resume("ComfyUI's path, Resume", lambda: _host_start(model, text_BLC), decoder, clock)


def _engine_start(dtype: torch.dtype, text_BLC: Tensor) -> Start:
    pocket = load_pocket(dtype=dtype)
    return Start(pocket.caller, (text_BLC.to(CPU, dtype),), _config(dtype), DENSE, OFF)


def _host_start(model: object, text_BLC: Tensor) -> Start:
    caller = HostCaller(model)
    return Start(caller, HostPrompt([[text_BLC, {}]]), _config(caller.dtype), DENSE, OFF)


def _config(dtype: torch.dtype) -> StreamConfig:
    """The built-in model's contract at a size that a processor makes in seconds, without guidance."""
    return StreamConfig(Geometry(64, 64), "pocket", sigmas=(1.0, 0.6), seed=5, dtype=dtype)


def _report_path() -> Path:
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        "rivulet/check", folder_paths.get_output_directory()
    )
    return Path(folder) / f"{name}_{counter:05}_.json"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _module(name: str) -> object | None:
    try:
        return import_module(name)
    except ImportError:
        return None

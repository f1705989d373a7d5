"""What a machine is made of, and whether its graphics card can be used by the torch that is there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from ..plan.ram import free_ram_bytes
from ..plan.verdict import gigabytes
from ..writer.ffmpeg import find_ffmpeg
from .finding import BROKEN, OK, SKIPPED, SLOW, Figure, Finding

PACKAGES = ("numpy", "safetensors", "pillow", "imageio-ffmpeg")
TRITONS = ("triton", "triton-windows", "pytorch-triton-rocm", "pytorch-triton")
TENSOR_CORES = (8, 0)  # compute capability from which on a card multiplies in bfloat16: Ampere
PATIENCE_SECONDS = 20  # with another program
NVIDIA_PROC = Path("/proc/driver/nvidia")


def pack_version() -> str:
    """The pack's version, as its pyproject.toml says."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        match = re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return "unknown"
    return match[1] if match else "unknown"


def device_of(asked: str | None) -> torch.device:
    """The device of that name, or the first card that torch can use, else the processor.

    ValueError with the devices that are there for one that is not.
    """
    there = _devices()
    if asked is None:
        return torch.device(there[0])
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = None
    known = {name for each in there for name in (each, each.removesuffix(":0"))}
    if device is None or str(device) not in known:
        raise ValueError(f"check: there is no device {asked!r}; choose one of {', '.join(there)}.")
    return device if device.index is not None or device.type in ("cpu", "mps") else torch.device(there[0])


def _devices() -> list[str]:
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if has_cuda() else []
    if _has("mps"):
        found.append("mps")
    if _has("xpu"):
        found += [f"xpu:{index}" for index in range(torch.xpu.device_count())]
    return [*found, "cpu"]


def has_cuda() -> bool:
    """Whether torch can use a card of NVIDIA or AMD."""
    return torch.cuda.is_available()


def _has(kind: str) -> bool:
    module = getattr(torch, kind, None)
    return bool(module is not None and getattr(module, "is_available", lambda: False)())


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype that streams use there, unless the user says otherwise: float32 on a processor."""
    if device.type == "cpu":
        return torch.float32
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if device.type != "cuda" or multiplies_bfloat16(device) else torch.float16


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a card of NVIDIA or AMD has bfloat16 in its matrix units."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= TENSOR_CORES


def facts(device: torch.device) -> dict[str, Figure]:
    """Versions, device, memory; what cannot be found out is None."""
    found: dict[str, Callable[[], Figure]] = {
        "rivulet": pack_version,
        "python": platform.python_version,
        "system": lambda: f"{platform.system()} {platform.machine()}",
        "wsl": lambda: "microsoft" in platform.release().lower(),
        "torch": lambda: torch.__version__,
        "cuda": lambda: torch.version.cuda,
        "hip": lambda: torch.version.hip,
        "cudnn": torch.backends.cudnn.version,
        "triton": triton_version,
        **{name: (lambda name=name: _version(name)) for name in PACKAGES},
        "ffmpeg": ffmpeg_version,
        "cores": os.cpu_count,
        "threads": torch.get_num_threads,
        "free_ram_bytes": free_ram_bytes,
        "driver": driver,
        "device": lambda: str(device),
        "device_name": lambda: name_of(device),
        "compute_dtype": lambda: str(compute_dtype(device)).removeprefix("torch."),
    }
    if device.type == "cuda":
        found |= {
            "capability": lambda: ".".join(map(str, torch.cuda.get_device_capability(device))),
            "multiprocessors": lambda: torch.cuda.get_device_properties(device).multi_processor_count,
            "total_bytes": lambda: torch.cuda.mem_get_info(device)[1],
            "free_bytes": lambda: torch.cuda.mem_get_info(device)[0],
            "allocator": torch.cuda.get_allocator_backend,
        }
    return {name: _or_none(ask) for name, ask in found.items()}


def _or_none(ask: Callable[[], Figure]) -> Figure:
    try:
        return ask()
    except Exception:  # a report without a line is better than none
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def triton_version() -> str | None:
    """The version of whichever package brings Triton, None without one."""
    return next((found for found in map(_version, TRITONS) if found), None)


def ffmpeg_version() -> str:
    """The version of the program that writes videos; RuntimeError where there is none."""
    words = _said([find_ffmpeg(), "-version"]).split()
    return words[2] if len(words) > 2 else "unknown"


def name_of(device: torch.device) -> str:
    """The device's own name."""
    module = getattr(torch, device.type, None)
    if device.type in ("cuda", "xpu") and module is not None:
        return module.get_device_name(device)
    return platform.processor() or platform.machine() if device.type == "cpu" else device.type


def driver() -> str | None:
    """The version of NVIDIA's driver, or of macOS, whose Metal drives its cards."""
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return _nvidia("driver_version")


def _nvidia(field: str) -> str | None:
    """One field of NVIDIA's cards as their own program says it, None without card or program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    lines = _said([program, f"--query-gpu={field}", "--format=csv,noheader"]).strip().splitlines()
    return lines[0].strip() if lines else None


def _said(command: list[str]) -> str:
    """What a program printed, "" where it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def card_that_is_there() -> str | None:
    """The name of NVIDIA's card in this machine, whatever torch says; None without one."""
    if name := _nvidia("name"):
        return name
    cards = sorted(NVIDIA_PROC.glob("gpus/*/information"))
    if not cards:
        return None
    match = re.search(r"^Model:\s*(.+)$", cards[0].read_text(errors="replace"), re.MULTILINE)
    return match[1].strip() if match else "a card of NVIDIA"


def unusable_card() -> Finding | None:
    """The finding of a card that torch cannot use, None where there is no card or it can."""
    if has_cuda():
        return None
    card = card_that_is_there()
    if card is None:
        return None
    version = _or_none(driver) or "of unknown version"
    said = f"{card} is there (driver {version}), and torch {torch.__version__} cannot use it"
    if torch.version.hip is not None:
        said, way = f"{said}: it is built for cards of AMD", "install a torch with CUDA (pytorch.org)"
    elif torch.version.cuda is None:
        said, way = f"{said}: it is built without CUDA", "install a torch with CUDA (pytorch.org)"
    else:
        said = f"{said}: {_why_no_cuda()}"
        way = (
            f"update NVIDIA's driver to one for CUDA {torch.version.cuda}, or install a torch for an older "
            f"CUDA (pytorch.org); until then streams run on the processor"
        )
    return Finding("Card", BROKEN, said, way)


def _why_no_cuda() -> str:
    """torch's own words."""
    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).splitlines()[0].rstrip(".")
    return "it does not say why; CUDA_VISIBLE_DEVICES may hide the card"


def check_machine(device: torch.device) -> list[Finding]:
    """Card and dtype, ffmpeg."""
    found = [unusable_card() or _card(device), _dtype(device)]
    try:
        found.append(Finding("ffmpeg", OK, f"{ffmpeg_version()} with libx264"))
    except RuntimeError as why:
        found.append(Finding("ffmpeg", BROKEN, str(why), "without it no video can be written"))
    return found


def _card(device: torch.device) -> Finding:
    if device.type == "cpu":
        return Finding("Card", SKIPPED, "none is used, models run on the processor")
    parts = [f"{name_of(device)} as {device}"]
    if device.type == "cuda":
        free, total = (gigabytes(count) for count in torch.cuda.mem_get_info(device))
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        parts += [f"compute capability {capability}", f"{free} of {total} free"]
    parts += [f"driver {version}"] if (version := _or_none(driver)) else []
    return Finding("Card", OK, ", ".join(parts))


def _dtype(device: torch.device) -> Finding:
    dtype = compute_dtype(device)
    name = str(dtype).removeprefix("torch.")
    try:
        one = torch.full((16, 16), 0.5, dtype=dtype, device=device)
        right = bool(((one @ one).float().cpu() == 4.0).all())  # exact in every dtype
    except Exception as error:
        way = "start ComfyUI with --force-fp32"
        return Finding("Compute dtype", BROKEN, f"{name} does not run: {error}", way)
    if not right:
        way = "start ComfyUI with --force-fp32"
        return Finding("Compute dtype", BROKEN, f"a product in {name} came out wrong", way)
    if device.type == "cuda" and dtype == torch.float16:
        way = "fp16 has a smaller range; where a stream ends with NaN, start ComfyUI with --force-fp32"
        return Finding("Compute dtype", SLOW, "float16: this card has no bfloat16 in its matrix units", way)
    return Finding("Compute dtype", OK, f"{name}: a product is exact where it must be")

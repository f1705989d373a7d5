"""The node that says what this installation is made of, what works in it and what has been tested."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import comfy.model_management as management
import torch
from comfy_api.v0_0_2 import io, ui

from ..kernels.dispatch import triton_support
from ..model_patches.cache.formats import FORMATS
from ..model_patches.cache.kind import CacheKind
from ..model_patches.check.machine import pack_version
from ..model_patches.memory.kind import MemoryKind
from ..model_patches.memory.policies import POLICIES
from ..model_patches.plan.verdict import gigabytes
from ..model_patches.takes.listing import list_takes
from ..model_patches.takes.standing import BROKEN, CUT_OFF, STOPPED
from ..model_patches.writer.ffmpeg import find_ffmpeg
from .host.needs import OLDEST, TESTED, lacking, version

TESTED_WITH = (
    f"ComfyUI {TESTED} on Linux with a CPU, torch 2.13.0, the pocket model and small random Wan models; "
    f"NOT tested: a GPU, Windows, macOS, published checkpoints"
)
# kernels that streams call, and for which cache; the others do so in half precision alone
KERNELS = {
    "rope": "every cache",
    "norm_rope": "dense, int8, latent",
    "modulate": "every cache",
    "quantize": "int8, mla-int8",
}
HALF_KERNELS = {"latent_write": "latent", "rebuild": "latent, mla, mla-int8"}
MOST_TAKES = 5  # that a line names
NO_CHECK, QUICK_CHECK = "no", "quick"
CHECKS = {
    NO_CHECK: "only what is installed is listed",
    QUICK_CHECK: "two cache formats, about a minute",
    "whole": "all of them, at most three minutes",
}


class RivuletDoctor(io.ComfyNode):
    """A report for the user, and for whoever helps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RivuletDoctor",
            display_name="Rivulet Doctor",
            category="Rivulet",
            description="Lists versions, attention, Triton kernels (or why there are none), ffmpeg and "
            "what is missing, and says whether a model and a VAE can be streamed; on request it checks this "
            "card with small tests. Copy its text into a bug report.",
            search_aliases=["diagnose", "system info", "versions", "debug", "bug report"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", optional=True, tooltip="Checked, not run."),
                io.Vae.Input("vae", optional=True, tooltip="Checked, not run."),
                io.Combo.Input(
                    "check_card",
                    options=list(CHECKS),
                    default=NO_CHECK,
                    optional=True,
                    tooltip="Runs small tests on this card: kernels, attention, a stream in each cache "
                    "format, Resume, a full card, speed. Cancel stops it. The result is also a file in "
                    "output/rivulet, to send with a report. "
                    + "; ".join(f"{name}: {what}" for name, what in CHECKS.items())
                    + ".",
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="One finding per line.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Never equal to itself: the report is made anew each time."""
        return float("nan")

    @classmethod
    def execute(cls, model: Any = None, vae: Any = None, check_card: str = NO_CHECK) -> io.NodeOutput:
        """Returns the report, one finding a line; below it what the check of the card found."""
        text = "\n".join(f"{name}: {finding}" for name, finding in findings(model, vae).items())
        if check_card != NO_CHECK:
            text = f"{text}\n{checked(check_card)}"
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def findings(model: Any = None, vae: Any = None) -> dict[str, str]:
    """What was found, under the names a user reads."""
    missing = lacking()
    report = {
        "Rivulet": pack_version(),
        "ComfyUI": f"{version()} (needs {OLDEST}, tested with {TESTED})",
        "In ComfyUI": f"LACKS {', '.join(missing)}" if missing else "all that a stream relies on",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "Device": device(),
        "Attention": attention(model),
        "Triton": triton(),
        "ffmpeg": ffmpeg(),
        "Tested": TESTED_WITH,
    }
    if not missing:
        report |= {"Takes": takes(), **fitness(model, vae)}
    return report


def takes() -> str:
    """Videos in the output folder that ended early, and what can be done with each."""
    from .run.take_files import name_of, output_folder

    found = [take for take in list_takes(output_folder()) if take.standing in (STOPPED, CUT_OFF, BROKEN)]
    if not found:
        return "none in the output folder ended early"
    ready = [
        f"{name_of(take.path)} ({take.seconds:.1f} s, {take.standing})" for take in found if take.can_go_on
    ]
    broken = [f"{name_of(take.path)}: {take.reason}" for take in found if not take.can_go_on]
    parts = []
    if ready:
        parts.append(f"{len(ready)} can be gone on with, choose it in Resume Stream: {_listed(ready)}")
    if broken:
        parts.append(f"{len(broken)} cannot: {_listed(broken)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_TAKES} more" if len(names) > MOST_TAKES else ""
    return ", ".join(names[:MOST_TAKES]) + more


def checked(how: str) -> str:
    """What a check of the card found: a summary, then a line a finding, verdict first."""
    if missing := lacking():
        return f"Check of the card: not made, because ComfyUI lacks {', '.join(missing)}"
    from .run.check import check_card

    report, path = check_card(how == QUICK_CHECK)
    lines = "\n".join(finding.line for finding in report.findings)
    return f"Check of the card: {report.summary}, written to {path.parent.name}/{path.name}\n{lines}"


def device() -> str:
    """Where ComfyUI runs models, and the memory that is free there."""
    chosen = management.get_torch_device()
    free = gigabytes(management.get_free_memory(chosen))
    return f"{management.get_torch_device_name(chosen)}, {free} free"


def attention(model: Any = None) -> str:
    """The function that ComfyUI chose, or the MODEL's own choice before it."""
    from comfy.ldm.modules.attention import optimized_attention

    default = f"{optimized_attention.__name__}, as ComfyUI chose at start"
    options = {} if model is None else model.model_options.get("transformer_options", {})
    if "optimized_attention_override" not in options:
        return default
    return f"the override that the model carries, over {default}"


def triton() -> str:
    """Which Triton kernels run in streams here, or why none does, and the version of Triton."""
    where, installed = management.get_torch_device(), _triton_version()
    if where.type == "cpu":
        return f"no kernel in use, torch does it all: models run on the CPU, kernels on a GPU; {installed}"
    support = triton_support(where)
    if not support.triton:
        return f"no kernel in use, torch does it all: {support.why.rstrip('.')}; {installed}"
    tables = KERNELS, HALF_KERNELS
    every, half = (", ".join(f"{op} ({caches})" for op, caches in ops.items()) for ops in tables)
    return f"kernels in use on {where}: {every}; unless the model computes in float32, {half}; {installed}"


def _triton_version() -> str:
    for name in ("triton", "triton-windows"):
        try:
            return f"{name} {metadata.version(name)} is installed"
        except metadata.PackageNotFoundError:
            continue
    return "Triton is installed, version unknown" if find_spec("triton") else "Triton is not installed"


def ffmpeg() -> str:
    """The program that writes videos, or why there is none."""
    try:
        program = find_ffmpeg()
    except RuntimeError as why:
        return f"MISSING: {why}"
    output = subprocess.run(
        [program, "-version"], capture_output=True, text=True, errors="replace", check=False
    )
    words = output.stdout.split()
    return f"{words[2] if len(words) > 2 else 'version unknown'} with libx264, {program}"


def fitness(model: Any, vae: Any) -> dict[str, str]:
    """Whether what is connected can be streamed."""
    from .host.decoder import why_not_vae
    from .host.file import report_of
    from .host.tree import why_not

    report = {}
    if model is not None:
        dit = model.get_model_object("diffusion_model")
        refusal = why_not(dit)
        report["Model"] = refusal or f"{type(dit).__name__}, can be streamed"
        if refusal is None:
            report |= choices(model, dit)
        if file := report_of(model):
            report["Model's file"] = file
    if vae is not None:
        report["VAE"] = why_not_vae(vae) or "can be streamed"
    return report


def choices(model: Any, dit: Any) -> dict[str, str]:
    """What Small Cache and Evolving Memory have for this model, and what they have not."""
    from .host.recipe import recipe_of

    memory = recipe_of(model).taught
    caches = [(kind, kind.source is not None, kind.why_not(dit) is None) for kind in FORMATS.values()]
    memories = [(kind, bool(kind.files), kind.why_not(dit, memory) is None) for kind in POLICIES.values()]
    return {"Small Cache": _list_kinds(caches), "Evolving Memory": _list_kinds(memories)}


def _list_kinds(kinds: Sequence[tuple[CacheKind | MemoryKind, bool, bool]]) -> str:
    """Kinds in a line, each with whether it is built from a file and whether it goes with the model."""
    names = []
    for kind, has_file, fits in kinds:
        needs = "" if not kind.needs or has_file is not fits else f" (needs {kind.needs})"
        names.append(f"{kind.name}{needs}" if fits else f"not {kind.name}{needs}")
    return ", ".join(names)

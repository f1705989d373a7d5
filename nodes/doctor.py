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

from ..kernels.dispatch import faults_on, offers, triton_support
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

TESTED_WITH = f"ComfyUI {TESTED} on Linux with a CPU, torch 2.13.0, the pocket model, small random Wan models"
NOT_TESTED = "a GPU, Windows, macOS, published checkpoints"
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
        """Returns the verdict, then a finding a line; below it what the check of the card found."""
        lines = [verdict(model, vae), *(f"{name}: {said}" for name, said in findings(model, vae).items())]
        if check_card != NO_CHECK:
            lines.append(checked(check_card))
        text = "\n".join(lines)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def verdict(model: Any = None, vae: Any = None) -> str:
    """Whether what is installed and connected can stream, and if not, why."""
    missing = lacking()
    reasons = [f"ComfyUI lacks {', '.join(missing)}"] if missing else refusals(model, vae)
    try:
        find_ffmpeg()
    except RuntimeError as why:
        reasons.append(str(why).rstrip("."))
    return f"Cannot stream: {'; '.join(reasons)}." if reasons else "Ready to stream."


def refusals(model: Any, vae: Any) -> list[str]:
    """Why the MODEL and the VAE cannot be streamed; what is not connected is not judged."""
    from .host.decoder import why_not_vae
    from .host.tree import why_not

    found = [
        None if model is None else why_not(model.get_model_object("diffusion_model")),
        None if vae is None else why_not_vae(vae),
    ]
    return [refusal.rstrip(".") for refusal in found if refusal]


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
        **triton(),
        **ffmpeg(),
        "Tested with": TESTED_WITH,
        "Not tested": NOT_TESTED,
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


def triton() -> dict[str, str]:
    """Whether Triton's kernels run in streams here, or why not, and which they are."""
    where, installed = management.get_torch_device(), _triton_version()
    if where.type == "cpu":
        return {"Triton": f"not used: models run on the CPU, its kernels need a GPU ({installed})"}
    support = triton_support(where)
    if support.full:
        return {"Triton": f"not known: {support.why.rstrip('.')} ({installed})"}
    if not support.triton:
        return {"Triton": f"not used: {support.why.rstrip('.')} ({installed})", "Kernels": _without_triton()}
    off = faults_on(where)
    tables = KERNELS, HALF_KERNELS
    every, half = ("; ".join(f"{op}: {caches}" for op, caches in ops.items()) for ops in tables)
    report = {"Triton": f"in use on {where} ({installed})", "Kernels": every}
    report["Kernels, unless the model computes in float32"] = half
    if off:
        report["Kernels that are off"] = "; ".join(f"{op}, {why.rstrip('.')}" for op, why in off.items())
    return report


def _without_triton() -> str:
    own = offers()
    if not own:
        return "none, torch does all the work"
    return f"ComfyUI's own for {', '.join(own)} in half precision, once checked; torch does the rest"


def _triton_version() -> str:
    if find_spec("triton") is None:
        return "Triton is not installed"
    # its package has other names on Windows and for AMD
    for name in metadata.packages_distributions().get("triton", ()):
        return f"{name} {metadata.version(name)}"
    return "Triton, version unknown"


def ffmpeg() -> dict[str, str]:
    """The program that writes videos, or why there is none."""
    try:
        program = find_ffmpeg()
    except RuntimeError as why:
        return {"ffmpeg": f"MISSING: {why}"}
    output = subprocess.run(
        [program, "-version"], capture_output=True, text=True, errors="replace", check=False
    )
    words = output.stdout.split()
    known = words[2] if len(words) > 2 else "version unknown"
    return {"ffmpeg": f"{known} with libx264", "ffmpeg's file": str(program)}


def fitness(model: Any, vae: Any) -> dict[str, str]:
    """Whether what is connected can be streamed."""
    from .host.decoder import why_not_vae
    from .host.file import report_of
    from .host.tree import why_not
    from .host.vae import upscale_of

    report = {}
    if model is not None:
        dit = model.get_model_object("diffusion_model")
        refusal = why_not(dit)
        report["Model"] = refusal or f"{type(dit).__name__}, can be streamed"
        if refusal is None:
            report |= choices(model, dit)
        report |= report_of(model)
    if vae is not None:
        drawn = "" if upscale_of(vae) == 1 else ", and draws pictures of twice the stream's width and height"
        report["VAE"] = why_not_vae(vae) or f"can be streamed{drawn}"
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

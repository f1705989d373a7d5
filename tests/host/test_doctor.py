"""What the nodes rely on in ComfyUI is listed, and what is lacking is said."""

import ast
import asyncio
import logging
from pathlib import Path

import pytest

HOST = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution")
NODES = Path(__file__).resolve().parents[2] / "nodes"


def of_the_host(module):
    return module.split(".")[0] in HOST


def dotted(node):
    """Returns `a.b.c` of a chain of names, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def optional(tree):
    """Returns the imports that a module does without where the host lacks them."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    asked = [node for node in tries if any(dotted(h.type) == "ImportError" for h in node.handlers if h.type)]
    return {each for node in asked for line in node.body for each in ast.walk(line)}


def used(source):
    """Returns full names of what a module takes from the host and cannot do without."""
    tree, modules, found = ast.parse(source), {}, set()
    without = optional(tree)
    for node in ast.walk(tree):
        if node in without:
            continue
        if isinstance(node, ast.ImportFrom) and not node.level and of_the_host(node.module):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {
                alias.asname or alias.name: alias.name for alias in node.names if of_the_host(alias.name)
            }
    for node in ast.walk(tree):
        name = dotted(node)
        for local, module in modules.items():
            if name.startswith(f"{local}.") and f"{module}.{name[len(local) + 1 :]}" not in modules.values():
                found.add(f"{module}.{name[len(local) + 1 :].split('.')[0]}")
    return {name for name in found if name not in modules.values()}


def test_all_that_the_nodes_take_from_the_host_is_in_the_table(comfyui):
    from rivulet.nodes.host.needs import NEEDS

    named = {f"{module}.{name.split('.')[0]}" for module, names in NEEDS.items() for name in names}
    taken = {path.name: used(path.read_text(encoding="utf-8")) for path in NODES.rglob("*.py")}
    assert len(set().union(*taken.values())) > 15
    assert {file: names - named for file, names in taken.items() if names - named} == {}


def test_the_scan_finds_what_is_used():
    source = "import comfy.sd\nimport comfy.model_management as m\nfrom comfy.a import b\nm.x(comfy.sd.VAE.y)"
    assert used(source) == {"comfy.sd.VAE", "comfy.model_management.x", "comfy.a.b"}
    asked = "try:\n    from comfy import new\nexcept ImportError:\n    new = None\nfrom comfy.c import d"
    assert used(asked) == {"comfy.c.d"}


def test_this_host_has_it_all_and_another_is_refused_by_name(comfyui):
    from rivulet.nodes.host import needs

    assert needs.why_not_host() is None
    refusal = needs.why_not_host({"comfy.samplers": ("CFGGuider.fly",), "comfy.gone": ("x",)})
    assert "(0.33.0) has no comfy.samplers.CFGGuider.fly, comfy.gone.x" in refusal
    assert "tested with 0.33.0. Update ComfyUI" in refusal


def test_a_host_that_lacks_something_still_has_the_doctor(comfyui, monkeypatch, caplog):
    import comfy.samplers
    import comfy.utils
    from rivulet.nodes import RivuletExtension

    monkeypatch.delattr(comfy.utils, "ProgressBar")
    with caplog.at_level(logging.ERROR):
        (doctor,) = asyncio.run(RivuletExtension().get_node_list())
    assert "has no comfy.utils.ProgressBar" in caplog.text
    (report,) = doctor.execute().args
    assert "In ComfyUI: LACKS comfy.utils.ProgressBar" in report


@pytest.fixture
def report(comfyui):
    """Returns a function that gives the report by its names."""
    from rivulet.nodes.doctor import RivuletDoctor

    def of(model=None, vae=None):
        (text,) = RivuletDoctor.execute(model, vae).args
        first, *lines = text.splitlines()
        return {"verdict": first, **dict(line.split(": ", 1) for line in lines)}

    return of


def test_the_report_of_a_sound_installation(report, load, vae):
    import torch

    found = report(load("plain"), vae)
    assert found["torch"] == torch.__version__ and found["ComfyUI"].startswith("0.33.0 (needs 0.21")
    assert found["verdict"] == "Ready to stream."
    assert found["In ComfyUI"] == "all that a stream relies on" and found["Not tested"].startswith("a GPU")
    assert found["Attention"].endswith("as ComfyUI chose at start") and "libx264" in found["ffmpeg"]
    assert found["Model"] == "WanModel, can be streamed" and found["VAE"] == "can be streamed"


def test_the_report_says_what_the_models_file_is(report, load, load_file, written):
    """Whichever loader read it."""
    found = report(load("plain"))
    assert found["Model's file"] == (
        "plain.safetensors: Wan 2.1 text to video, another size: 2 layers of 128, dense attention"
    )
    assert found["Recipe"].startswith("self_forcing. A guess, as the file's name names no model")
    written("causvid")
    model, _ = load_file("autoregressive_checkpoint/model.pt")
    found = report(model)
    assert found["Model's file"].endswith("dense attention")
    assert found["Recipe"].startswith("causvid. The file's name says so")


def test_the_report_says_that_a_models_recipe_stands_in_its_file_or_that_the_file_is_no_checkpoint(
    report, load, tmp_path
):
    from rivulet.nodes.pocket_model import RivuletPocketModel

    found = report(RivuletPocketModel.execute().args[0])
    assert (
        found["Model's file"].endswith("dense attention") and found["Recipe"] == "stands in the model's file"
    )
    model = load("plain").clone()
    model.cached_patcher_init = (None, (str(tmp_path / "gone.safetensors"),))
    found = report(model)
    assert found["Model's file"].startswith(
        "gone.safetensors, which Load Streaming Model does not take: Load"
    )
    assert "Recipe" not in found


def test_what_is_wrong_is_in_the_report(report, load, monkeypatch):
    from rivulet.nodes import doctor

    def none():
        raise RuntimeError("Video writer: no ffmpeg was found.")

    monkeypatch.setattr(doctor, "find_ffmpeg", none)
    model = load("plain").clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = max
    found = report(model)
    assert found["ffmpeg"] == "MISSING: Video writer: no ffmpeg was found."
    assert found["verdict"] == "Cannot stream: Video writer: no ffmpeg was found."
    assert found["Attention"].startswith("the override that the model carries") and "Model" in found


def test_what_is_connected_and_cannot_be_streamed_is_the_verdict(report, load, monkeypatch):
    model = load("plain").model.diffusion_model
    for name in ("in_dim", "out_dim"):
        monkeypatch.setattr(model, name, 48)
    found = report(load("plain"))
    assert found["verdict"].startswith("Cannot stream: ") and found["Model"].rstrip(".") in found["verdict"]


def test_no_line_of_a_sound_installation_is_too_long_to_read(report, load, vae):
    """Four lines of a panel of 640 pixels, and most have one."""
    lines = [f"{name}: {line}" for name, line in report(load("plain"), vae).items()]
    assert [line for line in lines if len(line) > 4 * 90] == []
    assert sum(len(line) <= 90 for line in lines) >= 0.7 * len(lines)


def test_on_a_cpu_no_kernel_is_in_use(report, monkeypatch):
    found = report()
    assert found["Triton"].startswith("not used: models run on the CPU, its kernels need a GPU (")
    assert "Kernels" not in found
    # nor where they are interpreted: streams on a CPU are torch's
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert report()["Triton"] == found["Triton"]


def test_the_version_of_triton_is_that_of_what_is_imported(report, monkeypatch):
    """A package that was taken away leaves its name, and on Windows and for AMD it has another."""
    from rivulet.nodes import doctor

    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert report()["Triton"].endswith("(Triton is not installed)")
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: {"triton": ["triton-windows"]})
    monkeypatch.setattr(doctor.metadata, "version", lambda name: {"triton-windows": "3.5.1"}[name])
    assert report()["Triton"].endswith("(triton-windows 3.5.1)")
    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: {})
    assert report()["Triton"].endswith("(Triton, version unknown)")


@pytest.fixture
def on_a_gpu(report, monkeypatch):
    """Returns a function that gives the report where Triton's support and its faults are these."""
    import comfy.model_management as management
    import torch
    from rivulet.kernels.dispatch import Support
    from rivulet.nodes import doctor

    def of(*support, off=(), own=()):
        monkeypatch.setattr(doctor, "device", lambda: "a card")
        monkeypatch.setattr(management, "get_torch_device", lambda: torch.device("cuda", 1))
        monkeypatch.setattr(doctor, "triton_support", lambda device: Support(*support))
        monkeypatch.setattr(doctor, "faults_on", lambda device: dict(off))
        monkeypatch.setattr(doctor, "offers", lambda: tuple(own))
        return report()

    return of


def test_on_a_gpu_the_kernels_in_use_are_named(on_a_gpu):
    found = on_a_gpu(True, "Triton kernels run on cuda:1.")
    assert found["Triton"].startswith("in use on cuda:1 (") and "rope: every cache; " in found["Kernels"]
    assert "rebuild: " in found["Kernels, unless the model computes in float32"]
    assert "Kernels that are off" not in found
    found = on_a_gpu(True, "Triton kernels run on cuda:1.", off={"rotate": "error 2, at most 1."})
    assert found["Kernels that are off"] == "rotate, error 2, at most 1"


@pytest.mark.parametrize(
    "why",
    [
        "Triton is not installed (pip install triton).",
        "compute capability 7.5 is below 8.0 (RTX 30 and newer).",
        "it is switched off by RIVULET_DISABLE_TRITON=1.",
    ],
)
def test_on_a_gpu_without_kernels_is_said_why_and_who_does_their_work(on_a_gpu, why):
    found = on_a_gpu(False, why)
    assert found["Triton"].startswith(f"not used: {why.rstrip('.')} (")
    assert found["Kernels"] == "none, torch does all the work"
    assert on_a_gpu(False, why, own=["norm_modulate", "rotate"])["Kernels"].startswith(
        "ComfyUI's own for norm_modulate, rotate in half precision"
    )


def test_a_full_card_is_not_said_to_have_no_kernels(on_a_gpu):
    found = on_a_gpu(False, "cuda:1 is out of memory, so that no Triton kernel could be tried.", True)
    assert found["Triton"].startswith("not known: cuda:1 is out of memory") and "Kernels" not in found


def test_the_kernels_it_names_are_those_that_streams_call(comfyui):
    from rivulet.nodes.doctor import HALF_KERNELS, KERNELS

    root = NODES.parent
    sources = [path.read_text(encoding="utf-8") for path in (root / "model_patches").rglob("*.py")]
    twins = {path.stem for path in (root / "kernels" / "_triton").glob("[!_]*.py")}
    called = {twin for twin in twins if any(f"kernels.{twin} import" in source for source in sources)}
    assert called == set(KERNELS) | set(HALF_KERNELS)
    for op in twins:
        halves = "multiplies=" in (root / "kernels" / f"{op}.py").read_text(encoding="utf-8")
        assert op not in called or (op in HALF_KERNELS) == halves


@pytest.fixture
def checked(comfyui, tmp_path, monkeypatch):
    """Returns a function that has the node check the card: (its text, the files it wrote)."""
    import folder_paths
    from rivulet.nodes.doctor import RivuletDoctor

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(how):
        # as for a user: kernels that are interpreted round half precision in their own way
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        (text,) = RivuletDoctor.execute(check_card=how).args
        return text, sorted(tmp_path.rglob("*"))

    return run


def test_a_check_of_the_card_is_in_the_report_and_in_a_file_without_names(checked, monkeypatch):
    import getpass
    import json
    import time
    from functools import partial

    from rivulet.model_patches.check import suite

    # beside other work a test would come to its bound of time
    monkeypatch.setattr(suite, "Clock", partial(suite.Clock, now=time.process_time))

    def fault(*_):
        raise OSError(f"{Path.home() / 'planted' / 'x'} of {getpass.getuser()} is gone")

    monkeypatch.setattr(suite, "check_moved_away", fault)
    text, (_, path) = checked("quick")
    lines = text.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("Check of the card: 1 broken"))
    assert lines[first].endswith(f"written to rivulet/{path.name}")
    assert all(line.split()[0] in ("ok", "slow", "broken", "skipped", "way") for line in lines[first + 1 :])
    found = json.loads(path.read_text())
    verdicts = {each["name"]: each["verdict"] for each in found["findings"]}
    assert verdicts["ComfyUI's path, stream"] == verdicts["ComfyUI's path, Resume"] == "ok"
    assert verdicts["Attention, as ComfyUI calls it (attention_sub_quad)"] == "ok"
    assert found["facts"]["vram_state"] == "DISABLED" and found["facts"]["dynamic_vram"] is False
    assert found["facts"]["comfyui"] == "0.33.0" and found["facts"]["comfyui_attention"]
    (fault,) = (each for each in found["findings"] if each["verdict"] == "broken")
    assert "is gone" in fault["said"] and "planted" not in path.read_text()
    assert str(Path.home()) not in path.read_text()


def test_a_check_is_stopped_by_the_hosts_cancel(checked, monkeypatch, tmp_path):
    import comfy.model_management as management
    from rivulet.model_patches.check import suite

    def ticks(device, clock, *_):
        management.interrupt_current_processing()
        clock.tick()
        raise AssertionError("it went on")

    monkeypatch.setattr(suite, "check_machine", lambda device: [])
    monkeypatch.setattr(suite, "check_triton", lambda device, clock: [])
    monkeypatch.setattr(suite, "check_attention", lambda device, dtype, clock, others: ticks(device, clock))
    with pytest.raises(management.InterruptProcessingException):
        checked("whole")
    assert not list(tmp_path.rglob("*.json"))


def test_a_host_that_lacks_something_is_not_checked(checked, monkeypatch):
    from rivulet.nodes import doctor

    monkeypatch.setattr(doctor, "lacking", lambda: ["comfy.x.y"])
    text, files = checked("quick")
    assert text.endswith("Check of the card: not made, because ComfyUI lacks comfy.x.y") and not files


def test_an_attention_of_the_host_that_computes_wrong_is_broken_with_its_option(comfyui):
    import torch
    from rivulet.model_patches.check.attention import check_attention
    from rivulet.model_patches.check.clock import Clock
    from rivulet.nodes.host.past import host_attention

    def override(function, q, k, v, *args, **options):
        return function(q, k[:, 1:], v[:, 1:], *args, **options)

    clock = Clock(60)
    choice = {"host": host_attention({"optimized_attention_override": override})}
    with clock.bounded(60):
        found = list(check_attention(torch.device("cpu"), torch.float32, clock, choice))
    (host,) = (finding for finding in found if finding.name == "host")
    assert host.verdict == "broken" and "--use-split-cross-attention" in host.way_round


def test_takes_that_ended_early_are_named_with_what_can_be_done(comfyui, monkeypatch, tmp_path):
    import folder_paths
    from rivulet.model_patches.takes.listing import Take
    from rivulet.nodes import doctor

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    assert doctor.takes() == "none in the output folder ended early"

    def take(name, standing, reason=""):
        path = tmp_path / "rivulet" / name
        return Take(path, 40, 16.0, 64, 64, 0.0, standing, reason, 3, None, None, can_go_on=not reason)

    found = [take("a.mp4", "cut off"), take("b.mp4", "whole"), take("c.mp4", "broken", "It has no snapshot.")]
    monkeypatch.setattr(doctor, "list_takes", lambda folder: found)
    assert doctor.takes() == (
        "1 can be gone on with, choose it in Resume Stream: rivulet/a.mp4 (2.5 s, cut off); "
        "1 cannot: rivulet/c.mp4: It has no snapshot."
    )
    found[:] = [take(f"{number}.mp4", "stopped") for number in range(7)]
    assert doctor.takes().endswith("rivulet/4.mp4 (2.5 s, stopped), and 2 more")

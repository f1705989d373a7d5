"""Saved workflows find every name again, and nothing that is imported from ComfyUI is gone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rivulet.tests.host.workflows import WIDGETS, inputs_of

ROOT = Path(__file__).resolve().parents[2]
SAVED = json.loads(Path(__file__).with_name("saved_names.json").read_text(encoding="utf-8"))
PACK = ("__init__.py", "nodes", "model_patches", "kernels", "pocket")


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")[1]


def lost(info, replaced, saved):
    """Returns a sentence for each saved name that a workflow would not find again."""
    found = []
    for node, names in saved.items():
        if node not in info:
            found += [f"{node} is gone and is not replaced"] * (node not in replaced)
            continue
        there = [(name, kind) for name, kind, _ in inputs_of(info[node])]
        widgets = [name for name, kind in there if kind in WIDGETS]
        if widgets[: len(names["widgets"])] != names["widgets"]:
            found.append(f"{node} has the widgets {widgets}, saved values belong to {names['widgets']}")
        sockets = {name for name, kind in there if kind not in WIDGETS}
        found += [f"{node} has no input {name}" for name in names["sockets"] if name not in sockets]
        if info[node]["output_name"][: len(names["outputs"])] != names["outputs"]:
            found.append(f"{node} gives {info[node]['output_name']}, not first {names['outputs']}")
    return found


def test_saved_workflows_find_every_node_widget_input_and_output(server, info):
    """Saved values belong to widgets by their order: new ones come last. A name that must go is replaced."""
    assert lost(info, server.get("/node_replacements")[1], SAVED) == []


def test_lost_names_are_found(info):
    stream = SAVED["RivuletStream"]
    changed = {
        "RivuletOld": stream,
        "RivuletStream": {
            "widgets": stream["widgets"][1:],
            "sockets": [*stream["sockets"], "latent"],
            "outputs": ["images"],
        },
    }
    found = lost(info, {}, changed)
    wanted = ["RivuletOld is gone", "has the widgets", "has no input latent", "not first ['images']"]
    assert len(found) == 4 and all(part in line for part, line in zip(wanted, found, strict=True)), found
    assert lost(info, {"RivuletOld": []}, {"RivuletOld": stream}) == []


def guard(comfyui, tmp_path, name, fill):
    """Returns comfy-import-guard's exit status and report about a pack, against this checkout of ComfyUI."""
    pytest.importorskip("comfy_import_guard", reason="needs comfy-import-guard")
    if not (comfyui / ".git").exists():
        pytest.skip("needs ComfyUI as a git checkout")
    cache, pack = tmp_path / "cache", tmp_path / "host" / "custom_nodes" / name
    cache.mkdir()
    pack.mkdir(parents=True)
    (cache / "ComfyUI").symlink_to(comfyui)
    fill(pack)
    command = [sys.executable, "-c", "import sys; from comfy_import_guard.cli import main; sys.exit(main())"]
    command += ["--offline", "--cache-dir", str(cache), "check", "--comfy-dir", str(tmp_path / "host")]
    done = subprocess.run(
        [*command, "--target", "HEAD", "--no-update", "--strict"], capture_output=True, text=True, timeout=900
    )
    return done.returncode, done.stdout + done.stderr


def test_no_name_or_call_of_comfyuis_is_gone(comfyui, tmp_path):
    def fill(pack):
        for part in PACK:
            (pack / part).symlink_to(ROOT / part)

    status, report = guard(comfyui, tmp_path, "rivulet", fill)
    assert status == 0 and "0 will break, 1 safe, 0 warn" in report, report


def test_a_name_that_is_gone_is_found(comfyui, tmp_path):
    def fill(pack):
        (pack / "__init__.py").write_text("from comfy.utils import no_such_name_was_ever_there\n")

    status, report = guard(comfyui, tmp_path, "other", fill)
    assert status == 1 and "no_such_name_was_ever_there" in report, report

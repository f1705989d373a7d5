"""Importing the pack costs nothing: no host, no compiler, no output, no thread, no global changed."""

import json
import subprocess
import sys

import pytest

PROBE = """
import importlib, importlib.util, json, os, random, sys, threading
root, wanted = sys.argv[1], json.loads(sys.argv[2])
spec = importlib.util.spec_from_file_location("rivulet", os.path.join(root, "__init__.py"),
                                              submodule_search_locations=[root])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
after_root = sorted(sys.modules)
import torch
def globals_of_torch():
    return [str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.random.get_rng_state().sum().item(), torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(), random.getstate(), dict(os.environ), os.getcwd()]
before, known = globals_of_torch(), set(sys.modules)
for name in wanted:
    importlib.import_module(name)
report = {"after_root": after_root, "new": sorted(set(sys.modules) - known),
          "threads": threading.active_count(), "changed": before != globals_of_torch()}
open(sys.argv[3], "w").write(json.dumps(report))
"""


def probe(root, tmp_path, modules: list[str]) -> tuple[dict, str]:
    """Returns what importing the modules in a fresh process did, and what it printed."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-c", PROBE, str(root), json.dumps(modules), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text()), done.stdout + done.stderr


def all_modules(root) -> list[str]:
    """Returns the name of every module that must import without a host, a GPU or a compiler."""
    paths = [
        p for folder in ("kernels", "model_patches", "pocket") for p in sorted((root / folder).rglob("*.py"))
    ]
    parts = [("rivulet", *p.relative_to(root).with_suffix("").parts) for p in paths]
    return [
        ".".join(p[:-1] if p[-1] == "__init__" else p)
        for p in parts
        if "_triton" not in p and p[-1] != "__main__"
    ]


def test_the_root_alone_imports_neither_torch_nor_its_own_folders(root, tmp_path):
    report, printed = probe(root, tmp_path, [])
    heavy = {"torch", "numpy", "comfy", "rivulet.nodes", "rivulet.model_patches", "rivulet.kernels"}
    assert heavy & set(report["after_root"]) == set()
    assert printed == ""


@pytest.mark.parametrize("which", ["packages", "every module"])
def test_importing_the_engine_does_nothing_else(root, tmp_path, which):
    packages = ["rivulet", "rivulet.model_patches", "rivulet.kernels"]
    report, printed = probe(root, tmp_path, packages if which == "packages" else all_modules(root))
    unwanted = {"comfy", "comfy_api", "folder_paths", "triton", "diffusers", "transformers"}
    assert {name for name in report["new"] if name.split(".")[0] in unwanted or "._triton" in name} == set()
    assert printed == ""
    assert report["threads"] == 1
    assert not report["changed"], "an import changed torch's or the process's global settings"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("print('hello')", "printed"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
            "threads",
        ),
        ("import torch\ntorch.manual_seed(3)", "changed"),
        ("import sys, types\nsys.modules['triton'] = types.ModuleType('triton')", "new"),
    ],
)
def test_the_probe_sees_work_at_import(tmp_path, text, seen):
    pack = tmp_path / "pack"
    (pack / "kernels").mkdir(parents=True)
    (pack / "__init__.py").write_text("")
    (pack / "kernels" / "__init__.py").write_text(text)
    report, printed = probe(pack, tmp_path, ["rivulet.kernels"])
    signs = {
        "printed": printed != "",
        "threads": report["threads"] > 1,
        "changed": report["changed"],
        "new": "triton" in report["new"],
    }
    assert [sign for sign, there in signs.items() if there] == [seen]

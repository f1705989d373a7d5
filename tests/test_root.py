"""The root module inside ComfyUI, inside an old ComfyUI, and without one; the host is a stub on the path."""

import subprocess
import sys

import pytest

LOAD = """
import importlib.util, os, sys
root, host = sys.argv[1:3]
sys.path.insert(0, host)
name = os.path.join(root, "custom_nodes", "rivulet-1_x_0")
spec = importlib.util.spec_from_file_location(name, os.path.join(root, "__init__.py"),
                                              submodule_search_locations=[root])
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(sorted(n for n in vars(module) if n in ("WEB_DIRECTORY", "comfy_entrypoint", "NODE_CLASS_MAPPINGS")))
if hasattr(module, "comfy_entrypoint"):
    import asyncio
    print(type(asyncio.run(module.comfy_entrypoint())).__name__, "torch" in sys.modules)
"""

STUB = """
class io:
    ComfyNode = object
class ComfyExtension:
    pass
"""


@pytest.fixture
def load(root, tmp_path):
    def run(**files: str) -> subprocess.CompletedProcess:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        return subprocess.run(
            [sys.executable, "-c", LOAD, str(root), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_inside_comfyui_it_offers_the_entry_point_and_the_web_folder(load):
    done = load(comfy_api__v0_0_2=STUB, folder_paths="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['WEB_DIRECTORY', 'comfy_entrypoint']", "RivuletExtension False"]
    assert done.stderr == ""


def test_an_old_comfyui_is_told_what_to_do(load):
    done = load(folder_paths="")
    assert done.stdout.splitlines() == ["[]"]
    assert "Rivulet needs ComfyUI 0.21 or newer" in done.stderr and "Update ComfyUI" in done.stderr


def test_without_a_host_it_does_nothing(load):
    done = load()
    assert (done.stdout.splitlines(), done.stderr) == (["[]"], "")

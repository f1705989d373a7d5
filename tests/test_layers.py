"""Who may import whom: nodes -> model_patches -> kernels, stages to their left, none in a circle."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STAGES = (
    *("arch", "attention", "sampler", "checkpoints", "cache", "memory"),
    *("vae", "writer", "viewers", "stream", "takes", "plan", "check"),
)
FOLDERS = {
    "kernels": {"kernels"},
    "model_patches": {"model_patches", "kernels"},
    "pocket": {"pocket", "model_patches", "kernels"},
    "nodes": {"nodes", "pocket", "model_patches", "kernels"},
}
MEDIA = {"numpy", "PIL", "imageio_ffmpeg"}
PACKAGES = {
    "kernels": {"torch"},
    "kernels/_triton": {"torch", "triton"},
    "model_patches": {"torch", "safetensors", "numpy"},
    "model_patches/writer": {"torch"} | MEDIA,
    "model_patches/viewers": {"torch"} | MEDIA,
    "model_patches/takes": {"torch"} | MEDIA,
    "pocket": {"torch", "safetensors"} | MEDIA,
}
HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "nodes",
    "server",
    "execution",
}

CIRCLES: list[set[str]] = [  # on their way out: each must still be one, and no other may come
]

Place = tuple[str, ...]  # a module's path below the root: ("model_patches", "cache", "ring")


def place(root: Path, path: Path) -> Place:
    parts = path.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(root: Path, path: Path) -> Iterator[tuple[str | None, Place]]:
    """Yields (package, ()) for each absolute import and (None, place) for each relative one."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0], ()
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            for alias in node.names:
                inner = (*base, alias.name)
                is_module = (
                    root.joinpath(*inner).is_dir() or root.joinpath(*inner).with_suffix(".py").exists()
                )
                yield None, inner if is_module else base


def stage(at: Place) -> str | None:
    return at[1] if at[:1] == ("model_patches",) and len(at) > 1 and at[1] in STAGES else None


def allowed_packages(at: Place) -> set[str] | None:
    keys = [key for key in PACKAGES if tuple(key.split("/")) == at[: key.count("/") + 1]]
    return PACKAGES[max(keys, key=len)] if keys else None


def why_not_package(at: Place, name: str) -> str | None:
    if name in {"rivulet", "model_patches", "kernels", "pocket", "tests"} or (
        name == "nodes" and at[0] != "nodes"
    ):
        return f"imports {name} by an absolute name; inside the pack only relative imports work"
    if name in HOST:
        return None if at[0] == "nodes" else f"imports {name}; only nodes/ may know the host"
    if name == "triton" and at[:2] != ("kernels", "_triton"):
        return "imports triton; only kernels/_triton/ may"
    allowed = allowed_packages(at)
    if allowed is None or name in allowed or name in sys.stdlib_module_names:
        return None
    return f"imports {name}; this folder may use {', '.join(sorted(allowed))} and the standard library"


def why_not_place(at: Place, to: Place) -> str | None:
    depth = next((depth for depth, name in enumerate(to) if name.startswith("_")), 0)
    if at[:depth] != to[:depth]:
        return f"imports {'/'.join(to)}, a private room of {'/'.join(to[:depth])}/"
    if not to or to[0] not in FOLDERS[at[0]]:
        return f"imports {'/'.join(to) or 'the root'}; {at[0]}/ may use {', '.join(sorted(FOLDERS[at[0]]))}"
    here, there = stage(at), stage(to)
    if here and there and STAGES.index(there) > STAGES.index(here):
        return f"imports {there}/, a stage to the right of {here}/"
    return None


def loose_modules(root: Path) -> set[str]:
    """Returns the names of modules that lie in model_patches/ itself, in no stage's folder."""
    return {path.stem for path in (root / "model_patches").glob("*.py")} - {"__init__"}


def violations(root: Path) -> list[str]:
    """Returns one sentence for each import that goes the wrong way."""
    found = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            at = place(root, path)
            for name, to in imports(root, path):
                reason = why_not_package(at, name) if name is not None else why_not_place(at, to)
                if reason:
                    found.append(f"{path.relative_to(root).as_posix()} {reason}")
    return found


def reachable(graph: dict[Place, set[Place]], start: Place) -> set[Place]:
    """Returns the modules that start imports, itself or by others."""
    seen: set[Place] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def circles(root: Path) -> list[set[str]]:
    """Returns the sets of modules that import one another, imports inside functions counted too."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    modules = {place(root, path): path for path in paths}
    graph = {at: {to for _, to in imports(root, path)} & set(modules) for at, path in modules.items()}
    reached = {at: reachable(graph, at) for at in graph}
    found = []
    for at in graph:
        circle = {"/".join(to) for to in reached[at] if at in reached[to]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_every_import_goes_the_right_way(root):
    assert violations(root) == []


def test_no_modules_import_one_another(root):
    found = circles(root)
    assert [circle for circle in found if circle not in CIRCLES] == []
    assert [circle for circle in CIRCLES if circle not in found] == [], "no circle any more: take it off"


def test_every_module_of_the_engine_lies_in_a_stage_but_the_vocabulary(root):
    assert loose_modules(root) == {"geometry", "reason", "transfer"}
    assert {path.name for path in (root / "model_patches").iterdir() if path.is_dir()} - {
        "__pycache__"
    } == set(STAGES)


def test_the_root_points_to_nodes_only(root):
    relative = {to for name, to in imports(root, root / "__init__.py") if name is None}
    assert relative <= {("nodes",)}


BAD = [
    (
        "kernels/rope.py",
        "from ..model_patches.geometry import Geometry",
        "imports model_patches/geometry; kernels/ may",
    ),
    ("kernels/rope.py", "import triton", "only kernels/_triton/ may"),
    ("kernels/rope.py", "import numpy", "imports numpy; this folder may use torch"),
    ("model_patches/cache/dense.py", "import comfy.utils", "only nodes/ may know the host"),
    ("model_patches/cache/dense.py", "from folder_paths import models_dir", "only nodes/ may know the host"),
    ("model_patches/cache/dense.py", "from ...pocket import world", "imports pocket"),
    (
        "model_patches/cache/dense.py",
        "from ..vae.decoder import decode_stream",
        "a stage to the right of cache/",
    ),
    ("model_patches/cache/dense.py", "from .. import vae", "imports vae/, a stage to the right"),
    ("model_patches/cache/dense.py", "from ..stream.step import step", "a stage to the right of cache/"),
    ("model_patches/cache/dense.py", "from rivulet.kernels import rope", "only relative imports work"),
    (
        "model_patches/cache/dense.py",
        "def late():\n    from nodes import thing",
        "only relative imports work",
    ),
    ("model_patches/cache/dense.py", "import PIL", "imports PIL"),
    (
        "pocket/demo.py",
        "from ..model_patches.cache._tables import size",
        "_tables, a private room of model_patches/cache/",
    ),
    ("pocket/demo.py", "from ..nodes import RivuletExtension", "imports nodes"),
    ("pocket/demo.py", "import diffusers", "imports diffusers"),
]
GOOD = [
    ("kernels/_triton/rope.py", "import triton.language as tl\nfrom .. import dispatch"),
    ("model_patches/cache/dense.py", "from ._tables import size"),
    ("kernels/rope.py", "def late():\n    from ._triton.rope import rotate"),
    (
        "model_patches/cache/dense.py",
        "from ..attention.positions import plan\nfrom ..geometry import Geometry",
    ),
    ("model_patches/cache/dense.py", "import torch.nn.functional as F\nfrom ...kernels.rope import rotate"),
    ("model_patches/writer/video.py", "import imageio_ffmpeg\nimport numpy as np"),
    ("model_patches/stream/step.py", "from .sampler import step"),
    ("pocket/demo.py", "from ..model_patches.stream.step import step\nimport PIL.Image"),
    ("nodes/sampler.py", "import comfy.samplers\nfrom ..pocket import demo"),
]


@pytest.fixture
def tree(tmp_path):
    """Returns a small pack that obeys the rules."""
    files = {
        "kernels/dispatch.py": "",
        "model_patches/geometry.py": "",
        "model_patches/attention/positions.py": "",
        "model_patches/sampler/__init__.py": "",
        "model_patches/sampler/noise.py": "",
        "model_patches/vae/__init__.py": "",
        "model_patches/stream/step.py": "from ..sampler import noise",
        "pocket/world.py": "",
        "nodes/__init__.py": "from comfy_api.latest import io",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path) == []
    return tmp_path


def write(tree: Path, name: str, text: str) -> None:
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(text)


@pytest.mark.parametrize(("name", "text", "words"), BAD)
def test_a_wrong_import_is_found(tree, name, text, words):
    write(tree, name, text)
    assert [found for found in violations(tree) if found.startswith(name) and words in found]


@pytest.mark.parametrize(("name", "text"), GOOD)
def test_a_right_import_passes(tree, name, text):
    write(tree, name, text)
    assert violations(tree) == []


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        (
            {"cache/slots": "from .store import Store", "cache/store": "from .slots import free"},
            "slots store",
        ),
        (
            {"cache/slots": "def late():\n    from . import store", "cache/store": "from .slots import free"},
            "slots store",
        ),
        (
            {
                "cache/slots": "from .store import Store",
                "cache/store": "from .cost import bytes_of",
                "cache/cost": "def late():\n    from ..cache.slots import free",
            },
            "cost slots store",
        ),
        ({"cache/slots": "from .slots import free"}, "slots"),
    ],
    ids=["two modules", "inside a function", "three modules", "itself"],
)
def test_a_circle_of_imports_is_found(tree, files, circle):
    assert circles(tree) == []
    for name, text in files.items():
        write(tree, f"model_patches/{name}.py", text)
    assert circles(tree) == [{f"model_patches/cache/{name}" for name in circle.split()}]


def test_modules_that_share_one_are_no_circle(tree):
    write(tree, "model_patches/cache/cost.py", "from ..geometry import Geometry")
    write(tree, "model_patches/cache/slots.py", "from ..geometry import Geometry\nfrom .cost import bytes_of")
    assert circles(tree) == []

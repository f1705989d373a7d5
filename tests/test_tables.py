"""Formats and policies are known by their tables: nodes, plans, commands and benches ask no class or name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = (  # the files that may know a class: one a format or policy
    *(f"model_patches/cache/{name}.py" for name in ("dense", "int8", "latent", "mla")),
    *(f"model_patches/memory/{name}.py" for name in ("policy", "ema", "memrope", "learned")),
)
PLACES = ("nodes", "model_patches/plan", "model_patches/stream", "pocket", "tests/bench")
MAKERS = ("pocket/convert_mla", "pocket/calibrate", "pocket/train_memory", "tests/bench/tests")
NAMES = ("dense", "int8", "latent", "mla", "ema", "memrope", "learned")  # of rows, whole or in part


def classes(text: str) -> set[str]:
    """Returns the names of the concrete classes of a module."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    return {node.name for node in found if "Protocol" not in {ast.unparse(base) for base in node.bases}}


def asked(text: str, known: set[str]) -> list[str]:
    """Returns calls that ask whether something is of a known class, or how its name begins or ends."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        said = ast.unparse(node)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            named = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            found += [said] if named & known else []
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "endswith"):
            parts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            found += [said] if parts & set(NAMES) else []
    return found


def test_no_class_or_part_of_a_name_is_asked_for():
    known = set().union(*(classes((ROOT / path).read_text(encoding="utf-8")) for path in OWN))
    assert {"DenseStore", "LatentFormat", "MlaFormat", "EmaSink", "MemRope", "LearnedMemory", "Off"} <= known
    found = {}
    for place in PLACES:
        for path in (ROOT / place).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(MAKERS) and (calls := asked(path.read_text(encoding="utf-8"), known)):
                found[name] = calls
    assert found == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("isinstance(x, LatentFormat)", 1),
        ("isinstance(x.y, int | EmaSink)", 1),
        ("name.startswith('mla')", 1),
        ("cost.name.endswith('int8')", 1),
        ("isinstance(x, Path) and name.startswith('rivulet')", 0),
    ],
)
def test_the_scan_finds_what_is_asked(text, count):
    assert len(asked(text, {"LatentFormat", "EmaSink"})) == count

"""Sizes and places: short modules and functions, no drawer for leftovers, a fixed top level."""

import ast
import re
from pathlib import Path

import pytest

MODULE_LINES = 450
FUNCTION_LINES = 40  # of the body: a signature has a line for each argument
SCHEMA = "define_schema"  # a table of a node's inputs, as long as they are many
SOURCES = ("kernels", "model_patches", "nodes", "pocket", "tests")
TOP_LEVEL = {
    *("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "requirements.txt"),
    *("__init__.py", "run.py"),
    *("nodes", "model_patches", "kernels", "web", "workflows", "locales", "pocket", "tests", "docs"),
}
UNTRACKED = {"out", "__pycache__"}
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
BANNER = re.compile(r"^\s*#\s*([-=#*~_])\1{3,}")
LONG_FUNCTIONS: dict[str, str] = {}  # "path::function": why it is longer


def sources(root: Path) -> list[Path]:
    return [root / "run.py", *(p for folder in SOURCES for p in sorted((root / folder).rglob("*.py")))]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - (first.end_lineno if documented else first.lineno - 1)


def long_functions(root: Path) -> set[str]:
    found = set()
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == SCHEMA:
                continue
            if length(node) > FUNCTION_LINES:
                found.add(f"{path.relative_to(root).as_posix()}::{node.name}")
    return found


def long_modules(root: Path) -> set[str]:
    lines = {
        p.relative_to(root).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in sources(root)
    }
    return {name for name, count in lines.items() if count > MODULE_LINES}


def banners(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root).as_posix()}:{number}"
        for path in sources(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BANNER.match(line)
    ]


def strangers(root: Path) -> set[str]:
    return {p.name for p in root.iterdir() if not p.name.startswith(".")} - TOP_LEVEL - UNTRACKED


def test_modules_are_short(root):
    assert long_modules(root) == set()


def test_functions_are_short(root):
    found = long_functions(root)
    assert found - set(LONG_FUNCTIONS) == set()
    assert set(LONG_FUNCTIONS) - found == set(), "no longer too long: take it off the list"


def test_no_drawer_for_leftovers(root):
    assert {p.relative_to(root).as_posix() for p in sources(root) if p.stem in DRAWERS} == set()


def test_no_banner_comments(root):
    assert banners(root) == []


def test_the_top_level_is_fixed(root):
    assert strangers(root) == set()


def test_tests_are_no_package(root):
    assert list((root / "tests").rglob("__init__.py")) == []


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "run.py").write_text("")
    return tmp_path


def function_of(lines: int, docstring: str = "") -> str:
    said = [f'    """{docstring}"""'] if docstring else []
    return "\n".join(["def f(", "    x=0,", "):", *said, *["    x = 1"] * lines])


@pytest.mark.parametrize(("lines", "found"), [(40, set()), (41, {"kernels/rope.py::f"})])
def test_a_function_counts_without_signature_and_docstring(tree, lines, found):
    (tree / "kernels" / "rope.py").write_text(function_of(lines, "Returns one.\n\n    Twice.\n    "))
    assert long_functions(tree) == found
    (tree / "kernels" / "rope.py").write_text(function_of(lines))
    assert long_functions(tree) == found


def test_long_modules_banners_and_strangers_are_found(tree):
    (tree / "kernels" / "rope.py").write_text("x = 1\n" * 451)
    (tree / "run.py").write_text("x = 1\n# ---------- setup\n")
    (tree / "scratch.txt").write_text("")
    assert long_modules(tree) == {"kernels/rope.py"}
    assert banners(tree) == ["run.py:2"]
    assert strangers(tree) == {"scratch.txt"}

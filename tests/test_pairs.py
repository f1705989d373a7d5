"""No kernel without its reference, its test and its benchmark: files of the same stem are the index."""

import ast
from pathlib import Path

import pytest


def functions(path: Path) -> dict[str, list[str]]:
    """Returns the names of the module's own functions and their arguments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def benchmarked(root: Path) -> set[str]:
    """Returns the ops named in the benchmark's table of cases."""
    path = root / "tests" / "bench" / "cases.py"
    if not path.exists():
        return set()
    calls = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]
    named = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "op"]
    return {value.value for value in named if isinstance(value, ast.Constant)}


def chosen(path: Path) -> list[str]:
    """Returns the public functions of an op that let the caller choose the implementation."""
    return [
        name
        for name, arguments in functions(path).items()
        if "impl" in arguments and not name.startswith("_")
    ]


def missing_references(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "kernels").glob("[!_]*.py")):
        names = functions(path)
        lonely = [name for name in chosen(path) if f"{name}_reference" not in names]
        found += [f"kernels/{path.name} has {name}() but no {name}_reference()" for name in lonely]
    return found


def missing_twins(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "kernels" / "_triton").glob("[!_]*.py")):
        op, public = path.stem, root / "kernels" / path.name
        if not public.exists() or not chosen(public):
            found.append(f"kernels/_triton/{op}.py has no kernels/{op}.py with a choice of implementation")
        elif not any(f"{name}_triton" in functions(path) for name in chosen(public)):
            found.append(
                f"kernels/_triton/{op}.py defines none of {[f'{name}_triton' for name in chosen(public)]}"
            )
        if not (root / "tests" / "kernels" / f"test_{op}.py").exists():
            found.append(f"kernels/_triton/{op}.py has no tests/kernels/test_{op}.py")
        if op not in benchmarked(root):
            found.append(f'kernels/_triton/{op}.py has no case with op="{op}" in tests/bench/cases.py')
    return found


def test_every_choice_of_implementation_has_its_reference(root):
    assert missing_references(root) == []


def test_every_kernel_has_its_reference_its_test_and_its_benchmark(root):
    assert missing_twins(root) == []


@pytest.fixture
def tree(tmp_path):
    """Returns a small pack whose one kernel has everything it needs."""
    files = {
        "kernels/rope.py": "def rotate(x, table, impl='auto'): ...\ndef rotate_reference(x, table): ...",
        "kernels/_triton/__init__.py": "",
        "kernels/_triton/rope.py": "def rotate_triton(x, table): ...",
        "tests/kernels/test_rope.py": "",
        "tests/bench/cases.py": "CASES = [Case(op='rope', name='one block')]",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_complete_kernel_passes(tree):
    assert missing_twins(tree) == missing_references(tree) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kernels/rope.py", "no kernels/rope.py"),
        ("tests/kernels/test_rope.py", "no tests/kernels/test_rope.py"),
        ("tests/bench/cases.py", 'no case with op="rope"'),
    ],
)
def test_a_missing_twin_is_found(tree, name, words):
    (tree / name).unlink()
    (found,) = missing_twins(tree)
    assert words in found


def test_a_kernel_under_another_name_is_found(tree):
    (tree / "kernels/_triton/rope.py").write_text("def turn_triton(x, table): ...")
    (found,) = missing_twins(tree)
    assert "rotate_triton" in found


def test_a_missing_reference_is_found(tree):
    (tree / "kernels/rope.py").write_text("def rotate(x, table, *, impl='auto'): ...")
    assert missing_references(tree) == ["kernels/rope.py has rotate() but no rotate_reference()"]

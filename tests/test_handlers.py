"""Which nodes catch errors of any kind: a card's own must come out as what they are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROAD = {"RuntimeError", "Exception", "BaseException"}  # an accelerator's errors are RuntimeErrors
ALLOWED = {
    ("nodes/doctor.py", "RuntimeError"),  # a program is not there; nothing of a card runs
    ("nodes/host/caller.py", "Exception"),  # while a model leaves; the log has the error
}


def handlers(source: str) -> list[str]:
    """The broad classes that a file's handlers keep to themselves, a bare one as BaseException.

    Those that may raise the same error again are not among them.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if any(isinstance(each, ast.Raise) and each.exc is None for each in ast.walk(node)):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = ["BaseException" if kind is None else ast.unparse(kind) for kind in kinds]
        found += [name for name in names if name in BROAD]
    return found


def test_a_cards_errors_pass_through_the_nodes():
    places = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sorted(Path(ROOT, "nodes").rglob("*.py"))
        for name in handlers(path.read_text(encoding="utf-8"))
    }
    assert places - ALLOWED == set(), "a card's error would be told as another: name the class that is meant"


@pytest.mark.parametrize(
    ("handler", "kept"),
    [
        ("except (OSError, RuntimeError) as why: print(why)", ["RuntimeError"]),
        ("except: pass", ["BaseException"]),
        ("except Exception as why:\n if not is_oom(why): raise", []),
        ("except Exception as why: raise ValueError from why", ["Exception"]),
        ("except ValueError: pass", []),
    ],
)
def test_a_handler_is_read_as_it_is(handler, kept):
    assert handlers(f"try: pass\n{handler}") == kept

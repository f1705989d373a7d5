"""Words of Python in what a user is told, which no refusal may have: what tests provoke is looked at."""

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOLD = ("model_patches", "nodes", "pocket")  # whose refusals a user reads
OWN = (ValueError, RuntimeError, OSError)
PYTHON = re.compile(
    r"\b(?:None|True|False)\b"  # of a setting: none, on, off
    r"|\{'|\['\w|\('\w+',"  # a dict, a list or a tuple of texts
    r"|\b[A-Z]\w+\(\w+=|\(\d+,\)"  # a dataclass, a tuple of one
    r"|\btorch\.(?:b?float|u?int|bool|half|Size|device|Tensor)|\bdevice\(|\btensor\(|\b(?:Posix|Windows)Path\("
    r"|<(?:class|function|[\w.]+ object)|\[Errno|\b\w+Error\b|__init__|Traceback"
)


def python_in(error: BaseException) -> str:
    """Returns the word of Python in what the pack raised itself, "" where there is none."""
    if not isinstance(error, OWN):
        return ""
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not any(raised.is_relative_to(ROOT / folder) for folder in TOLD):
        return ""
    found = PYTHON.search(str(error))
    return found[0] if found else ""


class Looking:
    """What `pytest.raises` gave; it also fails for a refusal that has a word of Python."""

    def __init__(self, raises: Any) -> None:
        self._raises = raises

    def __enter__(self) -> Any:
        return self._raises.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        taken = self._raises.__exit__(kind, error, trace)
        if taken and error is not None and (word := python_in(error)):
            pytest.fail(f"a refusal has {word!r}, which is Python's: {error}")
        return taken


def looking(raises: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `pytest.raises` in its form for `with`, with that look at what it caught."""

    def look(*expected: Any, **more: Any) -> Any:
        given = raises(*expected, **more)
        return Looking(given) if hasattr(given, "__exit__") else given

    return look


@pytest.fixture(autouse=True)
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every refusal that a test provokes read for words of Python, where a conftest.py imports this."""
    monkeypatch.setattr(pytest, "raises", looking(pytest.raises))

"""Takes names and paths out of a report, exception texts included."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

PATH, USER, HOST = "<path>", "<user>", "<host>"
ROOT = Path(__file__).resolve().parents[2]
SHORTEST = 3  # letters of a name's part that is taken out by itself
# of a path with blanks the rest is taken, too, as long as it has separators
QUOTED = re.compile(r"(['\"`])(?:[A-Za-z]:[\\/]|\\\\|/(?=\w)|~[\\/]|file:)[^'\"`\n]*\1")
WINDOWS = re.compile(r"(?<![A-Za-z])(?:[A-Za-z]:[\\/]|\\\\[^\s\\])[^\n\"'<>|*?]*")
TAIL = r"[^\s\"'`]*(?: +[^\s\"'`:/]*/[^\s\"'`]*)*"
POSIX = re.compile(r"(?:file:)?(?<![\w.)\]])~?/(?=[\w.~/-])" + TAIL)
ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def clean(value: Any) -> Any:
    """The same value with every text in it cleaned: lists and dicts are walked, keys are left."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(each) for each in value]
    return value


def clean_text(text: str) -> str:
    """The text without folders, user and host names and addresses of mail."""
    for folder in _folders():
        text = re.sub(re.escape(folder) + r"(?!\w)" + TAIL, PATH, text, flags=re.IGNORECASE)
    text = QUOTED.sub(rf"\1{PATH}\1", text)
    text = WINDOWS.sub(PATH, text)
    text = POSIX.sub(PATH, text)
    text = ADDRESS.sub(USER, text)
    for names, mark in ((_users(), USER), (_hosts(), HOST)):
        for name in names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark, text, flags=re.IGNORECASE)
    return text


@cache
def _folders() -> tuple[str, ...]:
    """Folders of this process, longest first, in every way they are written."""
    found = [Path.home(), Path.cwd(), ROOT, ROOT.parent, Path(sys.prefix), Path(tempfile.gettempdir())]
    found += [Path(entry) for entry in sys.path if entry]
    texts = {str(path) for each in found for path in (each, each.absolute()) if len(path.parts) > 1}
    return tuple(sorted(texts | {text.replace("\\", "/") for text in texts}, key=len, reverse=True))


@cache
def _users() -> tuple[str, ...]:
    found = [Path.home().name, *(os.environ.get(name, "") for name in ("USER", "USERNAME", "LOGNAME"))]
    with suppress(OSError, KeyError, ImportError):  # no such user, as in some containers
        found.append(getpass.getuser())
    return _longest_first([*found, *(part for name in found for part in re.split(r"[\s.\\_-]+", name))])


@cache
def _hosts() -> tuple[str, ...]:
    found = [socket.gethostname(), platform.node(), os.environ.get("COMPUTERNAME", "")]
    return _longest_first([*found, *(name.split(".")[0] for name in found)])


def _longest_first(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if len(name) >= SHORTEST}, key=len, reverse=True))

"""Text that ends up in a file or in its name: what cannot be written is found before the work."""

from __future__ import annotations

import os
from pathlib import Path

WHO = "Video writer"  # begins the refusals of a video that is made
NAME_BYTES = 255  # of a name, on every common disk
LONGEST_ENDING = ".part0000.mp4.joining.tags"


def text_problem(text: str) -> str:
    """Returns what keeps a text from being written as UTF-8, or "": NUL, or half of a surrogate pair."""
    if "\0" in text:
        return "it has a NUL"
    at = next((at for at, letter in enumerate(text) if "\ud800" <= letter <= "\udfff"), None)
    return "" if at is None else f"its letter {at + 1} is no letter of any script (a lone surrogate)"


def plain(text: str) -> str:
    """Returns the text with each letter that cannot be written as a question mark."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")


def check_path(who: str, path: Path) -> Path:
    """Returns the path of a video that is to be made; ValueError where its files could not be named so."""
    shown = plain(path.name)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{who}: the file's name must end in .mp4, got {shown!r}.")
    whole = str(path.absolute())
    problem = text_problem(whole)
    if problem:
        raise ValueError(f"{who}: {plain(whole)!r} cannot be a path: {problem}; choose another name.")
    if any(letter in whole for letter in "\n\r"):
        raise ValueError(f"{who}: the path {whole!r} has a line break; choose another name.")
    excess = len(os.fsencode(path.stem + LONGEST_ENDING)) - NAME_BYTES
    if excess > 0:
        raise ValueError(
            f"{who}: the name {shown[:40]!r}... is {excess} bytes too long for the parts of its video; "
            f"choose a shorter one."
        )
    return path

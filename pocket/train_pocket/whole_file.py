"""A training's files are written whole or not at all: it may be stopped at any moment."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place and moved there when it is whole."""
    partial = path.with_suffix(".partial")
    write(partial)
    os.replace(partial, path)

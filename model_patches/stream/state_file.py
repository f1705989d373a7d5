"""A safetensors file that holds a state: written whole or not at all, and told apart from any other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attention.positions import PositionPreset
from ..checkpoints.files import open_tensors, write_whole
from ..checkpoints.sealed import refuse_changed
from ..geometry import Geometry
from ..reason import reason_of, shown
from .config import StreamConfig

WHERE, WANTED = "load", "a stream that was saved"
REMEDY = "Copy it again, take an older snapshot of the take, or go on from its video with Start From."
# what reading altered values can raise
ALTERED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def write_state(
    path: Path, kind: str, version: int, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> int:
    """Writes tensors and what JSON can say about them; under its name only when it is whole and on disk.

    The bytes of the file.
    """
    return write_whole("save", path, tensors, {"kind": kind, "version": version, **about}, "the stream")


@contextmanager
def opened(
    path: Path, kind: str, version: int, *, whole: bool = True
) -> Iterator[tuple[dict[str, Any], Any]]:
    """(what the header says, the open safetensors file) of what `write_state` was given.

    whole: every byte is read, and compared with the checksum. ValueError for a file that is cut or changed,
    of another kind, or of another release.
    """
    with open_tensors(WHERE, path, WANTED, REMEDY) as file:
        sealed = not whole or refuse_changed(WHERE, path, REMEDY)
        with refuse_altered(path):
            about = json.loads((file.metadata() or {}).get("rivulet", "{}"))
            check_types({"header": about}, {"header": (dict,)})
        if about.get("kind") != kind or about.get("version") != version:
            is_kind, is_version = (str(about.get(n, "none"))[:40] for n in ("kind", "version"))
            raise ValueError(
                f"load: {path} holds {is_kind!r} in version {is_version}, needs {kind!r} in version "
                f"{version}; it was not saved by this release. Make the take anew, or go on from its video "
                f"with Start From."
            )
        if not sealed:
            raise ValueError(
                f"load: {path} has lost its checksum, and may be altered elsewhere too. {REMEDY}"
            )
        yield about, file


@contextmanager
def refuse_altered(path: Path) -> Iterator[None]:
    """ValueError with the file's name where what is read inside is not as `write_state` left it."""
    try:
        yield
    except ALTERED as error:
        raise ValueError(
            f"load: {path} was altered since it was saved, or written by something else: what it says of the "
            f"stream cannot be ({reason_of(error)}). {REMEDY}"
        ) from error


def check_types(values: Mapping[Any, Any], types: Mapping[Any, tuple[type, ...]]) -> None:
    """KeyError or TypeError unless every name is there with a value of one of its types."""
    for name, allowed in types.items():
        if type(values[name]) not in allowed:
            raise TypeError(f"{name} is {shown(values[name])}")


def config_to_json(config: StreamConfig) -> dict[str, Any]:
    """The contract in types that JSON has."""
    return asdict(config) | {"dtype": str(config.dtype).removeprefix("torch.")}


def config_from_json(fields: Mapping[str, Any]) -> StreamConfig:
    """The contract that `config_to_json` gave."""
    return StreamConfig(
        **{
            **fields,
            "geometry": Geometry(**fields["geometry"]),
            "preset": PositionPreset(**fields["preset"]),
            "sigmas": tuple(fields["sigmas"]),
            "first_sigmas": tuple(fields["first_sigmas"]),
            "dtype": _dtype(fields["dtype"]),
        }
    )


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"there is no dtype {name[:40]}")
    return found

"""A safetensors file that holds a state: written whole or not at all, and told apart from any other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..attention.positions import PositionPreset
from ..checkpoints.files import open_tensors, shapes_in, write_whole
from ..geometry import Geometry
from .config import StreamConfig


def write_state(
    path: Path, kind: str, version: int, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> int:
    """Writes tensors and what JSON can say about them; under its name only when it is whole and on disk.

    The bytes of the file.
    """
    metadata = {"kind": kind, "version": version, **about}
    write_whole("save", path, tensors, metadata, "the stream")
    return path.stat().st_size


def read(
    path: Path, kind: str, version: int, only: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_state` was given; ValueError for another kind of file, or another release's.

    only: names of the tensors that are wanted; (): all.
    """
    with _opened(path) as file:
        about = _about(path, file, kind, version)
        return about, {name: file.get_tensor(name) for name in only or shapes_in(file)}


def read_metadata(path: Path, kind: str, version: int) -> dict[str, Any]:
    """What `read` gives first, without reading a tensor."""
    with _opened(path) as file:
        return _about(path, file, kind, version)


@contextmanager
def refuse_altered(path: Path) -> Iterator[None]:
    """ValueError with the file's name where what is read inside is not as `write_state` left it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"load: {path} was altered since it was saved, or written by something else: what it says of the "
            f"stream cannot be read ({type(error).__name__}: {error}). Copy it again, or take an older one."
        ) from error


def check_types(values: Mapping[Any, Any], types: Mapping[Any, tuple[type, ...]]) -> None:
    """KeyError or TypeError unless every name is there with a value of one of its types."""
    for name, allowed in types.items():
        if type(values[name]) not in allowed:
            raise TypeError(f"{name} is {values[name]!r}")


def _opened(path: Path) -> AbstractContextManager[Any]:
    return open_tensors("load", path, "a stream that was saved", "Copy it again, or take an older one.")


def _about(path: Path, file: Any, kind: str, version: int) -> dict[str, Any]:
    with refuse_altered(path):
        about = json.loads((file.metadata() or {}).get("rivulet", "{}"))
        check_types({"header": about}, {"header": (dict,)})
    if about.get("kind") != kind or about.get("version") != version:
        raise ValueError(
            f"load: {path} holds {about.get('kind', 'no stream')!r} in version {about.get('version', '?')}, "
            f"needs {kind!r} in version {version}; it was not saved by this release. Make the take anew, or "
            f"go on from its video with Start From."
        )
    return about


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
            "first_sigmas": tuple(fields.get("first_sigmas", ())),
            "dtype": getattr(torch, fields["dtype"]),
        }
    )

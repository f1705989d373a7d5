"""Safetensors files: open, check against a model's layers, write; what does not fit becomes a sentence."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..reason import dtype_name, reason_of
from .limits import why_expanded, why_not_header
from .sealed import CHECKSUM, EMPTY, seal

PART = ".part"  # ends the name of a file that is being written
SHOWN = 4  # keys quoted in an error
MAX_SHOWN_LETTERS = 80  # of each
MAX_REASON = 200  # letters of another library's error
WEB_PAGE, POINTER = (b"<!doctype", b"<html", b"<?xml"), b"version https://git-lfs"  # first bytes
GGUF = b"gguf"  # in capitals, as its specification has it
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # that layers can compute in

Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def open_tensors(
    caller: str,
    path: Path,
    wanted: str,
    remedy: str = "Copy or download it again.",
    device: str | torch.device = "cpu",
) -> Iterator[safe_open]:
    """Yields the open file, whose tensors come to `device`.

    Errors begin with `caller`; `wanted` is what the path should lead to, `remedy` what helps a broken file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{caller}: no file at {path}; give the path of {wanted}.")
    if reason := why_no_weights(path):
        raise ValueError(f"{caller}: {reason}")
    if reason := why_not_header(path):
        raise ValueError(f"{caller}: {path} ({path.stat().st_size:,} bytes) {reason}. {remedy}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{caller}: {path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: "
            f"{str(error)[:MAX_REASON]}. {remedy}"
        ) from error


def why_no_weights(path: Path) -> str | None:
    """A sentence if the file begins as a web page, a pointer of Git LFS or a GGUF file, else None."""
    with path.open("rb") as file:
        first = file.read(512).lstrip().lower()
    size = f"{path} ({path.stat().st_size:,} bytes)"
    if first.startswith(WEB_PAGE):
        return (
            f"{size} is a web page, not a model: the server answered the download with a page, most often "
            f"one that asks for a login or says that the file has moved. Open the address in a browser and "
            f"download the file itself."
        )
    if first.startswith(POINTER):
        return (
            f"{size} is a pointer of Git LFS, not a model: the repository was cloned without its large "
            f"files. Run `git lfs pull` in it, or download the file itself."
        )
    if first.startswith(GGUF):
        return (
            f"{size} is a GGUF file, whose packed weights are not read here. In ComfyUI load it with Unet "
            f"Loader (GGUF) of the pack ComfyUI-GGUF, whose MODEL streams too; elsewhere take the model as "
            f".safetensors."
        )
    return None


def write_whole(
    caller: str, path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object], what: str
) -> int:
    """Writes a file that appears under its name only when it is whole and on disk; its bytes.

    about: goes into the metadata as JSON, under `rivulet`, with a checksum of the file beside it, see
    `sealed`. Errors begin with `caller` and name `what`. What fails leaves nothing; a process that is killed
    leaves a file whose name ends in .part.
    """
    part = path.with_name(path.name + PART)
    try:
        save_tensors(_apart(tensors), part, {"rivulet": json.dumps(about), CHECKSUM: EMPTY})
        seal(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
            count = file.seek(0, os.SEEK_END)
        os.replace(part, path)
        sync_folder(path.parent)
        return count
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{caller}: cannot write {what} to {path}: {reason_of(error)}. Nothing else was touched, and a "
            f"file of that name is as it was; choose a folder that exists, may be written to and has room."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """Has the names in a folder be on disk, where the system allows to ask for it."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that whoever may read a new file here may read.

    safetensors 0.8 writes for the owner alone, whatever the umask (github.com/safetensors/safetensors, issue
    782). Raises OSError, SafetensorError.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata)
    with suppress(OSError):  # a file system without modes has none to lose
        path.chmod(mode)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in order in memory of its own, as the file format wants them."""
    seen: set[int] = set()
    parted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        alone = tensor.is_contiguous() and place not in seen
        parted[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(place)
    return parted


def refuse_repetitions(caller: str, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """ValueError, beginning with `caller`, if copies of the tensors need far more memory than the file has
    bytes: views of a few numbers, which a pickle may hold."""
    if reason := why_expanded(tensors, path):
        raise ValueError(f"{caller}: {path} {reason}. Copy or download it again.")


def shapes_in(file: safe_open) -> Shapes:
    """Shape of every tensor of the file; reads no weights."""
    return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shape of every tensor."""
    return {key: tuple(value.shape) for key, value in tensors.items()}


def compute_dtype(caller: str, path: Path, dtype: torch.dtype) -> torch.dtype:
    """The dtype, if layers can compute in it; ValueError, beginning with `caller`, for any other."""
    if dtype not in FLOATS:
        raise ValueError(
            f"{caller}: cannot compute in {dtype_name(dtype)} (weights of {path}); give dtype as one of "
            f"{', '.join(map(dtype_name, FLOATS))}."
        )
    return dtype


def check_shapes(
    caller: str, path: Path, shapes: Shapes, model: nn.Module, readable: str, sizes: str
) -> None:
    """Raises ValueError unless these are the model's keys and shapes.

    caller: begins an error. readable: names the files that fit. sizes: says where the sizes come from.
    """
    needed = shapes_of(model.state_dict())
    missing, unexpected = sorted(needed.keys() - shapes.keys()), sorted(shapes.keys() - needed.keys())
    if missing or unexpected:
        raise ValueError(
            f"{caller}: {path} lacks {len(missing)} of {len(needed)} keys ({first_few(missing) or 'none'}) "
            f"and has {len(unexpected)} unknown ones ({first_few(unexpected) or 'none'}); only {readable} "
            f"with the published names can be read."
        )
    wrong = [f"{k} is {shapes[k]}, needs {needed[k]}" for k in sorted(needed) if shapes[k] != needed[k]]
    if wrong:
        raise ValueError(
            f"{caller}: {len(wrong)} shapes in {path} do not fit together: {'; '.join(wrong[:SHOWN])}; "
            f"{sizes}."
        )


def first_few(keys: Iterable[str]) -> str:
    """The first few keys as a list in words, each cut to a readable length; '' for none."""
    keys = list(keys)
    return ", ".join(map(_shown, keys[:SHOWN])) + (", ..." if len(keys) > SHOWN else "")


def _shown(key: str) -> str:
    cut = key if len(key) <= MAX_SHOWN_LETTERS else key[:MAX_SHOWN_LETTERS] + "..."
    return cut if cut.isprintable() else ascii(cut)

"""What a file of weights may ask for before any of it is read: of anything more, a sentence.

The sizes are far above those of published files: Wan 2.1 14B has 1,095 tensors, a training's file with four
copies of them a header of 1 MB. A file beyond them is damaged or made to do harm.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..reason import reason_of

MAX_HEADER_BYTES = 16 << 20  # of safetensors, a graph in its metadata included
METADATA = "__metadata__"  # its entry that is no tensor
MAX_JSON_LETTERS = 4 << 20  # of one entry of the metadata
MAX_TENSORS = 1 << 15
MAX_KEY_LETTERS = 1024
MAX_AXES, MAX_SIDE = 8, 1 << 31  # of a tensor
MAX_STEPS = 1_000_000  # of a pickle; a tensor takes 25
MAX_NESTED = 8  # dicts in dicts
MAX_REPEATED, FEW_BYTES = 2, 1 << 30  # times that a file may give its bytes; so many it always may
MAX_RECORDS = MAX_TENSORS + 64  # of a file that torch.save wrote: beside tensors a few of its own
LEGACY_PICKLES = 5  # that torch wrote one after the other before 1.6
PLAIN = {  # what a pickle of plain data and tensors names
    "collections OrderedDict",
    "collections Counter",
    "torch Size",
    "torch device",
    "torch.serialization _get_layout",
    "torch.nn.parameter Parameter",
    "_codecs encode",
    *(f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")),
}
ZIP = b"PK\x03\x04"  # begins one
END, END_64, LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"  # signatures of a zip's last records
DAMAGED = "Copy or download it again."
UNKNOWN = "Take it as .safetensors, or have someone who trusts it save its weights alone."


def why_not_header(path: Path) -> str | None:
    """The end of a sentence about a safetensors file whose header no model has, else None.

    What is no header at all is not looked at: to open the file says what is wrong with it.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return None
        if length > MAX_HEADER_BYTES:
            return f"says that its header has {length:,} bytes, and at most {MAX_HEADER_BYTES:,} are read"
        text = file.read(length)
    count = text.count(b'"dtype"')
    try:
        header = {} if count > MAX_TENSORS else json.loads(text)
    except (ValueError, RecursionError):
        return None
    tensors = {key: header[key] for key in header if key != METADATA} if isinstance(header, dict) else {}
    if (count := max(count, len(tensors))) > MAX_TENSORS:
        return f"holds {count:,} tensors, and at most {MAX_TENSORS:,} are read"
    return next((why for key, entry in tensors.items() if (why := _why_not_entry(key, entry))), None)


def _why_not_entry(key: str, entry: object) -> str | None:
    if len(key) > MAX_KEY_LETTERS:
        return f"has a key of {len(key):,} letters, and at most {MAX_KEY_LETTERS:,} are read"
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return _why_not_shape(shape) if isinstance(shape, list) else None


def _why_not_shape(shape: Sequence[object]) -> str | None:
    if len(shape) > MAX_AXES or any(isinstance(side, int) and side >= MAX_SIDE for side in shape):
        return f"has a tensor of the shape {str(list(shape[: MAX_AXES + 1]))[:60]}, which no model has"
    return None


def read_json(where: str, path: Path, metadata: Mapping[str, str], entry: str) -> dict[str, Any]:
    """The JSON object in an entry of a file's metadata, {} where there is none.

    where: begins an error. Raises ValueError for text that is none, too long or too deep.
    """
    text = metadata.get(entry, "{}")
    try:
        if len(text) > MAX_JSON_LETTERS:
            raise ValueError
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"{where}: the metadata entry `{entry}` of {path} must be a JSON object, got {text[:60]!a}; "
            f"write the file again or leave the entry out."
        )
    return value


@contextmanager
def reading(where: str, path: Path, entry: str) -> Iterator[None]:
    """ValueError with the file's name where what an entry of its metadata says cannot be used."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = ascii(reason_of(error))[1:-1][:200]
        raise ValueError(
            f"{where}: the metadata entry `{entry}` of {path} cannot be used ({said}); write the "
            f"file again or leave the entry out."
        ) from error


def why_not_pickled(path: Path) -> str | None:
    """Sentences about a file of torch.save that would call functions, or grow when it is read, else None.

    Reads its list of records and its pickles without running them. Raises OSError, and ValueError, EOFError,
    zipfile.BadZipFile or struct.error where it is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:  # as torch tells them apart
            if tarfile.is_tarfile(path):
                return f"is a tar archive, as torch wrote before 2017. {UNKNOWN}"
            file.seek(0)
            # the pickles come first; from a file each text would get the room that it asks for
            return _why_not_pickles(io.BytesIO(file.read(MAX_HEADER_BYTES)), LEGACY_PICKLES)
        if reason := _why_not_records(file):
            return reason
        found = zipfile.ZipFile(file).infolist()
        packed = [each for each in found if each.compress_type != zipfile.ZIP_STORED]
        if packed or sum(each.file_size for each in found) > path.stat().st_size:
            return f"holds compressed records, which torch.save never writes. {DAMAGED}"
        pickled = [each for each in found if each.filename.rpartition("/")[2] == "data.pkl"]
        whys = (_why_not_pickles(_record(file, each), 1) for each in pickled)
        return next((why for why in whys if why), None)


def _record(file: IO[bytes], info: zipfile.ZipInfo) -> IO[bytes]:
    """The bytes of a stored record; its checksum may be left out by torch, and is not compared."""
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, 1)
    return io.BytesIO(file.read(min(info.file_size, MAX_HEADER_BYTES)))


def _why_not_records(file: IO[bytes]) -> str | None:
    """Reads how many records a zip has from its end: its list alone may be gigabytes."""
    size = file.seek(0, 2)
    start = file.seek(max(0, size - 22 - (1 << 16)))
    tail = file.read()
    at = tail.rindex(END)
    count, length = struct.unpack_from("<HL", tail, at + 10)
    if at >= 20 and tail[at - 20 : at - 16] == LOCATOR_64:
        file.seek(struct.unpack_from("<Q", tail, at - 12)[0])
        end = file.read(56)
        if end[:4] == END_64:
            count, length = struct.unpack_from("<QQ", end, 32)
    if count > MAX_RECORDS or length > MAX_HEADER_BYTES or length > start + at:
        return f"says that it holds {count:,} records, and at most {MAX_RECORDS:,} are read. {DAMAGED}"
    return None


def _why_not_pickles(file: IO[bytes], count: int) -> str | None:
    """Looks through so many pickles, one after the other."""
    steps = 0
    for _ in range(count):
        for step, named, _ in pickletools.genops(file):
            steps += 1
            if steps > MAX_STEPS:
                return f"describes more than {MAX_STEPS:,} values, which no model has. {DAMAGED}"
            if step.name in ("GLOBAL", "INST") and not _is_plain(str(named)):
                return (
                    f"is not opened: beside tensors it asks for {str(named).replace(' ', '.')[:100]}, and a "
                    f"file that may call functions can run any code. {UNKNOWN}"
                )
    return None


def _is_plain(named: str) -> bool:
    """Whether a name in a pickle, `module name`, stands for plain data, a tensor or what makes one."""
    module, _, name = named.partition(" ")
    return (
        named in PLAIN
        or (module == "torch._utils" and name.startswith("_rebuild_") and not name.endswith("_with_state"))
        or (module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage"))
        or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype))
    )


def plain(content: Any) -> Any:
    """The same with dicts in place of their kinds: a pickle may give an OrderedDict another `items`.

    content: which `why_not_content` has no sentence about.
    """
    if not isinstance(content, dict):
        return content
    return {key: plain(value) for key, value in dict.items(content)}


def why_not_content(content: object) -> str | None:
    """Sentences about dicts that are nested too deep, or in themselves, or too many; else None.

    content: what a pickle held. Its tensors are looked at, too.
    """
    left, count = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        if isinstance(value, Tensor) and (reason := _why_not_tensor(value)):
            return f"{reason}. {DAMAGED}"
        if not isinstance(value, dict):
            continue
        count += len(value)
        if depth > MAX_NESTED:
            return f"holds dicts more than {MAX_NESTED} deep, or one that holds itself. {DAMAGED}"
        if count > MAX_STEPS:
            return f"holds more than {MAX_STEPS:,} values. {DAMAGED}"
        left += [(inner, depth + 1) for inner in dict.values(value)]
    return None


def _why_not_tensor(tensor: Tensor) -> str | None:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return "holds a tensor that is no plain block of numbers"
    return _why_not_shape(tensor.shape)


def why_expanded(tensors: Mapping[str, Tensor], path: Path) -> str | None:
    """The end of a sentence about tensors that need more bytes than their file has, else None."""
    needed, there = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if needed > max(MAX_REPEATED * there, FEW_BYTES):
        return f"has {there:,} bytes, and its tensors would have {needed:,}: most of them are repetitions"
    return None

"""Changed inputs: bytes of files, JSON values and texts, each drawn by a random generator that is given."""

from __future__ import annotations

import copy
import json
import struct
import zipfile
from io import BytesIO
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 255, 2**15, 2**31 - 1, 2**31, 2**53, 2**62, 2**63, -(2**63), 10**30)
FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    " ",
    "a",
    "0",
    "none",
    "\0",
    "\ud800",
    "../../x",
    "x" * 5000,
    "[" * 3000,
    "\u202e",
    "float32",
    "é",
)
WORDS = (
    "[", "]", "-", "\u2013", ":", ".", "s", "---", "\n", "\r\n", "\x0b", "#", "\0", "\ud800", "0", "9" * 30,
    " " * 3000, "[0]", "[0-5s]", "[1:30 cut]", "[0:61]", "[5s", "x" * 2000, "blend", "cut", "\u0663",
    "\u00a0", "[" * 500, "[0 " * 200,
)  # fmt: skip
WIDE = (
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\xff",
    b"\xff\xff\x7f\x7f",
    b"\x01\x00\x00\x00",
)  # NaN, -inf, 3e38, 1e-45


def changed_bytes(draw: Random, data: bytes) -> bytes:
    """The bytes with one to three of them, or a stretch, changed, lost, doubled or moved."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change(draw, made)
    return bytes(made)


def _change(draw: Random, made: bytearray) -> None:
    # headers are small, and most of what can go wrong is in them
    at = draw.randrange(min(len(made), draw.choice((16, 4096, len(made)))) or 1) if made else 0
    length = draw.choice((1, 2, 4, 8, 64, 1000))
    way = draw.randrange(8)
    if way == 0 and made:
        made[at] ^= 1 << draw.randrange(8)
    elif way == 1 and made:
        made[at] = draw.randrange(256)
    elif way == 2:
        del made[at : at + length]
    elif way == 3:
        made[at:at] = draw.randbytes(length)
    elif way == 4:
        made[at : at + length] = made[at : at + length] * 2
    elif way == 5:
        del made[at:]
    elif way == 6:
        made[at : at + 8] = struct.pack(
            "<Q", draw.choice((0, 1, 7, 2**16, 2**24, 2**31, 2**40, 2**63, 2**64 - 1))
        )
    else:
        made[at : at + 4] = draw.choice(WIDE)


def changed_value(draw: Random, value: Any) -> Any:
    """A JSON value with something in it changed, renamed, lost or doubled; the given one stays as it is."""
    made = copy.deepcopy(value)
    places = list(_places(made))
    if not places:
        return strange(draw)
    for _ in range(draw.choice((1, 1, 2))):
        holder, key = draw.choice(places)
        way = draw.randrange(5)
        if isinstance(holder, list):
            if way == 0 and key < len(holder):
                del holder[key]
            elif way == 1 and key < len(holder):
                holder.insert(key, copy.deepcopy(holder[key]))
            elif key < len(holder):
                holder[key] = _near(draw, holder[key])
        elif key in holder:
            if way == 0:
                del holder[key]
            elif way == 1:
                holder[draw.choice((key + "x", "", "x", *TEXTS[:5]))] = holder.pop(key)
            else:
                holder[key] = _near(draw, holder[key])
    return made


def _places(value: Any) -> Any:
    left = [value]
    while left:
        each = left.pop()
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, inner in items:
            yield each, key
            left.append(inner)


def _near(draw: Random, value: Any) -> Any:
    """Another value, of the same type as often as not."""
    if draw.random() < 0.5:
        return strange(draw)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, -value, value * 2, *NUMBERS))
    if isinstance(value, float):
        return draw.choice((value * (1 + 1e-7), -value, *FLOATS))
    if isinstance(value, str):
        return changed_text(draw, value)
    return strange(draw)


def strange(draw: Random) -> Any:
    """A value that hardly belongs anywhere."""
    deep: Any = 0
    for _ in range(draw.choice((2, 900))):
        deep = [deep]
    return draw.choice(
        (None, True, False, [], {}, [1, "a", None], {"a": {}}, deep, *NUMBERS, *FLOATS, *TEXTS)
    )


def changed_text(draw: Random, text: str) -> str:
    """A text with words put in, letters lost or doubled."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(text) + 1)
        end = at + draw.choice((0, 1, 3, 20))
        text = text[:at] + draw.choice((*WORDS, text[at:end] * 2, text[at:end] * 300)) + text[end:]
    return text


def changed_header(draw: Random, data: bytes) -> bytes:
    """A safetensors file with its header's JSON changed, or the JSON inside its metadata, data kept."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = header.get("__metadata__", {})
    entries = [name for name in about if about[name].startswith("{")]
    if entries and draw.random() < 0.7:
        name = draw.choice(entries)
        about[name] = json.dumps(changed_value(draw, json.loads(about[name])))
    else:
        header = changed_value(draw, header)
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=draw.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        text = b"[" * 5000
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def changed_numbers(draw: Random, data: bytes) -> bytes:
    """A safetensors file with some of its tensors' bytes changed: NaN, infinite, huge, tiny, or one bit."""
    start = 8 + int.from_bytes(data[:8], "little")
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        at = start + 4 * draw.randrange(max(1, (len(data) - start) // 4))
        if draw.random() < 0.5:
            made[at : at + 4] = draw.choice(WIDE)
        elif at < len(made):
            made[at] ^= 1 << draw.randrange(8)
    return bytes(made[: len(data)])


def changed_tensors(draw: Random, data: bytes) -> bytes:
    """A safetensors file, changed anywhere: bytes, header or numbers."""
    return draw.choice((changed_bytes, changed_header, changed_header, changed_numbers))(draw, data)


def changed_pickle(draw: Random, data: bytes) -> bytes:
    """A file of torch.save with bytes changed anywhere, or in its pickle or records alone, or packed anew."""
    if draw.random() < 0.4 or not data.startswith(b"PK"):
        return changed_bytes(draw, data)
    made = BytesIO()
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(made, "w", packing) as new:
        for info in old.infolist():
            content = old.read(info)
            if draw.random() < (0.8 if info.filename.endswith(".pkl") else 0.02):
                content = changed_bytes(draw, content)
            if draw.random() > 0.01:
                new.writestr(zipfile.ZipInfo(info.filename), content, packing)  # without the time of day
    return made.getvalue()

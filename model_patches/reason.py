"""What went wrong, in the words of a sentence, where the language or the system said it in its own."""

from __future__ import annotations

import errno
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# of what takes arguments: "Geometry.__init__() missing ...", "float() argument must be ..."
_CALL = re.compile(r"\w+(\.\w+)*\(\) ")
_NAMES = re.compile(r"\S+ (missing|got an unexpected keyword)")
_DTYPE = re.compile(r"\btorch\.(?=b?float|u?int|bool|complex)")
_OTHER_NAMES, _OTHER_KIND = "has other names than are known", "is of another kind than it must be"
_MOST, _SHOWN = 300, 80  # letters


def reason_of(error: BaseException) -> str:
    """The reason that an error gives, without a full stop; "the disk is full" where that is it."""
    if isinstance(error, OSError) and error.errno is not None:
        return "the disk is full" if error.errno in FULL else _begun(error.strerror or "the system refused")
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}" if error.args else "something is missing"
    said = _DTYPE.sub("", str(error).rstrip(". "))[:_MOST]
    if isinstance(error, TypeError) and _CALL.match(said):
        named = _NAMES.match(said)
        return f"what is there {_OTHER_NAMES if named else _OTHER_KIND}"
    return said or type(error).__name__.removesuffix("Error").lower()


def dtype_name(dtype: torch.dtype) -> str:
    """As a person says it: float32."""
    return str(dtype).removeprefix("torch.")


def shown(value: object) -> str:
    """A value that came from outside, as JSON writes it, cut to a readable length."""
    return json.dumps(value, default=str)[:_SHOWN]


def _begun(words: str) -> str:
    """The words as they stand within a sentence."""
    return words[:1].lower() + words[1:]

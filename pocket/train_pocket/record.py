"""What a folder is a training of: written when the training begins, compared whenever it goes on.

A training that goes on with other options, or with clips of other combinations, would be a mixture that no
record tells of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import held_out

RECORD_FILE = "record.json"
LIST = "held_out"  # the record's entry for the combinations that clips are drawn without


def begin_or_go_on(folder: Path, options: Mapping[str, Any]) -> None:
    """Write what the folder is a training of, or compare it with what stands there.

    options: what the training depends on, as JSON has it. Raises ValueError where the folder is a training of
    something else, or was begun before combinations were held out.
    """
    path, wanted = folder / RECORD_FILE, json.loads(json.dumps({LIST: held_out.fingerprint(), **options}))
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in wanted if stored.get(key, wanted[key]) != wanted[key]]
        if other:
            raise ValueError(_refusal(folder, other[0], stored[other[0]], wanted[other[0]]))
        wanted = stored | wanted
    elif any(folder.glob("*.pt")):
        raise ValueError(
            f"{folder} holds a training and no {RECORD_FILE}: it was begun before combinations were held out "
            f"of training, and its clips show them. Name another folder with --run."
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _refusal(folder: Path, key: str, stored: object, wanted: object) -> str:
    if key == LIST:
        return (
            f"{folder} is a training without the combinations of list {stored}, and the list is now "
            f"{wanted}: to go on would mix both. Name another folder with --run."
        )
    return (
        f"{folder} is a training with {key} {json.dumps(stored)}, and now it is {json.dumps(wanted)}. Give "
        f"what it was begun with, or another folder with --run."
    )

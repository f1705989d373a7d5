"""What a folder is a training of: written when the training begins, compared whenever it goes on.

A training that goes on with other options, or with clips of other combinations, would be a mixture that no
record tells of. The record is `record.json` in the folder: what holds for all of it, and an entry for each
phase that was begun.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import held_out
from .whole_file import write_whole

RECORD_FILE = "record.json"
POOLS = ("clips", "stories")  # begin the names of files that are no training and say what they are
LENGTHS = "lengths"  # of a phase: [step, length] for each length it was given
LIST = "held_out"  # the entry for the combinations that clips are drawn without
NAMED = (
    "Give what it was begun with, or another folder with --run; to go on otherwise, export this one and "
    "begin another at its files."
)


def begin_or_go_on(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what all of the folder is a training of, or compare it with what stands there.

    Of a training that draws clips of the pocket world. Raises ValueError where the folder is one of something
    else, or was begun before combinations were held out.
    """
    stored, wanted = read(folder), _plain({LIST: held_out.fingerprint(), **about})
    begun = [path for path in folder.glob("*.pt") if not path.name.startswith(POOLS)]
    if LIST not in stored and begun:
        raise ValueError(
            f"{folder} holds a training and no list in a {RECORD_FILE}: it was begun before combinations "
            f"were held out of training, and its clips show them. Name another folder with --run."
        )
    if stored.get(LIST, wanted[LIST]) != wanted[LIST]:
        raise ValueError(
            f"{folder} is a training without the combinations of list {stored[LIST]}, and the list is now "
            f"{wanted[LIST]}: to go on would mix both. Name another folder with --run."
        )
    _refuse_other(str(folder), stored, wanted)
    _write(folder, stored, wanted)


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """What one phase of a training depends on, as JSON has it."""

    about: Mapping[str, Any] = field(default_factory=dict)
    length: Mapping[str, Any] = field(default_factory=dict)  # steps or minutes: may change, which is recorded

    def begin_or_go_on(self, folder: Path, name: str, step: int | None, writes: bool) -> None:
        """Write the phase's entry, or compare it with what stands there.

        step: of its checkpoint, None without one; what was recorded of a phase that never came so far is
        written over. writes: False in all but one of several processes. Raises ValueError where the phase
        was begun as another.
        """
        stored, about, length = read(folder), _plain(self.about), _plain(self.length)
        before = stored.get(name, {}) if step is not None else {}
        _refuse_other(f"{folder}, {name}", before, about)
        lengths = before.get(LENGTHS, [])
        if length and (not lengths or lengths[-1][1] != length):
            if lengths and writes:
                print(f"{name}: from step {step} on {length}, before {lengths[-1][1]}", file=sys.stderr)
            lengths = [*lengths, [step or 0, length]]
        if writes and (about or length):
            _write(folder, stored, {name: {**before, **about, LENGTHS: lengths}})


def read(folder: Path) -> dict[str, Any]:
    """The record of the training in a folder, {} where there is none. Raises ValueError for a damaged one."""
    path = folder / RECORD_FILE
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}). Name another folder with --run.") from error
    if not isinstance(stored, dict) or any(
        not isinstance(each, dict) or not _are_lengths(each.get(LENGTHS, []))
        for name, each in stored.items()
        if (folder / f"{name}.pt").exists()
    ):
        raise ValueError(f"{path} is no record of a training. Name another folder with --run.")
    return stored


def digest(path: Path) -> str:
    """Of a file's bytes: 16 hexadecimal digits of SHA-256."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            made.update(part)
    return made.hexdigest()[:16]


def _are_lengths(stored: object) -> bool:
    return isinstance(stored, list) and all(isinstance(each, list) and len(each) == 2 for each in stored)


def _refuse_other(where: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """What was not recorded, as a release before did not know it, is no difference."""
    others = [
        f"{key} {json.dumps(stored[key])}, and now it is {json.dumps(value)}"
        for key, value in wanted.items()
        if stored.get(key, value) != value
    ]
    if others:
        raise ValueError(f"{where}: begun with {'; '.join(others)}. {NAMED}")


def _write(folder: Path, stored: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    if any(stored.get(key) != value for key, value in more.items()):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**stored, **more}, indent=1) + "\n"
        write_whole(folder / RECORD_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(about))

"""What must be the same when a stream goes on, beside its config, and how a difference is said.

What of a config may differ is in `differences`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .config import StreamConfig
from .differences import contract_differences

GIVE = (
    "Give it the same model, size, preset, block, cache and memory, and guidance where it had guidance; or "
    "begin a new stream."
)
# a size of a model's cache -> what a person calls it
WORDS: dict[str, Callable[[Any], str]] = {
    "layers": lambda count: f"a model of {_plain(count)} layers",
    "rows": lambda count: (
        "guidance" if count == 2 else "no guidance" if count == 1 else f"{_plain(count)} texts"
    ),
    "grid_height": lambda count: f"{_plain(count)} rows of tokens",
    "grid_width": lambda count: f"{_plain(count)} tokens in a row",
    "heads": lambda count: f"{_plain(count)} heads",
    "head_dim": lambda count: f"heads of {_plain(count)} channels",
    "rope": lambda layout: "whole heads that turn" if layout is None else f"turning heads ({_plain(layout)})",
    "memory_tokens": lambda count: f"{_plain(count)} memory tokens",
}


def refuse_other_contract(
    source: str,
    saved: StreamConfig,
    asked: StreamConfig,
    specs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, object]]],
    told: str = "",
) -> None:
    """ValueError that says what differs. source: the file's name; told: a sentence on why it may.

    specs: the saved settings, and those that are asked for, of the cache and of the memory.
    """
    said = contract_differences(saved, asked)
    said += [_of_spec(name, was, as_json(now)) for name, (was, now) in specs.items() if was != as_json(now)]
    _refuse(source, said, told + _to_set(specs))


def refuse_other_sizes(source: str, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """ValueError that says which sizes of the model, of its frames or of its memory are others."""
    names = [name for name in {**saved, **asked} if saved.get(name) != asked.get(name)]
    _refuse(source, [_of_size(name, saved.get(name), asked.get(name)) for name in names])


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from a file."""
    return json.loads(json.dumps(values))


def _refuse(source: str, said: list[str], told: str = "") -> None:
    if said:
        raise ValueError(f"Resume: the take in {source} was made with {'; '.join(said)}.{told} {GIVE}")


def _to_set(specs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, object]]]) -> str:
    """A sentence on which cache and memory to choose, where the take has others."""
    others = {
        name: was.get("name") for name, (was, now) in specs.items() if was.get("name") != now.get("name")
    }
    chosen = " and ".join(f"the {name} to {_plain(was)}" for name, was in others.items())
    return f" Set {chosen}." if chosen else ""


def _of_size(name: str, saved: Any, asked: Any) -> str:
    say = WORDS.get(name, lambda value: f"{name.replace('_', ' ')[:40]} {_plain(value)}")
    return f"{say(saved)}, not {say(asked)}"


def _of_spec(name: str, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    if saved.get("name") != asked.get("name"):
        return f"{name} {_plain(saved.get('name'))}, not {_plain(asked.get('name'))}"
    return f"another {name} {_plain(saved.get('name'))}: {_parts(saved, asked)}"


def _parts(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = [name for name in {**saved, **asked} if saved.get(name) != asked.get(name)]
    parts = (f"{n.replace('_', ' ')} {_plain(saved.get(n))}, not {_plain(asked.get(n))}" for n in names)
    return ", ".join(parts)


def _plain(value: Any) -> str:
    """A value of JSON in words."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return str(value)[:80]

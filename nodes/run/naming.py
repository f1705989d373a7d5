"""Where a new video lies: the prefix, with its patterns filled in as the host's page does it for Save Image.

The page does so for nodes whose names it knows, and clients of the API for none; so it is done here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import folder_paths

from ...model_patches.writer.text import LONGEST_ENDING, NAME_BYTES, text_problem

WHO = "Stream Video"
PATTERN = re.compile(r"%([^%]+)%")
DATE = "date:"
DATE_PARTS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
NUMBER = "_00001_"  # what comes after the prefix
WINDOWS_PATH = 259  # letters
# of names on Windows; of values that are filled in everywhere, as the page does it
ILLEGAL = re.compile(r'[<>:"|?*\x00-\x1f]')
ILLEGAL_IN_VALUES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def target(prefix: str, hidden: Any, width: int, height: int) -> Path:
    """The path of a new video. hidden: what the host tells the node of the graph. width, height: pixels.

    ValueError for a prefix that no file can have, or a pattern that names nothing.
    """
    filled = fill(prefix, hidden.prompt or {}, hidden.extra_pnginfo, datetime.now().astimezone())
    if reason := why_not(filled):
        raise ValueError(reason)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        filled, folder_paths.get_output_directory(), width, height
    )
    return Path(folder) / f"{name}_{counter:05}_.mp4"


def why_not(prefix: str, system: str = os.name) -> str:
    """A sentence why no video can be named so, or "". system: as `os.name`."""
    shown = ascii(prefix if len(prefix) <= 60 else prefix[:60] + "...")
    parts = re.split(r"[/\\]" if system == "nt" else "/", prefix)
    say = f"{WHO}: filename_prefix {shown}"
    if not parts[-1].strip():
        return f"{say} has no name for the file; write one, such as rivulet/stream."
    if not parts[0] or ".." in re.split(r"[/\\]", prefix) or re.match(r"[A-Za-z]:[/\\]|\\", prefix):
        return f"{say} leads out of ComfyUI's output folder; write a path inside it, such as rivulet/stream."
    if problem := text_problem(prefix) or ("it has a line break" if re.search("[\r\n]", prefix) else ""):
        return f"{say} cannot be a name: {problem}; type it again."
    longest = max(len(os.fsencode(part)) for part in parts) + len(NUMBER + LONGEST_ENDING) - NAME_BYTES
    if longest > 0:
        return f"{say} has a name that is {longest} bytes too long for the disk; shorten it."
    return _why_not_windows(say, prefix, parts) if system == "nt" else ""


def _why_not_windows(say: str, prefix: str, parts: list[str]) -> str:
    text = PATTERN.sub("x", prefix)
    if found := ILLEGAL.search(text):
        return f"{say} has a {found[0]!a}, which Windows does not allow in names; leave it out."
    if bad := next((part for part in parts if RESERVED.fullmatch(part) or part.endswith((".", " "))), None):
        return f"{say} has the name {bad!a}, which Windows does not allow; choose another."
    whole = len(str(Path(folder_paths.get_output_directory()) / prefix)) + len(NUMBER + LONGEST_ENDING)
    if whole > WINDOWS_PATH:
        return f"{say} makes a path of {whole} letters, and Windows allows {WINDOWS_PATH}; shorten it."
    return ""


def fill(prefix: str, graph: dict[str, Any], extra: Any, now: datetime) -> str:
    """The prefix with %date:...% and %Node.widget% filled in; the host's own, such as %width%, stay.

    graph: as it was queued. extra: what the page sent along; its workflow has names that users gave nodes.
    """

    def filled(match: re.Match[str]) -> str:
        inside = match[1]
        if inside.startswith(DATE):
            return _date(inside.removeprefix(DATE), now)
        names = inside.split(".")
        return _value(match[0], *names, graph, extra) if len(names) == 2 and all(names) else match[0]

    return PATTERN.sub(filled, prefix)


def _date(form: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] == "y":
            return {"yy": f"{now.year % 100:02}", "yyyy": str(now.year)}.get(letters, letters)
        return str(numbers[letters[0]]).zfill(len(letters))

    return re.sub(f"(?!/){ILLEGAL_IN_VALUES.pattern}", "_", DATE_PARTS.sub(part, form))


def _value(pattern: str, name: str, widget: str, graph: dict[str, Any], extra: Any) -> str:
    for id in _named(name, graph, extra):
        value = graph[id].get("inputs", {}).get(widget)
        if isinstance(value, str | int | float):
            return ILLEGAL_IN_VALUES.sub("_", str(value).lower() if isinstance(value, bool) else str(value))
    raise ValueError(
        f"{WHO}: filename_prefix asks for {ascii(pattern)[:80]}, and no node {ascii(name)[:40]} of this "
        f"graph has a value {ascii(widget)[:40]} of its own; name a node by its title or its kind, and one "
        f"of its widgets."
    )


def _named(name: str, graph: dict[str, Any], extra: Any) -> Iterator[str]:
    """Ids of the nodes of that name: by what the page searches for first, then by kind, then by title."""
    workflow = extra.get("workflow") if isinstance(extra, dict) else None
    nodes = workflow.get("nodes") if isinstance(workflow, dict) else None
    properties = {
        str(node.get("id")): node["properties"]
        for node in (nodes if isinstance(nodes, list) else ())
        if isinstance(node, dict) and isinstance(node.get("properties"), dict)
    }
    given = {id: properties.get(id, {}).get("Node name for S&R") for id in graph}
    yield from (id for id in graph if given[id] == name)
    yield from (id for id in graph if given[id] is None and graph[id].get("class_type") == name)
    titled = {id: node["_meta"] for id, node in graph.items() if isinstance(node.get("_meta"), dict)}
    yield from (id for id, meta in titled.items() if meta.get("title") == name)

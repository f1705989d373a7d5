"""The messages and texts that a fuzz changes: values of workflows, requests of pages, prompts with times."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ...model_patches.geometry import Geometry
from ...model_patches.sampler.schedule import sigmas
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.timeline import at_borders
from ...model_patches.stream.typed import read_timeline
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.mailbox import read_message
from ...model_patches.viewers.routes import Request, answer
from ...model_patches.viewers.senders import why_foreign
from ...model_patches.viewers.streams import Streams
from ...model_patches.viewers.takes import read_go_on
from ...model_patches.writer.video import Mp4Writer
from .fuzz_mutate import changed_text, changed_value

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
GEOMETRY = Geometry(32, 32)


class UnusableError(Exception):
    """What was accepted is no finite state, or makes no block."""


@dataclass(frozen=True, slots=True)
class Case:
    """One changed input."""

    value: Any  # a path, a message, a text
    is_ours: bool = False  # a file that this project writes, with a checksum
    is_resealed: bool = False  # and whose checksum was made anew after the change
    is_file: bool = False  # whose name a refusal must say


Target = tuple[Callable[[Random, Path], Case], Callable[[Any], None]]  # makes a case; opens what it holds


def workflow(draw: Random, folder: Path) -> Case:
    """The values of a node of one of the pack's workflows, changed."""
    graph = json.loads(draw.choice(sorted(WORKFLOWS.glob("*.json"))).read_text(encoding="utf-8"))
    node = draw.choice([each for each in graph["nodes"] if each["type"].startswith("Rivulet")])
    return Case((node["type"], changed_value(draw, node.get("widgets_values") or [])))


def open_workflow(value: tuple[str, Any]) -> None:
    """What a node's values are read with, once the host has seen that they are of its inputs' types."""
    kind, widgets = value
    values = widgets if isinstance(widgets, list) else []
    if kind == "RivuletPrompts" and _are(values, str, str, (int, float)):
        read_timeline(values[0], seconds_each=values[2], mode=values[1])
    elif kind == "RivuletStream" and _are(
        values, int, int, (int, float), (int, float), int, str, str, int, (int, float)
    ):
        StreamConfig(Geometry(values[0], values[1]), values[6], values[7], cfg=values[8], seed=values[4])


def message(draw: Random, folder: Path) -> Case:
    """A request to the preview's routes, changed in its body and its path."""
    do = draw.choice(("prompt", "redo", "stop", "mark", "yield", "pause"))
    body = {"viewer": "a", "number": 1, "do": do, "prompt": "a dog", "mode": "smooth", "frame": 12, "seed": 3}
    body |= {"node": "1", "workflow": "w", "client": "c"}
    path = draw.choice(("control", "seg/1", "at/3", "live", "frame/2", "video", "go-on"))
    return Case((path, changed_value(draw, body), changed_text(draw, path), draw.random()))


def open_message(value: tuple[str, Any, str, float]) -> None:
    """Has the routes answer it, and reads it as a message or a wish."""
    path, body, other, luck = value
    writer = Mp4Writer(Path("x.mp4"), width=32, height=32, fps=16)
    live = LiveStream(writer, node="1", prompt_id="p", blocks=3, client="c", modes=("smooth",))
    streams = Streams()
    streams.add(live)
    try:
        sent = json.dumps(body).encode("utf-8", "surrogatepass")
    except RecursionError:
        sent = b"[" * 5000
    place = f"/rivulet/stream/{live.session}/{other if luck < 0.3 else path}"
    kind = "application/json" if luck < 0.9 else other
    found = answer(
        streams, Request("POST" if path == "control" else "GET", place, {"from": other}, kind, sent)
    )
    if found.status not in (200, 202, 204, 400, 404, 409, 410, 413, 415):
        raise UnusableError(f"status {found.status}")
    json.dumps(live.state()).encode()
    why_foreign({"Host": other, "Origin": str(body)[:300], "X-Forwarded-For": "x"}, "127.0.0.1", 8188)
    (read_go_on if path == "go-on" else read_message)(body)


def schedule(draw: Random, folder: Path) -> Case:
    """Prompts with times, and timesteps, changed."""
    text = draw.choice(("[0s] a\n[1s cut] b\n[0:02-0:03 blend] c", "a\n---\nb", "# x\na", "[0] a"))
    steps = changed_value(
        draw, {"t": [1000.0, 750.0, 500.0], "shift": 5.0, "fps": 16, "each": 5.0, "mode": "recache"}
    )
    return Case((changed_text(draw, text), steps))


def open_schedule(value: tuple[str, Any]) -> None:
    """Finds the blocks of the prompts, and the noise levels."""
    text, given = value
    numbers = given if isinstance(given, dict) else {}
    each, mode = numbers.get("each"), numbers.get("mode")
    options = {"seconds_each": each} if isinstance(each, float) else {}
    timeline = read_timeline(text, **options, **({"mode": mode} if isinstance(mode, str) else {}))
    _, notes = at_borders(timeline, GEOMETRY, 16, 3, 40)
    "\n".join(notes).encode()
    steps, shift = numbers.get("t"), numbers.get("shift")
    if isinstance(steps, list) and all(type(each) is float for each in steps) and type(shift) is float:
        sigmas(steps, shift)


def _are(values: list[Any], *types: Any) -> bool:
    return len(values) >= len(types) and all(
        isinstance(value, kind) and not isinstance(value, bool)
        for value, kind in zip(values, types, strict=False)
    )


MESSAGES: dict[str, Target] = {
    "workflow": (workflow, open_workflow),
    "control": (message, open_message),
    "schedule": (schedule, open_schedule),
}

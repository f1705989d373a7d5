"""The files of ComfyUI's page, made from the graphs of the templates and from the schema."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rivulet.tests.host.template_files import named

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTE = "MarkdownNote"  # of the page, unknown to the server
VERSIONS = {"rivulet": "0.1.0", "comfy-core": "0.33.0"}  # that the templates were made with
GAP, TITLE = 40, 30  # pixels between two nodes; a node's title lies above its place
STREAM = (840, 760)  # of Stream Video, as in web/layout.mjs


@dataclass(frozen=True)
class Box:
    """A node of a graph, as high as it is on the page, so that none covers another."""

    type: str
    size: tuple[int, int]  # pixels, without the title
    inputs: dict[str, Any] = field(default_factory=dict)  # values, or (id of a box, output)
    text: str = ""  # of a note
    title: str = ""  # "": the node's own


@dataclass(frozen=True)
class Story:
    """A template: its nodes, in columns from left to right, each from top to bottom."""

    model: str  # that it is for
    says: str  # what it does, in a few words
    columns: tuple[dict[int, Box], ...]

    @property
    def boxes(self) -> dict[int, Box]:
        """All nodes by their ids, in the order of the ids."""
        found = {number: box for column in self.columns for number, box in column.items()}
        return dict(sorted(found.items()))

    def places(self) -> dict[int, tuple[int, int]]:
        """Where each node lies."""
        found, x = {}, 0
        for column in self.columns:
            y = 0
            for number, box in column.items():
                found[number] = (x, y)
                y += box.size[1] + TITLE + GAP
            x += max(box.size[0] for box in column.values()) + GAP
        return found


def ui_form(story: Story, schema: dict[str, Any]) -> dict[str, Any]:
    """Returns what the page saves for this story; schema: the answer to /object_info."""
    nodes, links, places = [], [], story.places()
    outputs: dict[tuple[int, int], list[int]] = {}
    for number, box in story.boxes.items():
        node = {"id": number, "type": box.type, "pos": list(places[number]), "size": list(box.size)}
        node |= {"flags": {}, "order": len(nodes), "mode": 0, "properties": {}}
        if box.title:
            node["title"] = box.title
        nodes.append(node)
        if box.type == NOTE:
            node |= {"inputs": [], "outputs": [], "widgets_values": [box.text]}
            continue
        slots, values = [], []
        for name, kind, options in inputs_of(schema[box.type]):
            given = box.inputs.get(name)
            if isinstance(given, tuple):
                links.append([len(links) + 1, *given, number, len(slots), kind])
                outputs.setdefault(given, []).append(len(links))
            if kind in WIDGETS:
                values += [default(kind, options) if given is None else given, *beside(options)]
            else:
                link = len(links) if isinstance(given, tuple) else None
                slots.append({"name": name, "type": kind, "link": link})
        node |= {"inputs": slots, "widgets_values": values}
        node["properties"] = properties(box.type, schema[box.type], values)
    for node in nodes:
        info = schema.get(node["type"], {"output": [], "output_name": []})
        node["outputs"] = [
            {"name": name, "type": kind, "links": outputs.get((node["id"], slot)) or None}
            for slot, (kind, name) in enumerate(zip(info["output"], info["output_name"], strict=True))
        ]
    whole = {"last_node_id": max(places), "last_link_id": len(links), "nodes": nodes, "links": links}
    return {"revision": 0, **whole, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def properties(type: str, info: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """Returns whose node it is, so that a page without the pack can offer it, and which files it asks for."""
    pack = "rivulet" if info["python_module"].startswith("custom_nodes.") else "comfy-core"
    said: dict[str, Any] = {"Node name for S&R": type, "cnr_id": pack, "ver": VERSIONS[pack]}
    files = [file.entry(value) for value in values if (file := named(value))]
    return said | ({"models": files} if files else {})


def inputs_of(info: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns (name, type, options) of a node's inputs in their order."""
    found = []
    for part in ("required", "optional"):
        for name in info["input_order"].get(part, []):
            kind, *options = info["input"][part][name]
            options = dict(options[0]) if options else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append((name, kind, options))
    return found


def default(kind: str, options: dict[str, Any]) -> Any:
    """Returns what a widget shows before anybody touched it."""
    if "default" in options:
        return options["default"]
    return options["options"][0] if kind == "COMBO" and options["options"] else ""


def beside(options: dict[str, Any]) -> list[str]:
    """Returns values of widgets that the page puts behind an input by itself."""
    return (["fixed"] if options.get("control_after_generate") else []) + (
        ["image"] if options.get("image_upload") else []
    )


def written(story: Story, schema: dict[str, Any]) -> str:
    """Returns the text of a template's file."""
    return json.dumps(ui_form(story, schema), indent=1, ensure_ascii=False) + "\n"

"""A template of ComfyUI's own, read from its package and run node by node in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from rivulet.tests.host.workflows import WIDGETS, beside, inputs_of

PACKAGE = "comfyui_workflow_templates_json"
EXTRAS = ("ar_video", "custom_sampler", "math", "primitive", "video")  # modules of ComfyUI with such nodes
OUTSIDE = -10  # id of a subgraph's inputs, as a source
Source = tuple[int, int]  # a node's id and its output


@dataclass
class Graph:
    """The nodes of a template, those of its subgraph in their place, and what each input is linked to."""

    nodes: dict[int, dict[str, Any]]
    sources: dict[tuple[int, str], Source]
    made: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # outputs of nodes that have run

    def of(self, kind: str) -> int:
        """The node of this class; its last one where there are several."""
        return [number for number, node in self.nodes.items() if node["type"] == kind][-1]

    def source(self, kind: str, name: str) -> Source:
        """What this input is linked to."""
        return self.sources[self.of(kind), name]

    def give(self, number: int, *outputs: Any) -> None:
        """Outputs of a node that is not to be run."""
        self.made[number] = outputs

    def set(self, kind: str, **values: Any) -> None:
        """Values of a node's widgets, in place of the template's and of links to them."""
        number = self.of(kind)
        self.nodes[number].setdefault("set", {}).update(values)
        for name in values:
            self.sources.pop((number, name), None)

    def value(self, source: Source) -> Any:
        """An output, once all that it needs has run."""
        number, slot = source
        if number not in self.made:
            inputs = _widgets(self.nodes[number])
            for (node, name), linked in self.sources.items():
                if node == number:
                    _put(inputs, name, self.value(linked))
            self.made[number] = _run(self.nodes[number]["type"], inputs)
        return self.made[number][slot]


def read(name: str) -> Graph:
    """The template of that name, with one subgraph at most."""
    path = Path(str(resources.files(PACKAGE))) / "templates" / f"{name}.json"
    asyncio.run(_load_extras())
    return flat(json.loads(path.read_text(encoding="utf-8")))


def flat(workflow: Mapping[str, Any]) -> Graph:
    """The graph with a subgraph's nodes in its place; an outer node's number is below 0."""
    graph = Graph({}, {})
    inner = {each["id"]: each for each in workflow.get("definitions", {}).get("subgraphs", [])}
    outer: dict[tuple[int, int], Source] = {}
    names = {node["id"]: [slot["name"] for slot in node["inputs"]] for node in workflow["nodes"]}
    for _, source, slot, target, place, _ in workflow["links"]:
        outer[target, place] = (-1000 - source, slot)
    for node in workflow["nodes"]:
        if node["type"] not in inner:
            graph.nodes[-1000 - node["id"]] = node
            continue
        whole = inner[node["type"]]
        ports = [port["name"] for port in whole["inputs"]]
        graph.nodes |= {each["id"]: each for each in whole["nodes"]}
        slots = {each["id"]: [slot["name"] for slot in each["inputs"]] for each in whole["nodes"]}
        for link in whole["links"]:
            source: Source | None = (link["origin_id"], link["origin_slot"])
            if link["origin_id"] == OUTSIDE:
                port = ports[link["origin_slot"]]
                place = names[node["id"]].index(port) if port in names[node["id"]] else -1
                source = outer.get((node["id"], place))
            if source is not None and link["target_id"] in slots:
                graph.sources[link["target_id"], slots[link["target_id"]][link["target_slot"]]] = source
    return graph


async def _load_extras() -> None:
    import nodes

    folder = Path(nodes.__file__).parent / "comfy_extras"
    for name in EXTRAS:
        assert await nodes.load_custom_node(str(folder / f"nodes_{name}.py"), module_parent="comfy_extras")


def _widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a node's widgets by their names."""
    import nodes

    kinds = nodes.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
    info = {"input": kinds, "input_order": {part: list(names) for part, names in kinds.items()}}
    values, found = list(node["widgets_values"]), {}
    for name, kind, options in inputs_of(info):
        if kind in WIDGETS and values:
            found[name] = values.pop(0)
            del values[: len(beside(options))]
    return found | node.get("set", {})


def _put(inputs: dict[str, Any], name: str, value: Any) -> None:
    """One input; a.b is the entry b of the input a."""
    whole, _, part = name.partition(".")
    if part:
        inputs.setdefault(whole, {})[part] = value
    else:
        inputs[name] = value


def _run(kind: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[kind]
    if hasattr(node, "execute"):
        return tuple(node.execute(**inputs).args)
    return tuple(getattr(node(), node.FUNCTION)(**inputs))

"""Graphs as they are sent to `/prompt`, with the pocket model."""

from typing import Any

from rivulet.tests.host.workflows import NOTE, WIDGETS, beside, inputs_of

Graph = dict[str, dict[str, Any]]

GREEN, BLUE = "a red circle on a green ground", "a red circle on a blue ground"
LONG_SECONDS = 600.0  # of a stream whose end nobody waits for


def stream_graph(name: str, *, text: str | None = GREEN, **inputs: Any) -> Graph:
    """A stream and a SaveVideo; `text` goes through RivuletPrompts, None: through CLIPTextEncode, fixed.

    Without guidance, which is twice as fast. inputs: of the stream node; None takes one away.
    """
    node = {
        "model": ["1", 0],
        "vae": ["1", 2],
        "prompts": ["2", 0],
        "width": 64,
        "height": 64,
        "seconds": 2.0,
        "fps": 16.0,
        "seed": 3,
        "preset": "as the model was trained",
        "num_frame_per_block": 0,
        "cfg": 1.0,
        "filename_prefix": name,
        **inputs,
    }
    graph = {
        "1": {"class_type": "RivuletPocketModel", "inputs": {"look": "plain, 64 px"}},
        "2": {
            "class_type": "RivuletPrompts",
            "inputs": {"clip": ["1", 1], "text": text, "mode": "smooth", "seconds_each": 5.0},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "RivuletStream", "inputs": node},
        "5": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["4", 0],
                "filename_prefix": f"saved_{name}",
                "format": "auto",
                "codec": "auto",
            },
        },
    }
    if text is None:
        del node["prompts"]
        node["positive"] = ["2", 0]
        graph["2"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": GREEN}}
    graph["4"]["inputs"] = {key: value for key, value in node.items() if value is not None}
    return graph


def api_form(workflow: dict[str, Any], schema: dict[str, Any]) -> Graph:
    """Returns the graph that the page would queue, read from a workflow's file.

    schema: the answer to /object_info. Widgets that came after the file was saved are left to their defaults.
    """
    sources = {number: [str(source), slot] for number, source, slot, *_ in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == NOTE:
            continue
        linked = {slot["name"]: slot["link"] for slot in node["inputs"] if slot["link"] is not None}
        inputs: dict[str, Any] = {name: sources[link] for name, link in linked.items()}
        values = list(node["widgets_values"])
        for name, kind, options in inputs_of(schema[node["type"]]):
            if kind in WIDGETS and values:
                inputs[name] = values.pop(0)
                assert [values.pop(0) for _ in beside(options)] == beside(options)
        assert values == [], f"{node['type']} has too many values"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph

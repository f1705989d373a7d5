"""Nodes bypassed or muted in ComfyUI's own page: the run is the one without them, or is refused by name."""

import os
from copy import deepcopy
from pathlib import Path

import pytest
from rivulet.tests.browser import drive
from rivulet.tests.host.graphs import Graph, stream_graph

SIZES = {"width": 64, "height": 64, "seconds": 1.0, "fps": 16.0}
STREAMED = {"preset": "as the model was trained", "num_frame_per_block": 0, "cfg": 1.0}


def whole_graph() -> Graph:
    """Returns a stream with every kind of node before it."""
    exact = {"keep_sink_exact": False, "keep_newest_exact": False}
    learnt = {"prompts": "a red circle\na blue square", "name": "small", "width": 64, "height": 64}
    learnt |= {"bytes_per_token": 0, "error_percent": 0.0, "blocks": 8, "seed": 0, **STREAMED}
    graph = stream_graph("bypass", model=["7", 0], start=["9", 0], cache=["11", 0], seconds=1.0)
    del graph["5"], graph["3"]
    return graph | {
        "6": {
            "class_type": "RivuletMemory",
            "inputs": {"model": ["1", 0], "memory": "ema", "memory_file": "none"},
        },
        "7": {
            "class_type": "RivuletPlan",
            "inputs": {"model": ["6", 0], "stop_if_too_big": False, "prompts": ["2", 0], **SIZES, **STREAMED},
        },
        "8": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
        },
        "9": {
            "class_type": "RivuletStartFrom",
            "inputs": {"image": ["8", 0], "fit": "crop", "mode": "picture", "strength": 0.85},
        },
        "10": {
            "class_type": "RivuletCalibrate",
            "inputs": {"model": ["1", 0], "clip": ["1", 1], **learnt},
        },
        "11": {
            "class_type": "RivuletLatentCache",
            "inputs": {"format": "latent", "basis_file": "none", "basis": ["10", 0], **exact},
        },
    }


def loaded_graph() -> Graph:
    """Returns a stream of a checkpoint that goes on with a take."""
    graph = stream_graph("bypass", model=["6", 0], start=["7", 0])
    del graph["5"], graph["3"]
    return graph | {
        "6": {"class_type": "RivuletLoadModel", "inputs": {}},
        "7": {"class_type": "RivuletResume", "inputs": {}},
    }


def without(graph: Graph, id: str, passes: dict[str, list]) -> Graph:
    """Returns the graph without a node: links to it are gone, or go to what it `passes` on by its inputs."""
    graph = deepcopy(graph)
    del graph[id]
    for node in graph.values():
        links = {
            name: link for name, link in node["inputs"].items() if isinstance(link, list) and link[0] == id
        }
        for name, (_, slot) in links.items():
            del node["inputs"][name]
            if slot in passes:
                node["inputs"][name] = passes[slot]
    return graph


# outputs that a bypassed node passes on, by the input that they come from; others it gives nothing
PASSES = {"RivuletMemory": {0: "model"}, "RivuletPlan": {0: "model"}}


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_what_the_page_queues_is_the_graph_without_the_node(server, tmp_path, vue):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    graphs = [whole_graph(), loaded_graph()]
    seen = drive(
        Path(__file__).with_name("bypass_page.mjs"), url=server.url, graphs=graphs, vue=vue, shots=shots
    )
    assert seen["errors"] == [], seen
    tried = set()
    for found in seen["queued"]:
        whole = found.pop("whole")
        for id, queued in found.items():
            kind, inputs = whole[id]["class_type"], whole[id]["inputs"]
            passes = {slot: inputs[name] for slot, name in PASSES.get(kind, {}).items()}
            assert queued["bypassed"] == without(whole, id, passes), kind
            assert queued["muted"] == without(whole, id, {}), kind
            tried.add(kind)
    assert {kind for graph in graphs for kind in (node["class_type"] for node in graph.values())} == tried
    assert len(tried) == 11


@pytest.mark.parametrize("lost", ["model", "vae"])
def test_what_a_stream_must_have_is_missed_by_name(server, lost):
    """As the host does for any node: the run is not queued."""
    graph = stream_graph("bypass")
    del graph["4"]["inputs"][lost]
    status, answer = server.post("/prompt", {"prompt": graph})
    (error,) = answer["node_errors"]["4"]["errors"]
    assert (status, error["message"], error["details"]) == (400, "Required input is missing", lost)


def said(server, graph: Graph) -> str:
    """Returns why a run of the graph failed."""
    messages = dict(server.run(graph)["status"]["messages"])
    return messages["execution_error"]["exception_message"]


def test_a_stream_without_its_prompts_says_what_may_be_bypassed(server):
    graph = stream_graph("bypass", prompts=None)
    told = said(server, graph)
    assert told.startswith("Stream Video: positive and prompts are both empty")
    assert "a node that is bypassed or muted gives nothing" in told


def test_a_node_without_what_it_begins_with_says_what_may_be_bypassed(server):
    graph = whole_graph()
    alone = {"1": graph["1"], "2": graph["2"], "4": stream_graph("bypass")["4"]}
    for id, lost in (("9", "image"), ("11", "basis")):
        node = deepcopy(graph[id])
        del node["inputs"][lost]
        linked = deepcopy(alone) | {id: node}
        linked["4"]["inputs"] |= {{"9": "start", "11": "cache"}[id]: [id, 0]}
        told = said(server, linked)
        assert "a node that is bypassed or muted gives nothing" in told, told


def test_guidance_without_a_negative_prompt_says_what_may_be_bypassed(server):
    told = said(server, stream_graph("bypass", cfg=2.0))
    assert "none is connected" in told and "a node that is bypassed or muted gives nothing" in told

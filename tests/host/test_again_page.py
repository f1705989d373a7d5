"""A run whose video the host gives again instead of making it: what its page shows."""

import json
import os
from pathlib import Path

import pytest
from rivulet.tests.browser import drive
from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.conftest import front_end
from rivulet.tests.host.graphs import BLUE, GREEN, stream_graph

FIRST = ("first", "same", "reloaded", "offered", "fresh", "freshReloaded", "back")
AGAIN = ("same", "reloaded", "fresh", "freshReloaded", "back", "besideAgain", "insideAgain")
TEMPLATE = Path(__file__).resolve().parents[2] / "workflows" / "01_infinite_video_no_download.json"


@pytest.fixture(scope="module")
def keeping(comfyui, tmp_path_factory):
    """Returns a running ComfyUI that keeps what earlier runs gave, too, and not the last run's alone."""
    with Server(comfyui, tmp_path_factory.mktemp("keeping"), "--cache-lru", "100", *front_end()) as running:
        yield running


def workflow(prefix, seconds=2.0):
    """Returns the first template, short and small."""
    found = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    for node in found["nodes"]:
        if node["type"] == "RivuletPocketModel":
            node["widgets_values"][1] = "plain, 64 px"
        if node["type"] == "RivuletPrompts":
            node["widgets_values"][0] = GREEN
        if node["type"] == "RivuletStream":
            node["widgets_values"][2] = seconds
            node["widgets_values"][9] = prefix
    return {**found, "id": "6f6d3a4e-0000-4000-8000-000000000002"}


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_a_video_that_the_host_gives_again_is_shown(keeping, tmp_path, vue):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    script = Path(__file__).with_name("again_page.mjs")
    told = {"workflow": workflow(f"again{vue:d}"), "graph": stream_graph(f"beside{vue:d}"), "text": GREEN}
    seen = drive(script, url=keeping.url, vue=vue, shots=shots, **told)
    assert seen["errors"] == [], seen
    first = {f"again{vue:d}_00001_.mp4"}
    assert {seen[name]["file"] for name in FIRST} == first, seen
    assert seen["other"]["file"] not in first
    # of one setting the page shows what the host gave, and not what was made last
    assert seen["beside"]["file"] == seen["besideAgain"]["file"]
    assert seen["inside"]["file"] == seen["insideAgain"]["file"] != seen["other"]["file"]
    for name in AGAIN:
        assert seen[name]["note"].startswith("This video was made before"), (name, seen[name])
    for name in ("first", "offered", "other", "beside", "inside"):
        assert "This video was made before" not in seen[name]["note"], (name, seen[name])
    for name in (*FIRST, *AGAIN, "beside", "inside"):
        found = seen[name]
        assert not found["idle"] and found["phase"] == "Finished" and found["caption"] == GREEN, (name, found)
        assert {"Redo from here", "Save the video"} <= set(found["buttons"]), (name, found)
    assert seen["offer"].startswith("Another page made a video with this node.")
    assert seen["media"] is None and seen["gone"].startswith("This video cannot be shown: its file was"), seen
    assert seen["anew"]["file"] != seen["first"]["file"] and "made before" not in seen["anew"]["note"], seen


def test_of_one_setting_the_take_that_the_host_gave_is_told_to_the_page(keeping):
    graphs = [stream_graph("given", seconds=1.0, text=text) for text in (GREEN, BLUE)]

    def run(graph, client="fresh", workflow="w"):
        more = {"extra_pnginfo": {"workflow": {"id": workflow}}}
        prompt_id = keeping.post("/prompt", {"prompt": graph, "client_id": client, "extra_data": more})[1][
            "prompt_id"
        ]
        (file,) = keeping.done(prompt_id)["outputs"]["4"]["images"]
        word = {"client": client, "prompt_id": prompt_id, "node": "4", "file": file["filename"]}
        return prompt_id, keeping.post("/rivulet/given", word)[1]["known"]

    made = [run(graph) for graph in graphs]
    assert [known for _, known in made] == [False, False], "what is made just now is no news"
    sessions = [keeping.stream(prompt_id).session for prompt_id, _ in made]
    # the inputs that come over links are the host's to compare, so both takes have one fingerprint
    assert run(graphs[0], "later", "v")[1] and run(graphs[1], "other")[1]
    listed = {
        client: keeping.get(f"/rivulet/streams?client={client}")[1]["given"] for client in ("later", "other")
    }
    told = {
        client: [(each["session"], each["workflow"]) for each in given] for client, given in listed.items()
    }
    assert told == {"later": [(sessions[0], "v")], "other": [(sessions[1], "w")]}


def test_a_run_of_another_node_alone_tells_the_page_of_the_video_that_it_took(keeping):
    made = keeping.run(stream_graph("alone"))["outputs"]["4"]["images"]
    told = {"prompt": stream_graph("alone"), "client_id": "alone", "partial_execution_targets": ["5"]}
    told["prompt"]["5"]["inputs"]["filename_prefix"] = "saved_anew"
    prompt_id = keeping.post("/prompt", told)[1]["prompt_id"]
    assert keeping.done(prompt_id)["outputs"]["4"]["images"] == made
    word = {"client": "alone", "prompt_id": prompt_id, "node": "4", "file": made[0]["filename"]}
    assert keeping.post("/rivulet/given", word)[1] == {"known": True}

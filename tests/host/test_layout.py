"""Where the parts of Stream Video's preview lie in ComfyUI's own page, in every state and both renderers."""

import json
import os
from pathlib import Path

import pytest
from rivulet.tests.browser import drive

SAVED = Path(__file__).with_name("saved")
WINDOW = (1600, 1000)
ROUNDED = 1.5  # pixels: places are told in fractions of them, the browser's and the host's
PADDING = 14  # pixels of the graph between what the widget shows and its edge
# pixels of the graph from the widget's edge to the node's: the host's margin, in Nodes 2.0 a row of badges
MARGINS = {False: 12, True: 48}
STATES = [
    *("opened", "running", "typed", "redo", "panel", "panel closed", "ended", "warned", "failed"),
    *("ended again", "narrow", "larger", "larger failed", "larger ended"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["LiteGraph", "Nodes 2.0"])
def seen(request, server, tmp_path_factory):
    """Returns what the page told, with the state of each name."""
    workflow = json.loads((SAVED / "03_prompt_journey.json").read_text(encoding="utf-8"))
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path_factory.mktemp("layout")))
    told = {"url": server.url, "workflow": workflow, "vue": request.param, "shots": shots}
    found = drive(Path(__file__).with_name("layout_page.mjs"), **told)
    server.post("/interrupt", {})
    assert found["errors"] == [], found["errors"]
    return {**found, "vue": request.param}


@pytest.mark.parametrize("name", STATES)
def test_nothing_lies_outside_the_node_and_nothing_in_it_is_empty(seen, name):
    state = seen["states"][name]
    node, widget, parts, scale = (state[each] for each in ("node", "widget", "parts", "scale"))
    assert state["hidden"] <= ROUNDED and _inside(widget, node), state
    for part, box in parts.items():
        assert _inside(box, widget), (part, state)
    lowest = max(box["bottom"] for box in parts.values())
    assert widget["bottom"] - lowest <= PADDING * scale + ROUNDED, state
    assert node["bottom"] - widget["bottom"] <= MARGINS[seen["vue"]] * scale + ROUNDED, state


@pytest.mark.parametrize("name", ["running", "typed"])
def test_a_run_is_steered_without_scrolling(seen, name):
    state = seen["states"][name]
    window = {"left": 0, "top": 0, "right": WINDOW[0], "bottom": WINDOW[1]}
    for part in ("picture", "pause", "stop", "prompt"):
        assert _inside(state["parts"][part], window), (part, state)
    node = state["node"]
    assert node["right"] - node["left"] > node["bottom"] - node["top"]


def test_a_node_is_as_high_as_before_when_its_content_shrinks(seen):
    states = seen["states"]
    heights = {name: round(_height(state["node"]) / state["scale"]) for name, state in states.items()}
    assert heights["failed"] > heights["opened"] < heights["warned"]
    assert heights["ended again"] == heights["ended"] == heights["opened"]
    # what a user made larger stays so, and the picture has all of it
    assert heights["larger ended"] == heights["larger"]
    assert heights["larger"] == pytest.approx(heights["ended"] + 160, abs=1)
    picture = [_height(states[name]["parts"]["picture"]) for name in ("larger ended", "ended")]
    assert picture[0] - picture[1] == pytest.approx(160 * states["ended"]["scale"], abs=2 * ROUNDED)
    assert seen["saved"] == pytest.approx(states["larger"]["size"])


def test_the_panel_of_properties_leaves_the_preview_as_it_was(seen):
    before, after = (seen["states"][name]["widget"] for name in ("panel", "panel closed"))
    assert after["right"] - after["left"] == pytest.approx(before["right"] - before["left"], abs=ROUNDED)
    assert _height(after) >= _height(before) - ROUNDED
    assert "picture" in seen["states"]["panel"]["parts"]


def _inside(inner, outer) -> bool:
    return (
        inner["left"] >= outer["left"] - ROUNDED
        and inner["top"] >= outer["top"] - ROUNDED
        and inner["right"] <= outer["right"] + ROUNDED
        and inner["bottom"] <= outer["bottom"] + ROUNDED
    )


def _height(box) -> float:
    return box["bottom"] - box["top"]


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_the_node_of_a_subgraph_shows_and_steers_the_stream_in_it(server, tmp_path, vue):
    workflow = json.loads((SAVED / "03_prompt_journey.json").read_text(encoding="utf-8"))
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    told = {"url": server.url, "workflow": workflow, "vue": vue, "shots": shots}
    found = drive(Path(__file__).with_name("subgraph_page.mjs"), **told)
    server.post("/interrupt", {})
    assert found["errors"] == [] and found["stopped"], found
    outer = found["outer"]
    assert ":" in outer["path"] and outer["widgets"] == outer["pictures"] == 1 and outer["inside"], outer


def test_app_mode_shows_the_finished_video(server, tmp_path):
    workflow = json.loads((SAVED / "03_prompt_journey.json").read_text(encoding="utf-8"))
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    found = drive(
        Path(__file__).with_name("app_page.mjs"), url=server.url, workflow=workflow, vue=False, shots=shots
    )
    assert found["errors"] == [] and found["file"].endswith(".mp4"), found
    # large in the middle, and not only as a thumbnail
    assert found["widest"] > 500, found
    # and so in a new page, where the host gives it from its cache
    assert found["widestAgain"] > 500 and found["made"] == found["file"], found

"""The widget in ComfyUI's own page, driven by Chromium, in both of its ways to draw nodes."""

import os
from pathlib import Path

import pytest
from rivulet.pocket.detector import detect
from rivulet.tests.browser import drive
from rivulet.tests.host.graphs import BLUE, LONG_SECONDS, stream_graph
from rivulet.tests.host.test_session import pictures

BLOCK_PICTURES = 12


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_the_widget_lives_in_the_page(server, tmp_path, vue):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    graph = stream_graph(f"page{vue:d}", seconds=LONG_SECONDS, cfg=2.0, negative=["3", 0])
    told = {"url": server.url, "graph": graph, "vue": vue, "prompt": BLUE, "shots": shots}
    seen = drive(Path(__file__).with_name("page.mjs"), **told)
    server.post("/interrupt", {})
    print(f"seconds from Run to the first picture: {seen.get('firstPictureSeconds')}")
    assert seen["errors"] == [] and seen["vue"] == vue, seen
    # ComfyUI's page is dark unless a user chose otherwise
    assert seen["theme"] == "dark"
    assert not seen["showsAnothers"]
    assert [sorted(id in href for id in (seen["session"], seen["again"])) for href in seen["saves"]] == [
        [False, True]
    ] * 2 and seen["again"] in seen["saves"][1]
    assert seen["moves"] and seen["madeWhilePaused"] == 0
    # the mode of the graph's prompts, where a run that says none offers recache
    assert seen["offeredFirst"] == graph["2"]["inputs"]["mode"] == "smooth"
    assert seen["movesAfterReload"] and seen["phaseAfterReload"] == "Running"
    assert {"RivuletStream", "RivuletPrompts", "SaveVideo"} <= set(seen["restored"])
    state = server.get(f"/rivulet/stream/{seen['session']}")[1]
    first = state["prompts"][1]["first_frame"]
    grounds = [frame.ground for frame in detect(pictures(server.base / "output" / seen["file"]))]
    assert set(grounds[:first]) == {"green"} and set(grounds[first + 2 * BLOCK_PICTURES :]) == {"blue"}

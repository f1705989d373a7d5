"""The widget in ComfyUI's own page, driven by Chromium, in both of its ways to draw nodes.

PLAYWRIGHT_CORE names an installed playwright-core (npm). Without it, node and Chromium these are skipped.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rivulet.pocket.detector import detect
from rivulet.tests.host.graphs import BLUE, LONG_SECONDS, stream_graph
from rivulet.tests.host.test_session import pictures

BLOCK_PICTURES = 12


@pytest.fixture(scope="module")
def browser():
    """Returns the environment that page.mjs runs in."""
    core, chromium = os.environ.get("PLAYWRIGHT_CORE"), shutil.which("chromium")
    if not core or not chromium or not shutil.which("node"):
        pytest.skip("needs node, chromium, and PLAYWRIGHT_CORE, the folder of playwright-core")
    return {**os.environ, "CHROMIUM": chromium}


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_the_widget_lives_in_the_page(server, browser, tmp_path, vue):
    shots = Path(os.environ.get("RIVULET_SHOTS", tmp_path))
    graph = stream_graph(f"page{vue:d}", seconds=LONG_SECONDS, cfg=2.0, negative=["3", 0])
    told = {"url": server.url, "graph": graph, "vue": vue, "prompt": BLUE, "shots": str(shots)}
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("page.mjs")), json.dumps(told)],
        capture_output=True,
        text=True,
        env=browser,
        timeout=500,
    )
    server.post("/interrupt", {})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
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

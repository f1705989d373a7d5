"""Templates in ComfyUI's own page, driven by Chromium: dialog, places of the nodes, what they ask for."""

import os
from itertools import combinations
from pathlib import Path

import pytest
from rivulet.tests.browser import drive
from rivulet.tests.host.template_files import LONGLIVE, LONGLIVE_LORA, UMT5, VAE
from rivulet.tests.host.templates import TEMPLATES

NAMES = list(TEMPLATES)
RUN = ["01_infinite_video_no_download", "07_toy_memory_and_small_cache"]
ASKS, FILES = "03_prompts_over_time_longlive", (LONGLIVE, LONGLIVE_LORA, UMT5, VAE)
ZOOM = 0.6  # at which the page's text is 8 pixels high
BAR = 80  # pixels of the window that tabs and buttons have above the graph


@pytest.fixture(scope="module", params=[False, True], ids=["LiteGraph", "Nodes 2.0"])
def seen(request, server, tmp_path_factory):
    """Returns what the page told."""
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path_factory.mktemp("templates")))
    told = {"url": server.url, "vue": request.param, "names": NAMES, "run": RUN, "asks": ASKS}
    found = drive(Path(__file__).with_name("templates_page.mjs"), **told, shots=shots)
    assert found["errors"] == [] and found["vue"] == request.param, found["errors"]
    return found


def covered(one, other):
    """Returns whether two boxes (left, top, width, height) share more than a pixel."""
    return all(min(a + w, b + v) - max(a, b) > 1 for a, w, b, v in _spans(one["box"], other["box"]))


def _spans(one, other):
    return [(one[axis], one[axis + 2], other[axis], other[axis + 2]) for axis in (0, 1)]


def overlaps(page):
    """Returns the nodes that lie over each other."""
    pairs = combinations(page["nodes"], 2)
    return [(one["type"], other["type"]) for one, other in pairs if covered(one, other)]


def outside(page):
    """Returns the nodes of which a part is not on screen."""
    wide, high = page["page"]
    return [
        node["type"]
        for node in page["nodes"]
        for x, y, width, height in [node["box"]]
        if x < page["left"] or y < BAR or x + width > wide or y + height > high
    ]


def test_the_dialog_shows_them_in_order_each_with_its_picture(seen):
    assert seen["cards"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_seen_whole_and_no_node_covers_another(seen, name):
    page = seen["opened"][name]
    assert len(page["nodes"]) == len(TEMPLATES[name].boxes)
    assert overlaps(page) == [] and outside(page) == [] and page["zoom"] >= ZOOM


@pytest.mark.parametrize("name", RUN)
def test_nothing_is_covered_after_a_run(seen, name):
    assert overlaps(seen["ran"][name]) == []


def test_the_page_offers_the_files_that_are_missing(seen):
    lines = seen["missing"]
    for file in FILES:
        at = lines.index(file.name)
        assert lines[at + 1 : at + 3] == [file.folder, "Download"], lines
    assert lines.count("Download") == len(FILES)


def test_what_covers_another_is_found():
    nodes = [{"type": str(x), "box": [x, 100, 10, 10]} for x in (100, 109, 108)]
    page = {"nodes": nodes, "page": [118, 200], "left": 100}
    assert overlaps(page) == [("100", "108"), ("109", "108")] and outside(page) == ["109"]

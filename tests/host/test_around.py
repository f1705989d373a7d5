"""What lies around the preview: a path prefix, the page's theme, the canvas below, keys, and old modules."""

import json
import os
from pathlib import Path

import pytest
from rivulet.tests.browser import drive
from rivulet.tests.host.prefix import PrefixProxy

WEB = Path(__file__).resolve().parents[2] / "web"


@pytest.fixture(scope="module", params=[False, True], ids=["LiteGraph", "Nodes 2.0"])
def seen(request, server, tmp_path_factory):
    """Returns what the page showed, which was reached under a path of a proxy."""
    saved = Path(__file__).with_name("saved") / "03_prompt_journey.json"
    workflow = json.loads(saved.read_text(encoding="utf-8"))
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path_factory.mktemp("around")))
    with PrefixProxy(server.port) as proxy:
        told = {"url": proxy.url, "workflow": workflow, "vue": request.param, "shots": shots}
        found = drive(Path(__file__).with_name("around_page.mjs"), **told)
    assert found["errors"] == [], found["errors"]
    return found


def lightness(colour: str) -> float:
    """Returns the mean of a colour's parts, `rgb(...)`, from 0 to 1."""
    return sum(float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 765


def test_the_preview_is_as_dark_as_the_page(seen):
    light, dark = seen["themes"]["light"], seen["themes"]["dark"]
    assert lightness(light["ground"]) > 0.7 > 0.3 > lightness(light["ink"]) and light["scheme"] == "light"
    assert lightness(dark["ground"]) < 0.3 < 0.7 < lightness(dark["ink"]) and dark["scheme"] == "dark"


def test_wheel_and_middle_button_reach_the_canvas(seen):
    assert seen["zoomed"] < 0.95
    assert seen["moved"] == pytest.approx([40, 25], abs=2)
    # but a field that has the keyboard scrolls
    assert seen["scrolled"] > 0 and seen["kept"]


def test_letters_in_the_prompt_are_no_shortcuts(seen):
    wanted, typed = seen["typed"]
    assert typed == wanted[:-1] and seen["untouched"] and seen["dialogs"] == 0


def test_a_browser_asks_whether_it_has_the_newest_of_every_file(server):
    for file in sorted(path.name for path in WEB.iterdir() if path.is_file()):
        path = f"/extensions/rivulet/{file}"
        status, headers, _ = server.send(path)
        told = {name.lower(): value for name, value in headers.items()}
        assert status == 200 and told["cache-control"] in ("no-store", "no-cache"), (file, told)
        if told["cache-control"] == "no-cache":
            assert server.send(path, If_None_Match=told["etag"])[0] == 304, file

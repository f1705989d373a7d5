"""Playing, the path, and what is told while a run waits: in ComfyUI's own page, driven by Chromium."""

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from rivulet.tests.browser import drive
from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph

FRAME_SECONDS = 1 / 16


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_a_stream_is_played_and_its_file_is_found(server, tmp_path, vue):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    graph = stream_graph(f"player{vue:d}", seconds=LONG_SECONDS)
    script = Path(__file__).with_name("player_page.mjs")
    server.post("/free", {"unload_models": True, "free_memory": True})  # so that the model is to be loaded
    seen = drive(script, url=server.url, graph=graph, vue=vue, shots=shots)
    server.post("/interrupt", {})
    assert seen["errors"] == [], seen
    _check_words(seen)
    loading = seen["loading"]
    assert loading["poster"].startswith("data:image/jpeg"), loading
    assert not loading["time"].startswith("0:00 /"), loading

    held, *steps = seen["steps"]
    for was, now, step in ((held, steps[0], -1), (steps[0], steps[1], -1), (steps[1], steps[2], 1)):
        assert now - was == pytest.approx(step, abs=FRAME_SECONDS)
    assert steps[3] < 1.5, "from the beginning it plays"
    assert seen["full"] == [1, True, True] and seen["loops"]
    assert seen["canvas"]["zoom"] != 1, "the wheel over the picture zooms the canvas"
    assert seen["canvas"]["drag"] == pytest.approx([60, 40], abs=2)

    assert seen["copied"] == seen["path"] and Path(seen["path"]).is_file()
    assert seen["pathShown"].startswith("…") and seen["path"].endswith(seen["pathShown"][1:])
    opened = urlsplit(seen["opens"])
    assert opened.path == "/api/view"  # the host's own, which knows the file after it was started anew
    asked = {name: value for name, (value,) in parse_qs(opened.query).items()}
    named = {name: value for name, value in seen["view"].items() if value}
    assert asked == {**named, "take": seen["session"]}
    status, headers, body = server.send(f"{opened.path}?{opened.query}", Range="bytes=0-99")
    assert (status, headers["Content-Type"]) == (206, "video/mp4")
    assert body == Path(seen["path"]).read_bytes()[:100]


def _check_words(seen) -> None:
    """What is going on is told before the first picture, and after the end of the stream before."""
    first = seen["beforeFirst"]
    assert first[0].startswith("Nothing is running") and first[-1] == "Running", first
    assert any("Getting ready: " in words or "Loading the model" in words for words in first), first
    assert seen["stopped"].startswith("Stopped by you at 0:")
    assert seen["stopped"].endswith(", can be resumed")
    later = seen["afterStop"]
    queued = [at for at, words in enumerate(later) if words == "Queued, 1 before it"]
    assert len(queued) == 2 and later[queued[0] + 1] == seen["stopped"], later

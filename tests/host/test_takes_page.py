"""Going back in a take, choosing one, going on after a crash: in ComfyUI's own page, driven by Chromium."""

import json
import os
from pathlib import Path

import pytest
import torch
from rivulet.pocket.detector import detect
from rivulet.tests.browser import drive, find_chromium
from rivulet.tests.host.comfy_server import Server, Stream
from rivulet.tests.host.graphs import BLUE, GREEN, LONG_SECONDS, stream_graph
from rivulet.tests.host.test_session import pictures

BLOCK_PICTURES = 12
SNAPSHOT_SECONDS = 2.0
FAR_OFF = 6  # levels of 255, as a mean: two decoders turn the same YUV into RGB


def shots_folder(tmp_path: Path) -> str:
    return os.environ.get("RIVULET_SHOTS", str(tmp_path))


def seen_pixels(look) -> torch.Tensor:
    """Returns the picture [H, W, 3] that the browser showed."""
    return torch.tensor(look["pixels"], dtype=torch.uint8).view(64, 64, 3)


def far_off(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the mean difference in levels; a small picture is larger in its file, by a whole factor."""
    times = other.shape[0] // one.shape[0]
    middles = other[times // 2 :: times, times // 2 :: times]
    return (one.float() - middles.float()).abs().mean().item()


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_a_take_is_made_again_from_where_the_bar_stands(server, tmp_path, vue):
    name = f"redo{vue:d}"
    graph = stream_graph(name, seconds=LONG_SECONDS, snapshot_seconds=SNAPSHOT_SECONDS)
    resume = stream_graph(name, start=["6", 0]) | {"6": {"class_type": "RivuletResume", "inputs": {}}}
    told = {"url": server.url, "graph": graph, "resume": resume, "vue": vue, "prompt": BLUE}
    seen = drive(Path(__file__).with_name("takes_page.mjs"), **told, shots=shots_folder(tmp_path))
    server.post("/interrupt", {})
    assert seen["errors"] == [], seen["errors"]
    assert seen["prefilled"] == GREEN and seen["sent"]["prompt"] == BLUE and seen["sent"]["mode"] == "cut"
    assert "seed" not in seen["sent"]

    frame = seen["sent"]["frame"]
    time = f"0:{int(10 * frame / 16 + 1e-6) / 10:04.1f}"
    assert seen["label"] == f"Redo from {time}, with" and f"Made again from {time} on." in seen["note"]
    pulled = Stream(server, seen["first"]).pull()
    before = pictures(b"".join(data for _, data, _ in pulled))
    made = _made_first(server, seen)
    prompts = server.get(f"/rivulet/stream/{seen['second']}")[1]["prompts"]
    border = prompts[-1]["first_frame"]
    assert border <= frame < border + BLOCK_PICTURES
    # up to the block of that second are the pictures that were there, and the rest shows the new prompt
    assert torch.equal(made[:border], before[:border])
    assert {found.ground for found in detect(made[:border])} == {"green"}
    assert {found.ground for found in detect(made[border + BLOCK_PICTURES :])} == {"blue"}
    # the held picture is the one that was sent, and the one that the finished file shows is the file's
    assert far_off(seen_pixels(seen["held"]), before[frame]) < FAR_OFF
    shown = min(len(made) - 1, int(seen["after"]["seconds"] * 16 + 1e-3))
    assert far_off(seen_pixels(seen["after"]), made[shown]) < FAR_OFF
    assert detect(seen_pixels(seen["after"])[None])[0].ground == "blue"

    _check_tail(server, name, before, border)
    assert f"{name}_00001__tail1.mp4" in seen["note"]
    node, shown = seen["places"]["node"], seen["places"]["list"]
    assert shown["bottom"] - shown["top"] > 100 and shown["left"] >= node["left"] - 1, seen["places"]
    assert shown["bottom"] <= node["bottom"] + 1 and shown["right"] <= node["right"] + 1, seen["places"]
    assert f"{name}_00001_" in seen["rows"][0]
    assert seen["clicked"][0] == seen["clicked"][1]
    assert seen["keyed"][0] == seen["keyed"][1] == seen["selected"]


def _made_first(server, seen) -> torch.Tensor:
    """Returns what the first redo made, of which the second one, with a seed of its own, kept the end."""
    folder = server.base / "output"
    last = pictures(folder / seen["file"])
    tail = folder / seen["file"].replace(".mp4", "_tail2.mp4")
    begin = json.loads((tail.with_suffix(".take") / "take.json").read_text())["first_frame"]
    kept = pictures(tail)
    later = seen["later"]
    assert later["seed"] == "77" and "prompt" not in later and tail.name in seen["noteLater"]
    border = next(i for i in range(begin, len(last)) if not torch.equal(last[i], kept[i - begin]))
    assert begin <= border <= later["frame"] < border + BLOCK_PICTURES
    return torch.cat([last[:begin], kept])


def _check_tail(server, name, before, border):
    """The end that was there before is a take of its own, picture by picture."""
    takes = server.get("/rivulet/takes")[1]["takes"]
    tail = next(take for take in takes if take["name"] == f"{name}_00001__tail1.mp4")
    kept = pictures(server.base / "output" / tail["name"])
    begin = len(before) - len(kept)
    assert 0 <= begin <= border and torch.equal(kept, before[begin:])


def test_a_take_is_gone_on_with_after_the_server_was_killed(comfyui, tmp_path):
    find_chromium()  # before two servers are started
    graph = stream_graph("killed", seconds=LONG_SECONDS, snapshot_seconds=SNAPSHOT_SECONDS)
    bases = [tmp_path / name for name in ("first", "second")]
    for base in bases:
        base.mkdir()
    output = ("--output-directory", str(bases[0] / "output"))
    with Server(comfyui, bases[0], *output) as server:
        stream = server.stream(server.queue(graph))
        frames = stream.until(lambda state: state["frames"] >= 6 * BLOCK_PICTURES)["frames"]
        server.process.kill()
    with Server(comfyui, bases[1], *output) as server:
        seen = drive(
            Path(__file__).with_name("cut_off_page.mjs"),
            url=server.url, graph=graph, vue=False, frames=frames, shots=shots_folder(tmp_path),
        )  # fmt: skip
        server.post("/interrupt", {})
    assert seen["errors"] == [], seen["errors"]
    assert "killed_00001_.mp4 was cut off at 0:0" in seen["offer"] and not seen["offered"]
    assert seen["file"] == "killed_00001_.mp4"
    grounds = [found.ground for found in detect(pictures(bases[0] / "output" / seen["file"]))]
    assert len(grounds) > frames and set(grounds) == {"green"}

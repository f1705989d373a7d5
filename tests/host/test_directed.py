"""What a video says of itself: its graph as JSON that browsers read, and its prompts, which make it again."""

import json

import pytest
import torch
from rivulet.model_patches.stream.snapshot import read_header
from rivulet.model_patches.takes.directed import TAG
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.timeline_file import read
from rivulet.model_patches.writer.tags import read_tags
from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.graphs import BLUE, GREEN, stream_graph
from rivulet.tests.host.test_session import pictures


def strict(text):
    """JSON as a browser reads it."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def typed(server, graph, **more):
    """Runs a graph, types a prompt on its way, and returns the finished video's path."""
    status, answer = server.post("/prompt", {"prompt": graph, **more})
    assert status == 200, answer
    stream = server.stream(answer["prompt_id"])
    stream.until(lambda state: state["block"] >= 1)
    assert stream.ask("prompt", prompt=BLUE, mode="cut")["outcome"] == "done"
    assert server.done(answer["prompt_id"])["status"]["status_str"] == "success"
    return server.base / "output" / stream.state()["file"]


def test_a_video_that_was_directed_live_is_made_again_from_its_own_text(server):
    graph = stream_graph("directed", seconds=6.0, snapshot="always")
    graph["9"] = {"class_type": "RivuletDoctor", "inputs": {}}
    more = {"workflow": {"odd": float("nan"), "far": [float("inf")], "half": "\ud800"}}
    video = typed(server, graph, extra_data={"extra_pnginfo": more})
    tags = read_tags(video)
    assert strict(tags["workflow"]) == {"odd": None, "far": [None], "half": "\ud800"}
    queued = strict(tags["prompt"])
    assert queued["4"]["inputs"]["seed"] == 3 and "is_changed" not in queued["9"]
    text = tags[TAG]
    assert GREEN in text and BLUE in text and " cut] " in text

    (take,) = [each for each in server.get("/rivulet/takes")[1]["takes"] if each["name"] == video.name]
    assert server.get(f"/rivulet/take/{take['id']}/timeline") == (200, {"timeline": text})
    entry = server.run(stream_graph("redirected", seconds=6.0, text=text))
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    again = server.base / "output" / "redirected_00001_.mp4"
    assert torch.equal(pictures(video), pictures(again))
    assert read_tags(again)[TAG] == text

    assert server.post(f"/rivulet/take/{take['id']}/delete", {"what": "snapshots"}) == (200, {})
    assert video.is_file() and not TakeFolder(video).path.exists()
    assert video.name not in [each["name"] for each in server.get("/rivulet/takes")[1]["takes"]]
    (other,) = [each for each in server.get("/rivulet/takes")[1]["takes"] if each["name"] == again.name]
    foreign = {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"}
    assert server.post(f"/rivulet/take/{other['id']}/delete", {"what": "all"}, **foreign)[0] == 403
    assert again.is_file()
    assert server.post(f"/rivulet/take/{other['id']}/delete", {"what": "all"}) == (200, {})
    assert not [path for path in again.parent.iterdir() if path.name.startswith("redirected")]
    # a page that still lists it has no later take of its name deleted
    assert server.run(stream_graph("redirected", seconds=1.0, snapshot="always"))["status"]["completed"]
    assert server.post(f"/rivulet/take/{other['id']}/delete", {"what": "all"})[0] == 404 and again.is_file()


@pytest.fixture
def discreet(comfyui, tmp_path):
    """Returns a running ComfyUI that writes no metadata and was told of several users."""
    with Server(comfyui, tmp_path, "--disable-metadata", "--multi-user") as running:
        yield running


def test_with_disable_metadata_no_prompt_is_in_any_file(discreet):
    graph = stream_graph("discreet", seconds=3.0, snapshot="always")
    status, answer = discreet.post("/prompt", {"prompt": graph, "client_id": "me"})
    assert status == 200, answer
    discreet.done(answer["prompt_id"])
    video = discreet.base / "output" / "discreet_00001_.mp4"
    assert read_tags(video).keys().isdisjoint({TAG, "prompt", "workflow"})
    folder = TakeFolder(video)
    assert all(each.prompt is None for each in read(folder.timeline)) and folder.snapshots()
    assert all(read_header(each.path).text is None for each in folder.snapshots())
    for path in (video, *folder.path.iterdir()):
        assert GREEN.encode() not in path.read_bytes(), path
    # of several users nobody deletes what may be another's
    (take,) = discreet.get("/rivulet/takes")[1]["takes"]
    status, refused = discreet.post(f"/rivulet/take/{take['id']}/delete", {"what": "all"})
    assert status == 400 and "several users" in refused["error"] and not take["deletable"] and video.is_file()
    graph["4"]["inputs"] |= {"seconds": 5.0, "start": ["6", 0]}
    graph["6"] = {"class_type": "RivuletResume", "inputs": {"snapshot": video.name}}
    assert discreet.run(graph)["status"]["status_str"] == "success"

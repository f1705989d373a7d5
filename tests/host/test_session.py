"""A stream and its viewers, over HTTP: what they see is the file, and what they ask for happens."""

import io
import json
import threading
import time

import pytest
import torch
from rivulet.pocket.detector import detect
from rivulet.tests.host.comfy_server import Stream
from rivulet.tests.host.graphs import BLUE, GREEN, LONG_SECONDS, stream_graph

LOOKS = 10  # at a state that must not change


def pictures(video):
    """Every picture [F, H, W, 3] of a path or of bytes."""
    import av

    with av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)) as opened:
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in opened.decode(video=0)])


def tags(path):
    import av

    with av.open(str(path)) as opened:
        return dict(opened.metadata)


@pytest.fixture
def begun(server):
    """Returns a function that queues a graph and gives its stream; what still runs is ended afterwards."""
    queued = []

    def begin(name, **inputs) -> Stream:
        queued.append(server.queue(stream_graph(name, **inputs)))
        stream = server.stream(queued[-1])
        stream.prompt_id = queued[-1]
        return stream

    yield begin
    server.post("/interrupt", {})
    for prompt_id in queued:
        server.done(prompt_id)


@pytest.fixture
def output(server):
    """Returns a function that gives the path of a finished file of this name."""
    return lambda name: server.base / "output" / f"{name}_00001_.mp4"


def test_what_is_pulled_while_it_runs_is_the_file(server, begun, output):
    stream = begun("pulled")
    answers = stream.pull()
    assert server.done(stream.prompt_id)["status"]["status_str"] == "success"
    assert [kind for kind, _, _ in answers].count("init") == 1 and answers[0][2] == 0.0
    # a viewer who could read only what is done would have had two answers
    assert len(answers) > 3
    whole = pictures(output("pulled"))
    assert whole.shape == (33, 256, 256, 3), "pictures of 64 pixels are enlarged in the file"
    assert torch.equal(pictures(b"".join(data for _, data, _ in answers)), whole)
    assert torch.equal(pictures(output("saved_pulled")), whole)
    state = stream.state()
    assert (state["phase"], state["frames"], state["block"], state["blocks"]) == ("ended", 33, 3, 3)
    assert (state["node"], state["prompt_id"], state["video"]) == ("4", stream.prompt_id, True)
    assert [told["prompt"] for told in state["prompts"]] == [GREEN] and state["prompt_count"] == 1


def test_a_late_viewer_finds_places_pictures_and_the_file(server, begun, output):
    from PIL import Image

    stream = begun("late")
    server.done(stream.prompt_id)
    whole = pictures(output("late"))
    path, media = stream.path, stream.state()["media"]
    assert media["oldest"]["frame"] == 0 and media["newest"]["frame"] == 32
    place = server.get(f"{path}/at/20")[1]
    assert place == {"init": 0, "segment": 17, "frame": 16} and server.get(f"{path}/at/33")[0] == 410
    _, _, rest = server.send(f"{path}/live?from={place['frame']}")
    assert torch.equal(pictures(rest), whole[16:])
    assert server.get(f"{path}/live?from=3")[0] == 410 and server.get(f"{path}/live?from=x")[0] == 400
    status, headers, data = server.send(f"{path}/frame/20")
    shown = torch.tensor(list(Image.open(io.BytesIO(data)).convert("RGB").tobytes())).view(256, 256, 3)
    assert (status, headers["X-Rivulet-Frame"]) == (200, "20")
    near = [(shown - other.long()).abs().float().mean().item() for other in whole]
    assert near.index(min(near)) == 20 and server.send(f"{path}/frame/33")[0] == 204
    file = output("late").read_bytes()
    assert server.send(f"{path}/video")[2] == file
    status, headers, part = server.send(f"{path}/video", Range="bytes=10-19")
    assert (status, part, headers["Content-Range"]) == (206, file[10:20], f"bytes 10-19/{len(file)}")
    assert server.send(f"{path}/video", Range="bytes=99999999-")[0] == 416


def test_the_file_brings_its_graph_back_as_the_hosts_own_does(server, begun, output):
    stream = begun("graph")
    server.done(stream.prompt_id)
    ours, theirs = tags(output("graph")), tags(output("saved_graph"))
    assert json.loads(ours["prompt"]) == stream_graph("graph")
    assert json.loads(ours["workflow"]) == {"nodes": [], "links": [], "version": 0.4}
    # the host leaves the stream's fingerprint in its own
    told = json.loads(theirs["prompt"])
    assert told["4"].pop("is_changed") and told == json.loads(ours["prompt"])
    assert ours["workflow"] == theirs["workflow"]


def test_pause_prompt_resume_and_stop(server, begun, output):
    stream = begun("steered", seconds=LONG_SECONDS, cfg=2.0, negative=["3", 0])
    stream.until(lambda state: state["block"] >= 1)
    assert stream.ask("pause")["outcome"] == "done"
    paused = stream.until(lambda state: state["phase"] == "paused")
    for _ in range(LOOKS):
        time.sleep(0.2)
        assert stream.state()["block"] == paused["block"]
    stream.number += 1
    message = {"viewer": "test", "number": stream.number, "do": "prompt", "prompt": BLUE, "mode": "smooth"}
    assert server.post(f"{stream.path}/control", message)[0] == 202
    assert stream.state()["pending"] == [message | {"frame": None, "seed": None}]
    assert stream.ask("resume")["outcome"] == "done"
    told = stream.until(lambda state: state["prompt_count"] == 2)["prompts"][-1]
    first = 1 + 4 * (3 * told["block"] - 1)
    assert told == {"prompt": BLUE, "mode": "smooth", "block": told["block"], "first_frame": first}
    refused = stream.ask("prompt", prompt="a purple dog", mode="smooth")
    assert refused["outcome"] == "refused" and "'purple'" in refused["sentence"]
    stream.until(lambda state: state["block"] >= told["block"] + 3)
    assert stream.ask("stop")["outcome"] == "done"
    assert server.done(stream.prompt_id)["status"]["status_str"] == "success"
    ended = stream.state()
    assert (ended["phase"], ended["sentence"], ended["video"]) == ("ended", "", True)
    shown = pictures(output("saved_steered"))
    assert len(shown) == ended["frames"] == 1 + 4 * (3 * ended["block"] - 1)
    grounds = [frame.ground for frame in detect(shown)]
    assert set(grounds[:first]) == {"green"} and set(grounds[first + 24 :]) == {"blue"}


@pytest.mark.parametrize("mode", ["cut", "recache"])
def test_a_timeline_goes_over_in_its_mode(server, begun, output, mode):
    lines = f"[0s] {GREEN}\n[1.7s {mode}] {BLUE}"
    stream = begun(mode, text=lines, seconds=4.0, cfg=2.0, negative=["3", 0])
    assert server.done(stream.prompt_id)["status"]["status_str"] == "success"
    told = stream.state()["prompts"]
    assert [(each["prompt"], each["block"]) for each in told] == [(GREEN, 0), (BLUE, 3)]
    grounds = [frame.ground for frame in detect(pictures(output(mode)))]
    first = told[1]["first_frame"]
    assert first == 33 and set(grounds[:first]) == {"green"} and set(grounds[first + 24 :]) == {"blue"}
    if mode == "cut":
        assert set(grounds[first:]) == {"blue"}


def test_an_interrupted_run_keeps_a_file_that_plays_and_the_next_one_runs(server, begun, output):
    stream = begun("broken", seconds=LONG_SECONDS)
    stream.until(lambda state: state["block"] >= 2)
    server.post("/interrupt", {})
    done = server.done(stream.prompt_id)
    assert done["status"]["status_str"] == "error" and not list(output("broken").parent.glob("broken*part*"))
    state = stream.state()
    assert state["phase"] == "ended" and "interrupted" in state["sentence"] and state["video"]
    assert len(pictures(output("broken"))) == state["frames"] >= 9
    again = begun("after_broken")
    assert server.done(again.prompt_id)["status"]["status_str"] == "success"
    assert len(pictures(output("after_broken"))) == 33


def test_six_viewers_and_a_deaf_one_do_not_hold_it_up(server, begun, output):
    stream = begun("watched", seconds=6.0)
    stream.until(lambda state: state["media"])
    deaf = stream.deaf_viewer()
    pulled: list[bytes] = []
    views = [Stream(server, stream.session, f"viewer {number}") for number in range(6)]

    def watch(view):
        pulled.append(b"".join(data for _, data, _ in view.pull()))

    threads = [threading.Thread(target=watch, args=(view,)) for view in views]
    for thread in threads:
        thread.start()
    assert server.done(stream.prompt_id)["status"]["status_str"] == "success"
    for thread in threads:
        thread.join()
    assert len(set(pulled)) == 1 and len(pulled) == 6
    assert torch.equal(pictures(pulled[0]), pictures(output("watched")))
    deaf.close()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"positive": ["3", 0]}, "positive and prompts are both connected"),
        ({"prompts": None}, "positive and prompts are both empty"),
    ],
    ids=["two prompts", "no prompt"],
)
def test_a_wrong_graph_is_refused_in_words(server, inputs, words):
    done = server.run(stream_graph("refused", **inputs))
    assert done["status"]["status_str"] == "error" and words in json.dumps(done["status"]["messages"])


def test_a_timeline_can_blend(server, output):
    done = server.run(stream_graph("blended", text=f"[0s] {GREEN}\n[0.5s blend] {BLUE}", seconds=4.0))
    assert done["status"]["status_str"] == "success", done["status"]
    made = pictures(output("blended")).float()
    # a green ground turns blue, by and by: five blocks on the newest pictures show the new prompt
    first, last = made[0, -4:].mean((0, 1)), made[-1, -4:].mean((0, 1))
    assert first[1] > first[2] and last[2] > last[1]


def test_a_fixed_prompt_can_not_be_changed(server, begun):
    stream = begun("fixed", text=None, seconds=LONG_SECONDS)
    assert stream.state()["modes"] == [] and stream.state()["prompts"] == []
    message = {"viewer": "test", "number": 1, "do": "prompt", "prompt": BLUE, "mode": "smooth"}
    status, answer = server.post(f"{stream.path}/control", message)
    assert status == 400 and "its prompt is fixed" in answer["error"]
    assert stream.ask("stop")["outcome"] == "done"

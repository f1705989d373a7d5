"""A stream that lets another job of ComfyUI's queue in, on a running ComfyUI: what each of them makes."""

import time

import numpy as np
import pytest
from PIL import Image
from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph
from rivulet.tests.host.test_session import pictures
from safetensors.torch import load_file

SECONDS = 5.0


def graph(name, **inputs):
    """A stream with its last picture and its newest latents saved as they are."""
    made = stream_graph(name, seconds=SECONDS, **inputs)
    made["6"] = {"class_type": "SaveImage", "inputs": {"images": ["4", 1], "filename_prefix": f"last_{name}"}}
    made["7"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["4", 2], "filename_prefix": f"tail_{name}"},
    }
    return made


def made_by(server, name):
    """The video, the last picture and the newest latents that the graph of this name saved."""
    output = server.base / "output"
    [video], [last], [tail] = (
        sorted(output.glob(pattern)) for pattern in (f"{name}_*.mp4", f"last_{name}*", f"tail_{name}*")
    )
    return video, np.asarray(Image.open(last)), load_file(tail)["latent_tensor"]


def again(server, prompt_id):
    """The id of the run that the queue got for this one."""

    def found():
        queued = server.get("/queue")[1]
        waiting = [item[1] for item in queued["queue_pending"]]
        running = [item[1] for item in queued["queue_running"]]
        done = list(server.get("/history")[1])
        known = {*before, prompt_id}
        return next((each for each in (*waiting, *running, *done) if each not in known), None)

    return server.until(found, "the run was not queued again")


before: set[str] = set()


@pytest.fixture
def undisturbed(server):
    """Returns what the graph makes that nothing comes between."""
    server.run(graph("alone"))
    return made_by(server, "alone")


def test_the_other_job_runs_and_the_stream_goes_on_as_if_nothing_had_been(server, undisturbed):
    before.update(server.get("/history")[1])
    first = server.queue(graph("yields"))
    stream = server.stream(first)
    other = server.queue(stream_graph("between", seconds=0.5, seed=9))
    before.add(other)
    state = stream.until(lambda state: state["block"] >= 2)
    assert state["can_yield"]
    # models leave, too, between the two turns
    assert server.post("/free", {"unload_models": True, "free_memory": True})[0] == 200
    assert stream.ask("yield")["outcome"] == "done"
    ended = server.done(first)
    assert ended["status"]["status_str"] == "success"
    assert not ended["outputs"], "nothing works on half a video"
    second = again(server, first)
    assert server.done(other)["status"]["status_str"] == "success"
    went_on = server.done(second)
    assert went_on["status"]["status_str"] == "success" and {"5", "6", "7"} <= set(went_on["outputs"])
    begun = {each["prompt_id"]: each["begun"] for each in server.get("/rivulet/streams")[1]["streams"]}
    assert begun[first] < begun[other] < begun[second]
    video, last, tail = made_by(server, "yields")
    alone, alone_last, alone_tail = undisturbed
    assert (last == alone_last).all() and (tail == alone_tail).all()
    one, whole = pictures(video).float(), pictures(alone).float()
    assert one.shape == whole.shape
    at = stream.state()["frames"]
    assert 0 < at < len(whole) and (one[:at] == whole[:at]).all()
    # from there another encoder made the file of the same pictures
    assert (one[at:] - whole[at:]).abs().mean() < 1
    assert [path.name for path in (server.base / "output").glob("yields*.mp4")] == [video.name]


def test_a_stream_lets_others_in_by_itself_after_its_turn(server):
    before.update(server.get("/history")[1])
    first = server.queue(stream_graph("turns", seconds=LONG_SECONDS, let_others_in=0.5))
    stream = server.stream(first)
    stream.until(lambda state: state["block"] >= 1)
    time.sleep(1)
    assert stream.state()["phase"] == "running", "nobody waits"
    other = server.queue(stream_graph("waits", seconds=0.5, seed=10))
    before.add(other)
    assert server.done(other)["status"]["status_str"] == "success"
    second = again(server, first)
    went_on = server.stream(second)
    made = stream.state()["frames"]
    went_on.until(lambda state: state["frames"] > made)
    went_on.ask("stop")
    assert server.done(second)["outputs"]["5"]

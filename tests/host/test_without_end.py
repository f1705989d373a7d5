"""Streams without a planned end, the rates of television, and large seeds, through ComfyUI."""

from fractions import Fraction

import pytest
from rivulet.model_patches.writer.movie import frame_count, read_movie
from rivulet.tests.host.graphs import BLUE, stream_graph


def error_of(entry):
    assert entry["status"]["status_str"] == "error"
    return next(
        told["exception_message"] for kind, told in entry["status"]["messages"] if kind == "execution_error"
    )


def video(server, name):
    return server.base / "output" / name


def stop_after(stream, blocks):
    """Stops a stream once it is at this block; its state then."""
    state = stream.until(lambda state: state["block"] >= blocks)
    assert state["blocks"] is None and state["left_seconds"] is None
    assert stream.ask("stop")["outcome"] == "done"
    return stream.until(lambda state: state["phase"] == "ended")


def test_seconds_0_goes_on_until_it_is_stopped_is_redone_and_is_gone_on_with(server):
    graph = stream_graph("endless", seconds=0.0, snapshot_seconds=1.0)
    prompt_id = server.queue(graph)
    first = server.stream(prompt_id)
    first.until(lambda state: state["block"] >= 3)
    assert first.ask("redo", frame=20, prompt=BLUE)["outcome"] == "done"
    server.until(lambda: server.stream(prompt_id).session != first.session, "it was not redone")
    ended = stop_after(server.stream(prompt_id), 5)
    assert server.done(prompt_id)["status"]["status_str"] == "success" and ended["stopped_by"] == "viewer"
    made = frame_count(video(server, "endless_00001_.mp4"))
    assert made == ended["frames"] >= 5 * 12 - 3

    graph["4"]["inputs"]["start"] = ["6", 0]
    graph["6"] = {"class_type": "RivuletResume", "inputs": {"snapshot": "endless_00001_.mp4"}}
    again = server.queue(graph)
    stop_after(server.stream(again), 7)
    assert server.done(again)["status"]["status_str"] == "success"
    assert frame_count(video(server, "endless_00001_.mp4")) > made
    graph["4"]["inputs"]["seconds"] = 1.0
    assert "seconds counts the whole video, so set it higher" in error_of(server.run(graph))


def test_without_end_a_followed_video_is_followed_to_its_last_picture(server):
    graph = stream_graph("followed", seconds=1.5)
    follow = {
        "class_type": "RivuletStartFrom",
        "inputs": {"video": ["4", 0], "mode": "follow", "strength": 1.0},
    }
    follow["inputs"]["fit"] = "crop"
    graph["6"] = follow
    inputs = {**graph["4"]["inputs"], "seconds": 0.0, "start": ["6", 0], "filename_prefix": "follower"}
    graph["7"] = {"class_type": "RivuletStream", "inputs": inputs}
    entry = server.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    counts = [frame_count(video(server, f"{name}_00001_.mp4")) for name in ("followed", "follower")]
    assert counts[0] == counts[1] > 0


def test_positions_that_grow_are_refused_without_end(server):
    told = error_of(server.run(stream_graph("grows", seconds=0.0, preset="longlive")))
    assert "not on an endless stream; take preset longlive_infinity" in told
    assert not list((server.base / "output").glob("grows*"))


@pytest.mark.parametrize(("fps", "rate"), [(23.976, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001))])
def test_a_rate_of_television_is_the_files_and_the_takes(server, fps, rate):
    name = f"rate{fps}"
    graph = stream_graph(name, fps=fps, seconds=1.0, seed=2**64 - 1, snapshot="always")
    prompt_id = server.queue(graph)
    assert server.done(prompt_id)["status"]["status_str"] == "success"
    path = video(server, f"{name}_00001_.mp4")
    assert read_movie(path).fps == rate
    assert server.stream(prompt_id).state()["fps"] == float(rate)

    graph["4"]["inputs"] |= {"seconds": 2.0, "start": ["6", 0], "fps": round(fps)}
    graph["6"] = {"class_type": "RivuletResume", "inputs": {"snapshot": path.name}}
    assert "pictures a second (fps), not" in error_of(server.run(graph))
    graph["4"]["inputs"]["fps"] = fps
    before = frame_count(path)
    assert server.run(graph)["status"]["status_str"] == "success"
    assert frame_count(path) > before and read_movie(path).fps == rate


def test_a_day_and_more_is_taken_and_more_than_2_to_the_64_is_no_seed(server):
    graph = stream_graph("days", seconds=90_000.0)
    prompt_id = server.queue(graph)
    stream = server.stream(prompt_id)
    state = stream.until(lambda state: state["block"] >= 1)
    assert state["blocks"] * 12 >= 90_000 * 16 - 3
    stream.ask("stop")
    server.done(prompt_id)
    status, refused = server.post("/prompt", {"prompt": stream_graph("seed", seed=2**64)})
    assert status == 400 and refused["node_errors"]["4"]["errors"][0]["type"] == "value_bigger_than_max"

"""Takes over HTTP: listed, seen, gone on with by the next run of a page, redone while they are made."""

import io

from PIL import Image
from rivulet.model_patches.writer.parts import frames_of
from rivulet.tests.host.comfy_server import WORKFLOW
from rivulet.tests.host.graphs import BLUE, LONG_SECONDS, stream_graph

PAGE = "a page"


def queued_by(server, graph, client=PAGE):
    """The history entry of a graph that a page queues."""
    more = {"extra_pnginfo": {"workflow": WORKFLOW}}
    status, answer = server.post("/prompt", {"prompt": graph, "client_id": client, "extra_data": more})
    assert status == 200, answer
    return server.done(answer["prompt_id"])


def take_named(server, name):
    """What the list of takes says of one."""
    return next(each for each in server.get("/rivulet/takes")[1]["takes"] if each["name"] == name)


def videos(server, name):
    return sorted(path.name for path in (server.base / "output").glob(f"{name}_*.mp4"))


def test_the_next_run_of_a_page_goes_on_with_a_take_and_the_one_after_does_not(server):
    graph = stream_graph("paged", snapshot="always")
    assert queued_by(server, graph)["status"]["status_str"] == "success"
    take = take_named(server, "paged_00001_.mp4")
    assert (take["standing"], take["recoverable"], take["frames"], take["fps"]) == ("whole", True, 33, 16.0)
    status, _, picture = server.send(f"/rivulet/take/{take['id']}/picture")
    assert status == 200 and Image.open(io.BytesIO(picture)).size == (64, 64)
    wish = {"node": "4", "workflow": "", "client": PAGE, "frame": 20, "prompt": BLUE, "mode": "smooth"}
    path = f"/rivulet/take/{take['id']}/go-on"
    assert server.post(path, {**wish, "frame": 33})[0] == 400
    assert server.post(path, wish) == (202, {})
    done = queued_by(server, graph)
    assert done["status"]["status_str"] == "success", done["status"]
    assert videos(server, "paged") == ["paged_00001_.mp4", "paged_00001__tail1.mp4"]
    assert frames_of(server.base / "output" / "paged_00001_.mp4") == 33
    assert take_named(server, "paged_00001_.mp4")["prompt"] == BLUE
    queued_by(server, graph)
    assert videos(server, "paged")[-1] == "paged_00002_.mp4"


def test_after_the_planned_end_snapshots_stay_until_the_next_video_begins(server):
    queued_by(server, stream_graph("passing", seconds=0.5))
    folder = server.base / "output" / "passing_00001_.take"
    assert folder.is_dir() and take_named(server, "passing_00001_.mp4")["recoverable"]
    queued_by(server, stream_graph("passing", seconds=0.5, seed=4))
    assert not folder.exists() and folder.with_suffix(".mp4").is_file()


def test_it_is_redone_while_it_is_made(server):
    prompt_id = server.queue(stream_graph("redone", seconds=LONG_SECONDS, snapshot_seconds=1.0))
    first = server.stream(prompt_id)
    state = first.until(lambda state: state["block"] >= 4)
    assert state["can_redo"] and state["can_mark"] and state["take"]
    assert first.ask("mark")["outcome"] == "done"
    assert first.ask("redo", frame=20, prompt=BLUE)["outcome"] == "done"

    def newest():
        known = server.get("/rivulet/streams")[1]["streams"]
        return next((each for each in known if each["prompt_id"] == prompt_id), None)

    again = server.until(lambda: (state := newest())["session"] != first.session and state["block"] >= 5, "-")
    assert again and newest()["take"] == state["take"]
    second = server.stream(prompt_id)
    assert BLUE in [each["prompt"] for each in second.state()["prompts"]]
    busy = server.post(f"/rivulet/take/{state['take']}/go-on", {"node": "4"})
    assert busy[0] == 409 and "is being made" in busy[1]["error"]
    assert second.ask("stop")["outcome"] == "done"
    assert server.done(prompt_id)["status"]["status_str"] == "success"
    assert videos(server, "redone") == ["redone_00001_.mp4", "redone_00001__tail1.mp4"]
    assert take_named(server, "redone_00001_.mp4")["standing"] == "stopped"

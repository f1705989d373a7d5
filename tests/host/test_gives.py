"""What a run gives whoever asks ComfyUI for its results: files that `/view` hands out."""

from rivulet.tests.host.graphs import LONG_SECONDS, stream_graph


def shown(server, entry):
    """The bytes of all files that a run's stream gave, as a client of the API gets them."""
    told = entry["outputs"]["4"]
    assert set(told) == {"images", "animated"} and told["animated"] == [True]
    found = []
    for each in told["images"]:
        assert each["type"] == "output"
        status, headers, data = server.send(
            "/view?" + "&".join(f"{n}={each[n]}" for n in ("filename", "subfolder", "type"))
        )
        assert status == 200 and headers["Content-Type"] == "video/mp4"
        found.append(data)
    return found


def on_disk(server, pattern):
    return [path.read_bytes() for path in sorted((server.base / "output").glob(pattern))]


def test_history_and_jobs_give_the_video_also_where_the_take_is_given_again(server):
    graph = stream_graph("sub/given")
    del graph["5"]
    prompt_id = server.queue(graph)
    first = server.done(prompt_id)
    assert shown(server, first) == on_disk(server, "sub/given_*_.mp4")
    cached = server.run(graph)
    assert cached["outputs"]["4"]["images"] == first["outputs"]["4"]["images"]
    assert len(on_disk(server, "sub/given_*_.mp4")) == 1
    job = server.get(f"/api/jobs/{prompt_id}")[1]
    assert (job["outputs_count"], job["preview_output"]["filename"]) == (1, "given_00001_.mp4")
    state = server.stream(prompt_id).state()
    file = {"filename": "given_00001_.mp4", "subfolder": "sub", "type": "output"}
    assert state["path"] == str(server.base / "output/sub/given_00001_.mp4") and state["view"] == file


def test_every_part_is_given_where_they_stay_apart(server):
    entry = server.run(stream_graph("apart", part_hours=1 / 3600, part_gigabytes=0.0))
    parts = on_disk(server, "apart_*_.part*.mp4")
    assert len(parts) > 1 and shown(server, entry) == parts
    first = sorted((server.base / "output").glob("apart_*_.part*.mp4"))
    first[-1].unlink()
    server.run(stream_graph("apart", part_hours=1 / 3600, part_gigabytes=0.0))
    assert len(on_disk(server, "apart_00002_.part*.mp4")) == len(parts), "one part was gone"


def test_a_stopped_video_is_given_and_gone_on_with(server):
    graph = stream_graph("stopgiven", seconds=LONG_SECONDS)
    prompt_id = server.queue(graph)
    stream = server.stream(prompt_id)
    assert stream.ask("stop")["outcome"] == "done"
    assert shown(server, server.done(prompt_id)) == on_disk(server, "stopgiven_*_.mp4")
    assert stream.state()["stopped_by"] == "viewer"
    before = on_disk(server, "stopgiven_*_.mp4")
    graph["4"]["inputs"] |= {"seconds": 4.0, "start": ["6", 0]}
    graph["6"] = {"class_type": "RivuletResume", "inputs": {"snapshot": "stopgiven_00001_.mp4"}}
    after = shown(server, server.run(graph))
    assert after == on_disk(server, "stopgiven_*_.mp4") != before

"""Run once more, with nothing changed: which takes stand for it and which are made anew."""

import pytest
from rivulet.tests.host.graphs import BLUE, LONG_SECONDS, stream_graph


def files(server, name):
    return sorted(path.name for path in (server.base / "output").glob(f"{name}_*_.mp4"))


def made(server, graph, name):
    """The files of this name after one more run of the graph."""
    assert server.run(graph)["status"]["status_str"] == "success"
    return len(files(server, name))


def test_a_whole_take_is_not_made_twice_until_its_file_is_gone(server):
    graph = stream_graph("whole")
    assert [made(server, graph, "whole") for _ in range(2)] == [1, 1]
    (server.base / "output" / files(server, "whole")[0]).unlink()
    assert made(server, graph, "whole") == 1


def test_after_stop_and_keep_it_is_made_again(server):
    graph = stream_graph("stopped", seconds=LONG_SECONDS)
    for count in (1, 2):
        prompt_id = server.queue(graph)
        assert server.stream(prompt_id).ask("stop")["outcome"] == "done"
        assert server.done(prompt_id)["status"]["status_str"] == "success"
        assert len(files(server, "stopped")) == count


@pytest.mark.parametrize(("prompt", "count"), [(BLUE, 2), (None, 1)], ids=["another prompt", "a pause alone"])
def test_after_a_prompt_that_was_typed_it_is_made_again(server, prompt, count):
    name = f"steered{count}"
    graph = stream_graph(name, seconds=4.0)
    prompt_id = server.queue(graph)
    stream = server.stream(prompt_id)
    stream.ask("pause")
    if prompt:
        message = {"viewer": "typist", "number": 1, "do": "prompt", "prompt": prompt, "mode": "smooth"}
        assert server.post(f"{stream.path}/control", message)[0] == 202
    stream.ask("resume")
    assert server.done(prompt_id)["status"]["status_str"] == "success"
    assert made(server, graph, name) == count


def test_a_file_that_was_written_to_since_does_not_stand_for_its_take(comfyui, tmp_path):
    from rivulet.nodes.run.fingerprint import Fingerprints

    prints, parts = Fingerprints(), [tmp_path / "a.part1.mp4", tmp_path / "a.part2.mp4"]
    for part in parts:
        part.write_bytes(b"x")
    first = prints.stamp("4", {"seed": 3})
    prints.note("4", parts, "s", whole=True)
    assert prints.stamp("4", {"seed": 3}) == first and prints.stamp("4", {"seed": 4}) != first
    for change in (lambda: parts[1].write_bytes(b"xy"), parts[0].unlink):
        before = prints.stamp("4", {"seed": 3})
        prints.note("4", parts, "s", whole=True)
        assert prints.stamp("4", {"seed": 3}) == before
        change()
        assert prints.stamp("4", {"seed": 3}) != before

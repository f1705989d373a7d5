"""ComfyUI started with other options makes the same video. (`--lowvram` is refused beside `--cpu`.)"""

from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.graphs import stream_graph

OPTIONS = ("--disable-api-nodes", "--disable-metadata", "--cache-none")


def test_the_video_is_the_same(comfyui, server, tmp_path):
    from rivulet.tests.host.test_session import pictures, tags

    graph, name = stream_graph("options", seconds=1.0), "output/options_00001_.mp4"
    assert server.run(graph)["status"]["status_str"] == "success"
    with Server(comfyui, tmp_path, *OPTIONS) as other:
        assert other.run(graph)["status"]["status_str"] == "success"
    assert pictures(other.base / name).equal(pictures(server.base / name))
    assert "prompt" in tags(server.base / name) and "prompt" not in tags(other.base / name)

"""What the registry's archive holds, unpacked into a ComfyUI: every node, help, templates, and a stream."""

import shutil

import pytest
from rivulet.tests.host.comfy_server import ROOT, Server
from rivulet.tests.host.graphs import stream_graph
from rivulet.tests.host.test_help import LANGUAGES, NODES
from rivulet.tests.host.test_workflows import NAMES
from rivulet.tests.test_registry import archive


@pytest.fixture(scope="module")
def installed(comfyui, tmp_path_factory):
    """Returns a ComfyUI that has the archive's files and no others of ours."""
    pack = tmp_path_factory.mktemp("archive")
    for name in archive(ROOT):
        place = pack / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, place)
    with Server(comfyui, tmp_path_factory.mktemp("installed"), pack=pack) as running:
        yield running


def test_it_has_every_node_text_and_template(installed):
    assert "IMPORT FAILED" not in installed.log
    assert {f"Rivulet{name}" for name in NODES} <= set(installed.get("/object_info")[1])
    assert set(LANGUAGES) <= set(installed.get("/i18n")[1])
    assert sorted(installed.get("/workflow_templates")[1]["rivulet"]) == NAMES
    assert installed.send("/extensions/rivulet/docs/RivuletStream.md")[0] == 200


def test_it_makes_a_video(installed):
    done = installed.run(stream_graph("archive", seconds=1.0))
    assert done["status"]["status_str"] == "success", installed.log[-3000:]
    assert (installed.base / "output" / "archive_00001_.mp4").stat().st_size > 1000

"""Templates for published weights run on small random files; workflows of earlier releases still run."""

import json
from pathlib import Path

import pytest
from rivulet.model_patches.checkpoints.recipes import find_recipe
from rivulet.model_patches.stream.snapshot import read_header
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.tests.host import tiny_weights
from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.graphs import api_form
from rivulet.tests.host.template_weights import WEIGHTS
from rivulet.tests.host.workflows import FOLDER

SAVED = Path(__file__).with_name("saved")
RECIPES = {
    "02_text_to_video_t2v": "self_forcing",
    "03_prompts_over_time_longlive": "longlive",
    "04_image_to_video_i2v": "causal_forcing_framewise",
    "05_memory_echo_infinity": "echo_infinity",
    "11_endless_reward_forcing": "reward_forcing",
    "12_memory_without_training": "self_forcing",
}
KEPT = {  # cache and memory of a stream, where a template chooses both
    "02_text_to_video_t2v": ("int8", "ema"),
    "05_memory_echo_infinity": ("latent", "learned"),
    "11_endless_reward_forcing": ("latent", "ema"),
    "12_memory_without_training": ("latent", "memrope"),
}
FROM_PICTURE = ("04_image_to_video_i2v", "06_core_i2v_made_endless", "13_core_i2v_nodes_kept")


@pytest.fixture(scope="module")
def small(comfyui, tmp_path_factory):
    """Returns a ComfyUI whose models are small files of random numbers."""
    folder = tmp_path_factory.mktemp("small")
    tiny_weights.write_downloads(folder / "models", folder / "input")
    with Server(comfyui, folder) as running:
        yield running


def ran(server, path):
    """Returns (the history of a workflow's file on small files, seconds of the last stream)."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    graph = tiny_weights.made_small(api_form(workflow, server.get("/object_info")[1]))
    stream = [node["inputs"] for node in graph.values() if node["class_type"] == "RivuletStream"][-1]
    stream["filename_prefix"] = path.stem
    return server.run(graph), stream["seconds"]


def pictures(server, name):
    import av

    with av.open(str(server.base / "output" / f"{name}_00001_.mp4")) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def kept(server, name):
    """Cache and memory of a whole take, by the snapshot that stays until the next one begins."""
    folder = TakeFolder(server.base / "output" / f"{name}_00001_.mp4")
    header = read_header(folder.snapshots()[-1].path)
    return header.cache, header.memory


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_template_for_weights_runs_on_small_ones(small, name):
    done, seconds = ran(small, FOLDER / f"{name}.json")
    assert done["status"]["status_str"] == "success", done["status"]
    made = pictures(small, name)
    assert len(made) >= round(16 * seconds)
    if name in FROM_PICTURE:
        # off by what the VAE and the file's encoder make of one colour
        assert abs(made[0].mean((0, 1)) - tiny_weights.PICTURE).max() < 4
    assert kept(small, name) == KEPT.get(name, ("dense", "off"))
    said = json.dumps(done["outputs"])
    if name in RECIPES:
        assert f"Recipe {find_recipe(RECIPES[name]).title}:" in said
    else:
        # without a recipe a block is what the widget says, one latent frame: four pictures after the first
        assert small.get("/rivulet/streams")[1]["streams"][0]["blocks"] == (round(16 * seconds) - 1 + 3) // 4


@pytest.mark.parametrize("path", sorted(SAVED.glob("*.json")), ids=lambda path: path.stem)
def test_a_workflow_that_was_saved_with_earlier_nodes_runs(small, path):
    done, seconds = ran(small, path)
    assert done["status"]["status_str"] == "success", done["status"]
    assert len(pictures(small, path.stem)) >= round(16 * seconds)

"""The nodes in a running ComfyUI: a graph goes in over HTTP, a video comes out."""

import json
import shutil

import pytest
from rivulet.pocket.models import DIT_FILE, MLA_FILE, WEIGHTS
from rivulet.tests.host.graphs import BLUE, GREEN, stream_graph
from safetensors import safe_open
from safetensors.torch import load_file, save_file

AS_IT_COMES = {
    **{"lora_file": "none", "lora_strength": 1.0, "weight_dtype": "default", "weights": "as released"},
    **{"recipe": "as recognised", "rope_bands": "as the file says", "fused_order": "per head"},
}
GRAPH = {
    "1": {"class_type": "RivuletPocketModel", "inputs": {}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["1", 1], "text": "a red circle and a blue square on a green ground"},
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
    "4": {
        "class_type": "RivuletStream",
        "inputs": {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["3", 0],
            "vae": ["1", 2],
            "width": 64,
            "height": 64,
            "seconds": 2.0,
            "fps": 16.0,
            "seed": 3,
            "preset": "as the model was trained",
            "num_frame_per_block": 0,
            "cfg": 0.0,
            "filename_prefix": "take",
        },
    },
    "5": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["4", 0], "filename_prefix": "saved", "format": "auto", "codec": "auto"},
    },
    "6": {"class_type": "SaveImage", "inputs": {"images": ["4", 1], "filename_prefix": "last"}},
}


def test_the_pocket_graph_makes_a_video(server):
    import av

    done = server.run(GRAPH)
    assert done["status"]["status_str"] == "success", done["status"]
    for name in ("take_00001_.mp4", "saved_00001_.mp4"):
        with av.open(str(server.base / "output" / name)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        # 2 s at 16 a second are 9 latents, in blocks of 3: 33 pictures
        # small pictures are drawn larger: a pixel of the stream is a square of 4 pixels in the file
        assert len(frames) == 33 and frames[0].shape == (256, 256, 3)
        squares = frames[0].reshape(64, 4, 64, 4, 3).astype(float)
        assert squares.std((1, 3)).mean() < 0.1 * squares.mean((1, 3)).std()
        assert frames[0].std() > 20 and (frames[0].astype(int) - frames[-1]).std() > 5
    assert (server.base / "output" / "last_00001_.png").is_file()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"negative": None}, "connect one (an empty prompt does)"),
        ({"preset": "self_forcing", "seconds": 60.0}, "take preset infinity_rope"),
    ],
    ids=["guidance without a negative", "a length without end on growing positions"],
)
def test_a_wrong_graph_is_refused_in_words(server, inputs, words):
    node = {**GRAPH["4"]["inputs"], **inputs}
    node = {name: value for name, value in node.items() if value is not None}
    done = server.run({**GRAPH, "4": {"class_type": "RivuletStream", "inputs": node}})
    assert done["status"]["status_str"] == "error"
    assert words in json.dumps(done["status"]["messages"])


def test_the_pack_loads_and_names_its_nodes(server):
    known = server.get("/object_info")[1]
    assert {"RivuletPocketModel", "RivuletStream"} <= known.keys()
    assert "IMPORT FAILED" not in server.log


def test_a_graph_loads_a_file_and_streams_from_its_latents(server):
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(WEIGHTS / MLA_FILE, folder)
    graph = stream_graph("videomla", model=["6", 0], cache=["7", 0])
    graph["6"] = {"class_type": "RivuletLoadModel", "inputs": {"model_file": MLA_FILE, **AS_IT_COMES}}
    rest = {"basis_file": "none", "keep_sink_exact": False, "keep_newest_exact": False}
    graph["7"] = {"class_type": "RivuletLatentCache", "inputs": {"format": "mla", **rest}}
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    assert "VideoMLA's attention" in str(done["outputs"]["6"]["text"])
    graph["6"]["inputs"]["model_file"] = "../secret.safetensors"
    assert server.post("/prompt", {"prompt": graph})[0] == 400


def test_prompts_change_as_the_recipe_of_the_loaded_file_says(server):
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    with safe_open(WEIGHTS / DIT_FILE, "pt") as file:
        about = file.metadata()
    recipe = json.loads(about["recipe"]) | {"switch": "smooth"}
    save_file(
        load_file(WEIGHTS / DIT_FILE), folder / "smooth.safetensors", about | {"recipe": json.dumps(recipe)}
    )
    graph = stream_graph("as_smooth", text=f"[0s] {GREEN}\n[0.5s] {BLUE}", model=["6", 0], seconds=1.0)
    graph["2"]["inputs"]["mode"] = "recipe"
    graph["6"] = {
        "class_type": "RivuletLoadModel",
        "inputs": {"model_file": "smooth.safetensors", **AS_IT_COMES},
    }
    run = server.queue(graph)
    assert server.done(run)["status"]["status_str"] == "success"
    state = server.stream(run).state()
    assert [(each["prompt"], each["mode"]) for each in state["prompts"]][1:] == [(BLUE, "smooth")]
    assert state["switch"] == "smooth"
    assert "New prompts: smooth, as the recipe of the model says." in server.log

"""The shipped templates fit the nodes of this ComfyUI, and those that need no download run.

RIVULET_WRITE_WORKFLOWS=1 writes the files anew from `templates.py`, `object_info.json`, and the thumbnails:
of those that run, moments of the video; of the others, a drawing. Do it after a change of schema, graph or
the built-in model.
"""

import io
import json
import os

import numpy as np
import pytest
from rivulet.tests.host import thumbnails
from rivulet.tests.host.graphs import api_form
from rivulet.tests.host.stored_schema import kept, stored, write
from rivulet.tests.host.template_files import DOWNLOADS
from rivulet.tests.host.template_toys import TOYS
from rivulet.tests.host.template_weights import WEIGHTS
from rivulet.tests.host.templates import TEMPLATES
from rivulet.tests.host.workflows import FOLDER, NOTE, ROOT, STREAM, VERSIONS, inputs_of, written

FILES = {"unet_name", "clip_name", "vae_name", "image", "model_file", "lora_file", "memory_file"}
NAMES = list(TEMPLATES)
WRITE = os.environ.get("RIVULET_WRITE_WORKFLOWS") == "1"
SAME, OTHER = (
    2,
    12,
)  # mean levels of 255: two encodings of one drawing; two drawings, where words alone differ


@pytest.fixture(scope="module")
def schema(server):
    """Returns the answer to /object_info."""
    return server.get("/object_info")[1]


def on_disk(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def faults(workflow, schema):
    """Returns a sentence for each input that does not fit its node."""
    graph, found = api_form(workflow, schema), []
    for number, node in graph.items():
        info = schema[node["class_type"]]
        for name, kind, options in inputs_of(info):
            given, place = node["inputs"].get(name), f"{node['class_type']}.{name}"
            if given is None:
                found += [f"{place} is not given"] * (name in info["input"]["required"])
            elif isinstance(given, list):
                source = schema[graph[given[0]]["class_type"]]["output"][given[1]]
                found += [f"{place} gets {source}"] * (source != kind)
            elif kind == "COMBO":
                found += [f"{place} cannot be {given!r}"] * (
                    name not in FILES and given not in options["options"]
                )
            elif kind in ("INT", "FLOAT"):
                inside = type(given) is not str and options["min"] <= given <= options["max"]
                found += [f"{place} cannot be {given!r}"] * (not inside)
        assert number.isdigit()
    return found


def test_the_files_are_those_of_the_graphs_and_of_the_schema(schema):
    for name in NAMES:
        file, wanted = FOLDER / f"{name}.json", written(TEMPLATES[name], schema)
        if WRITE:
            file.write_text(wanted, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == wanted, "see the head of this file"
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES


def test_the_schema_kept_for_checks_without_comfyui_is_this_one(schema):
    wanted = stored(schema, {node["type"] for name in NAMES for node in on_disk(name)["nodes"]})
    if WRITE:
        write(wanted)
    assert kept() == wanted, "see the head of this file"


@pytest.mark.parametrize("name", NAMES)
def test_every_input_fits_its_node(schema, name):
    workflow = on_disk(name)
    assert faults(workflow, schema) == []
    assert [node for node in workflow["nodes"] if node["type"] == NOTE and node["widgets_values"][0]]


def test_what_does_not_fit_is_found(schema):
    workflow = on_disk("01_infinite_video_no_download")
    stream = next(node for node in workflow["nodes"] if node["type"] == "RivuletStream")
    stream["widgets_values"][0] = "wide"
    workflow["links"][0][1:3] = [1, 2]
    for slot in stream["inputs"]:
        if slot["name"] == "vae":
            slot["link"] = None
    assert faults(workflow, schema) == [
        "RivuletPrompts.clip gets VAE",
        "RivuletStream.vae is not given",
        "RivuletStream.width cannot be 'wide'",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_node_says_whose_it_is_and_where_its_files_come_from(name):
    asked = set()
    for node in on_disk(name)["nodes"]:
        if node["type"] == NOTE:
            continue
        said = node["properties"]
        pack = "rivulet" if node["type"].startswith("Rivulet") else "comfy-core"
        assert (said["cnr_id"], said["ver"]) == (pack, VERSIONS[pack])
        values = {value for value in node["widgets_values"] if str(value).endswith((".pt", ".safetensors"))}
        entries = {entry["name"]: entry for entry in said.get("models", [])}
        # the page offers the file whose name a widget holds, letter by letter
        assert set(entries) == values, node["type"]
        for value, entry in entries.items():
            assert entry["url"].startswith("https://huggingface.co/") and "/resolve/main/" in entry["url"]
            assert entry["url"].endswith("/" + value.split("/")[-1])
            assert len(entry.get("hash", "0" * 64)) == 64 and ("hash" in entry) == ("hash_type" in entry)
            asked.add(f"models/{entry['directory']}/**{value.split('/')[-1]}**")
    note = next(node for node in on_disk(name)["nodes"] if node["type"] == NOTE)["widgets_values"][0]
    assert [path for path in asked if path not in note] == []
    assert bool(asked) == (name in WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_gives_every_graph_an_id(name):
    """Front end 1.58 reports an id that is no UUID, an empty one too, and makes one where there is none."""
    assert "id" not in on_disk(name)


def test_nothing_is_from_a_version_that_is_not_there_yet():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    now = next(line for line in text.splitlines() if line.startswith("version = ")).split('"')[1]
    assert [int(part) for part in VERSIONS["rivulet"].split(".")] <= [int(part) for part in now.split(".")]


def test_every_file_of_the_table_is_asked_for():
    stories = json.dumps([on_disk(name) for name in NAMES])
    assert [file.url for file in DOWNLOADS if file.url not in stories] == []


def test_a_stream_is_as_large_as_the_page_makes_one():
    told = (ROOT / "web" / "layout.mjs").read_text(encoding="utf-8")
    assert f"NODE_SIZE = [{STREAM[0]}, {STREAM[1]}]" in told


RUN = {
    "01_infinite_video_no_download": 162,  # pictures
    "07_toy_memory_and_small_cache": 165,
    "08_toy_calibrate_small_cache": 33,
    "09_toy_video_to_video_v2v": 33,
    "10_toy_videomla_and_memory": 165,
}
WHOLE = [name for name, pictures in RUN.items() if pictures > 100]  # the others are cut to two seconds


@pytest.mark.parametrize(("name", "pictures"), RUN.items())
def test_what_needs_no_download_runs(server, schema, name, pictures):
    import av

    graph = api_form(on_disk(name), schema)
    *before, stream = [node["inputs"] for node in graph.values() if node["class_type"] == "RivuletStream"]
    stream["filename_prefix"] = name
    if name not in WHOLE:
        for inputs in (*before, stream):
            inputs["seconds"] = 2.0
    for node in graph.values():
        if node["class_type"] == "RivuletCalibrate":
            node["inputs"] |= {"prompts": "\n".join(node["inputs"]["prompts"].splitlines()[:4]), "blocks": 4}
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    with av.open(str(server.base / "output" / f"{name}_00001_.mp4")) as video:
        made = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(made) == pictures
    if WRITE:
        thumbnails.save(name, thumbnails.moments(made))
    if name == NAMES[0]:
        grounds = [frame[:, -4:].reshape(-1, 3).astype(float).mean(0) for frame in (made[0], made[-1])]
        # from a green ground to a blue one
        assert grounds[0][1] > grounds[0][2] and grounds[1][2] > grounds[1][1]


def shown(name):
    """Returns the thumbnail [height, width, 3] as the page gets it."""
    from PIL import Image

    return np.asarray(Image.open(FOLDER / f"{name}.jpg").convert("RGB")).astype(float)


def test_thumbnails_of_weights_that_were_not_run_are_drawings_of_their_graphs():
    for name, story in WEIGHTS.items():
        drawn = thumbnails.drawing(name, story)
        if WRITE:
            thumbnails.save(name, drawn)
        assert np.abs(shown(name) - np.asarray(drawn)).mean() < SAME, "see the head of this file"


def test_every_template_has_a_thumbnail_of_its_own_that_the_page_gets(server):
    from PIL import Image

    assert sorted(TOYS) == sorted(RUN) and sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES
    pictures = {name: shown(name) for name in NAMES}
    for at, name in enumerate(NAMES):
        status, _, body = server.send(f"/api/workflow_templates/rivulet/{name}.jpg")
        assert status == 200 and Image.open(io.BytesIO(body)).size == (thumbnails.SIDE,) * 2
        assert all(np.abs(pictures[name] - pictures[other]).mean() > OTHER for other in NAMES[:at]), name


def test_the_page_offers_them(server):
    assert sorted(server.get("/workflow_templates")[1]["rivulet"]) == NAMES
    for name in NAMES:
        status, _, body = server.send(f"/api/workflow_templates/rivulet/{name}.json")
        assert status == 200 and json.loads(body) == on_disk(name)

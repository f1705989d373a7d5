"""The shipped workflows fit the nodes of this ComfyUI, and those that need no download run.

RIVULET_WRITE_WORKFLOWS=1 writes the files anew from `workflows.py`, the thumbnails of those that run, and
`object_info.json`: after a change of schema, graph or the built-in model.
"""

import io
import json
import os

import pytest
from rivulet.tests.host.stored_schema import kept, stored, write
from rivulet.tests.host.workflows import FOLDER, NOTE, WIDGETS, WORKFLOWS, beside, inputs_of, written

FILES = {"unet_name", "clip_name", "vae_name", "image"}  # chosen from a user's folders
NAMES = sorted(WORKFLOWS)


@pytest.fixture(scope="module")
def schema(server):
    """Returns the answer to /object_info."""
    return server.get("/object_info")[1]


def on_disk(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def api_form(workflow, schema):
    """Returns the graph that the page would queue, read from the file alone."""
    sources = {number: [str(source), slot] for number, source, slot, *_ in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == NOTE:
            continue
        linked = {slot["name"]: slot["link"] for slot in node["inputs"] if slot["link"] is not None}
        inputs = {name: sources[link] for name, link in linked.items()}
        values = iter(node["widgets_values"])
        for name, kind, options in inputs_of(schema[node["type"]]):
            if kind in WIDGETS:
                inputs[name] = next(values)
                assert [next(values) for _ in beside(options)] == beside(options)
        assert list(values) == [], f"{node['type']} has too many values"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


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
        file, wanted = FOLDER / f"{name}.json", written(WORKFLOWS[name], schema)
        if os.environ.get("RIVULET_WRITE_WORKFLOWS") == "1":
            file.write_text(wanted, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == wanted, "see the head of this file"
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES


def test_the_schema_kept_for_checks_without_comfyui_is_this_one(schema):
    wanted = stored(schema, {node["type"] for name in NAMES for node in on_disk(name)["nodes"]})
    if os.environ.get("RIVULET_WRITE_WORKFLOWS") == "1":
        write(wanted)
    assert kept() == wanted, "see the head of this file"


@pytest.mark.parametrize("name", NAMES)
def test_every_input_fits_its_node(schema, name):
    workflow = on_disk(name)
    assert faults(workflow, schema) == []
    assert [node for node in workflow["nodes"] if node["type"] == NOTE and node["widgets_values"][0]]


def test_what_does_not_fit_is_found(schema):
    workflow = on_disk("01_pocket_stream")
    stream = next(node for node in workflow["nodes"] if node["type"] == "RivuletStream")
    stream["widgets_values"][0] = "wide"
    workflow["links"][0][1:3] = [1, 2]
    for slot in stream["inputs"]:
        if slot["name"] == "vae":
            slot["link"] = None
    assert faults(workflow, schema) == [
        "CLIPTextEncode.clip gets VAE",
        "RivuletStream.vae is not given",
        "RivuletStream.width cannot be 'wide'",
    ]


def write_thumbnail(name, made):
    """Four moments of the video, as large as the page shows them."""
    import numpy as np
    from PIL import Image

    moments = [made[round(share * (len(made) - 1))] for share in (0.1, 0.4, 0.7, 1.0)]
    rows = [np.concatenate(pair, 1) for pair in (moments[:2], moments[2:])]
    picture = Image.fromarray(np.concatenate(rows))
    picture.resize((384, 384), Image.Resampling.LANCZOS).save(FOLDER / f"{name}.jpg", quality=90)


RUN = {
    "01_pocket_stream": 33,  # pictures
    "03_prompt_journey": 150,
    "05_endless": 165,
    "06_small_cache": 33,
    "07_follow_video": 33,
}
WHOLE = ("03_prompt_journey", "05_endless")  # the others are cut to two seconds


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
    if os.environ.get("RIVULET_WRITE_WORKFLOWS") == "1":
        write_thumbnail(name, made)
    if name == "03_prompt_journey":
        grounds = [frame[:, -4:].reshape(-1, 3).astype(float).mean(0) for frame in (made[0], made[-1])]
        # from a green ground to a blue one
        assert grounds[0][1] > grounds[0][2] and grounds[1][2] > grounds[1][1]


def test_what_ran_has_a_thumbnail_that_the_page_gets(server):
    from PIL import Image

    shown = sorted(path.stem for path in FOLDER.glob("*.jpg"))
    assert shown == list(RUN)
    for name in shown:
        status, _, body = server.send(f"/api/workflow_templates/rivulet/{name}.jpg")
        assert status == 200 and Image.open(io.BytesIO(body)).size == (384, 384)


def test_the_page_offers_them(server):
    assert sorted(server.get("/workflow_templates")[1]["rivulet"]) == NAMES
    for name in NAMES:
        status, _, body = server.send(f"/api/workflow_templates/rivulet/{name}.json")
        assert status == 200 and json.loads(body) == on_disk(name)

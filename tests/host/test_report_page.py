"""The reports of the nodes that find something out, in ComfyUI's own page, driven by Chromium."""

import os
from pathlib import Path

import pytest
import torch
from rivulet.tests.browser import drive, find_chromium
from rivulet.tests.engine.checkpoints.published_files import BY_NAME
from rivulet.tests.host.graphs import stream_graph
from rivulet.tests.host.loading import REST

PANELS = {"RivuletPlan", "RivuletDoctor", "RivuletLoadModel", "RivuletCalibrate"}
STREAM = {
    "width": 64,
    "height": 64,
    "preset": "as the model was trained",
    "num_frame_per_block": 0,
    "cfg": 1.0,
}


def reports_graph(file: str, **plan) -> dict:
    """Returns a graph with each node that reports, and one that does not."""
    wanted = {**STREAM, "seconds": 2.0, "fps": 16.0, "stop_if_too_big": True, **plan}
    # frames enough for a basis of the pocket model
    learnt = {"prompts": "a red circle\na blue square", "name": "page", "bytes_per_token": 0}
    learnt |= {"error_percent": 0.0, "blocks": 4, "seed": 0, **STREAM, "width": 160, "height": 160}
    return {
        "1": {"class_type": "RivuletPocketModel", "inputs": {}},
        "2": {"class_type": "RivuletPlan", "inputs": {"model": ["1", 0], **wanted}},
        "3": {"class_type": "RivuletDoctor", "inputs": {"model": ["1", 0], "vae": ["1", 2]}},
        "4": {"class_type": "RivuletLoadModel", "inputs": {"model_file": file, **REST}},
        "5": {"class_type": "RivuletCalibrate", "inputs": {"model": ["1", 0], "clip": ["1", 1], **learnt}},
    }


@pytest.fixture
def checkpoint(server):
    """Returns the name of a small published file in the server's models."""
    find_chromium()  # before anything is written
    torch.manual_seed(3)
    family = BY_NAME["self_forcing"]
    with torch.inference_mode(False):
        model = family.model(small=True)
    folder = server.base / "models" / "diffusion_models"
    return family.write(folder, model).relative_to(folder).as_posix()


@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Nodes 2.0"])
def test_reports_are_read_in_the_page(server, checkpoint, tmp_path, vue):
    shots = os.environ.get("RIVULET_SHOTS", str(tmp_path))
    graph = reports_graph(checkpoint)
    refused = {
        id: node for id, node in reports_graph(checkpoint, width=8192, height=8192).items() if id < "3"
    }
    wrong = stream_graph("wrong", text="[0s] a red circle\n[5x] a blue square\n[7s]")
    seen = drive(
        Path(__file__).with_name("report_page.mjs"),
        url=server.url, graph=graph, refused=refused, wrong=wrong, vue=vue, shots=shots,
    )  # fmt: skip
    assert seen["errors"] == [], seen
    # a panel where there is something to report, and nowhere else
    expected = {name: ["rivulet_report"] if name in PANELS else [] for name in seen["widgets"]}
    assert seen["widgets"] == expected and set(seen["after"]) == PANELS
    assert all(panel["hint"] and not panel["text"] for panel in seen["before"].values())
    for panels in (seen["before"], seen["after"], seen["reloaded"]):
        fits = {name: (panel["inside"], panel["cut"], panel["below"]) for name, panel in panels.items()}
        # no empty field below a report; where a text field shares the node it has the rest of the height
        assert all(inside and not cut and below < 40 for inside, cut, below in fits.values()), fits
    assert not any(panel["hint"] or panel["wrong"] for panel in seen["after"].values())
    assert seen["after"]["RivuletDoctor"]["width"] >= 600
    texts = {name: panel["text"] for name, panel in seen["after"].items()}
    assert {name: panel["text"] for name, panel in seen["reloaded"].items()} == texts
    assert "Wan 2.1" in texts["RivuletLoadModel"] and "held-out" in texts["RivuletCalibrate"]
    assert seen["said"] == "Copied" and seen["copied"].split() == texts["RivuletDoctor"].split()
    assert seen["selected"] and seen["selected"] == seen["selectedCopied"]
    assert seen["refused"]["RivuletPlan"]["wrong"]
    assert seen["refused"]["RivuletPlan"]["text"].startswith("Plan Stream: Does not fit")
    (told,) = seen["wrong"].values()
    (error,) = told["errors"]
    assert told["class_type"] == "RivuletPrompts" and error["extra_info"]["input_name"] == "text"
    lines = error["details"].removeprefix("text - ").splitlines()
    assert [line.partition(", '")[0] for line in lines] == ["Prompts, line 2", "Prompts, line 3"]

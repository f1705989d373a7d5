"""comfy-lint over what the page would queue of each template, against the /object_info kept here."""

import json

import pytest
from rivulet.tests.host.stored_schema import kept
from rivulet.tests.host.test_workflows import NAMES, api_form, on_disk


@pytest.fixture(scope="module")
def lint():
    pytest.importorskip("comfy_lint", reason="needs comfy-lint, which run.py test installs")
    from comfy_lint.linter import coerce_workflow, lint_workflow
    from comfy_lint.schema import normalize

    schema = normalize(kept())
    return lambda graph: [str(each.message) for each in lint_workflow(coerce_workflow(graph), schema)]


def graph_of(name):
    return json.loads(json.dumps(api_form(on_disk(name), kept())))


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_no_fault(lint, name):
    assert lint(graph_of(name)) == []


def test_faults_are_found(lint):
    graph = graph_of("01_infinite_video_no_download")
    number = next(key for key, node in graph.items() if node["class_type"] == "RivuletStream")
    graph[number]["inputs"] |= {"preset": "no such preset", "vae": ["1", 0], "colour": 3, "model": ["99", 0]}
    del graph[number]["inputs"]["width"]
    found = " ".join(lint(graph))
    for word in (
        "no such preset",
        "expects VAE",
        "unknown input 'colour'",
        "node '99'",
        "required input 'width'",
    ):
        assert word in found, found
    graph[number]["class_type"] = "RivuletStreem"
    assert "unknown node class_type 'RivuletStreem'" in " ".join(lint(graph))

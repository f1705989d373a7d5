"""Help pages, translations and schema speak of the same nodes and inputs, and the host serves them."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from rivulet.tests.host.workflows import WIDGETS

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
HAN = re.compile("[\u4e00-\u9fff]")
NODES = (
    *(
        "PocketModel",
        "LoadModel",
        "Memory",
        "Prompts",
        "StartFrom",
        "Resume",
        "Stream",
        "Plan",
        "LatentCache",
    ),
    *("Calibrate", "Doctor"),
)


@pytest.fixture(scope="module")
def schemas(comfyui):
    """Returns the schema of every node by its id."""
    from rivulet.nodes import RivuletExtension

    nodes = asyncio.run(RivuletExtension().get_node_list())
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


def texts(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def page(node, language):
    path = f"{node}.md" if language == "en" else f"{node}/{language}.md"
    return (ROOT / "web" / "docs" / path).read_text(encoding="utf-8")


def said(schema):
    """Returns what a translation of this node must hold."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {each.id: {"name": each.id, "tooltip": each.tooltip} for each in schema.inputs},
        "outputs": {
            str(slot): {"name": each.display_name, "tooltip": each.tooltip}
            for slot, each in enumerate(schema.outputs)
        },
    }


def leaves(value, path=()):
    """Yields (path, text) of everything in a nested dictionary."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def test_every_node_and_input_is_explained(schemas):
    assert set(schemas) == {f"Rivulet{name}" for name in NODES}
    without = [
        f"{node}: {path}" for node in schemas for path, text in leaves(said(schemas[node])) if not text
    ]
    assert without == []


def test_the_english_texts_are_the_schemas(schemas):
    assert texts("en") == {node: said(schema) for node, schema in schemas.items()}


def test_the_chinese_texts_cover_the_same(schemas):
    there, wanted = dict(leaves(texts("zh"))), dict(leaves(texts("en")))
    assert there.keys() == wanted.keys()
    same = {"vae", "cfg"}  # read alike everywhere
    assert [path for path, text in there.items() if not HAN.search(text) and text.lower() not in same] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NODES)
def test_a_help_page_names_each_input_and_output_and_no_other(schemas, name, language):
    schema, text = schemas[f"Rivulet{name}"], page(f"Rivulet{name}", language)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)
    wanted = [each.id for each in schema.inputs] + [each.display_name for each in schema.outputs]
    assert [row[0] for row in rows] == wanted
    told = texts(language)[f"Rivulet{name}"]
    parts = [*told["inputs"].values(), *told["outputs"].values()]
    assert [row[1] for row in rows] == [part["tooltip"] for part in parts]
    assert text.startswith(f"# {told['display_name']}\n")


def test_there_are_no_pages_of_other_nodes(schemas):
    pages = {path.relative_to(ROOT / "web" / "docs").as_posix() for path in (ROOT / "web").rglob("*.md")}
    assert pages == {f"{node}.md" for node in schemas} | {f"{node}/zh.md" for node in schemas}


def test_the_host_serves_pages_and_texts(server):
    for language in LANGUAGES:
        path = "RivuletStream.md" if language == "en" else f"RivuletStream/{language}.md"
        status, _, body = server.send(f"/extensions/rivulet/docs/{path}")
        assert status == 200 and body.decode() == page("RivuletStream", language)
        told = server.get("/i18n")[1][language]["nodeDefs"]
        assert told["RivuletStream"] == texts(language)["RivuletStream"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_category_has_a_capital_and_a_translation(schemas, server, language):
    wanted = {schema.category for schema in schemas.values()}
    told = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))
    assert wanted == {"Rivulet"} == set(told["nodeCategories"])
    assert bool(HAN.search(told["nodeCategories"]["Rivulet"])) == (language == "zh")
    assert server.get("/i18n")[1][language]["nodeCategories"] == told["nodeCategories"]


def test_rare_widgets_are_out_of_the_way(schemas):
    rare = {each.id for each in schemas["RivuletStream"].inputs if getattr(each, "advanced", None)}
    assert rare >= {
        "preset",
        "num_frame_per_block",
        "snapshot",
        "shrink_cache",
        "snapshot_seconds",
        "snapshot_gb",
        "stop_on_drift",
        "let_others_in",
        "part_hours",
        "part_gigabytes",
    }


# a saved workflow has its widgets' values in a row, without names: the seed's has what follows it beside it
SAVED = {
    "RivuletStream": (
        *("width", "height", "seconds", "fps", "seed", "preset", "num_frame_per_block", "cfg"),
        *("filename_prefix", "snapshot", "shrink_cache"),
    ),
    "RivuletResume": ("snapshot",),
    "RivuletStartFrom": ("fit", "mode", "strength", "context", "take"),
}


@pytest.mark.parametrize("node", SAVED)
def test_workflows_of_earlier_releases_keep_their_values(schemas, node):
    schema = schemas[node]
    ordered = sorted(schema.inputs, key=lambda each: each.optional)  # as the host tells the page
    widgets = [each.id for each in ordered if hasattr(each, "default") and each.io_type in WIDGETS]
    assert widgets[: len(SAVED[node])] == list(SAVED[node])
    later = [each for each in schema.inputs if each.id in widgets[len(SAVED[node]) :]]
    assert all(each.optional and each.default is not None for each in later)

"""Names of videos: patterns filled in as Save Image has them, and what no file can be called."""

from datetime import datetime
from types import SimpleNamespace

import pytest
from rivulet.tests.host.graphs import stream_graph

NOW = datetime(2026, 3, 7, 9, 5, 4)
SAMPLER = {"seed": 12, "cfg": 1.5, "model": ["1", 0]}
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": SAMPLER, "_meta": {"title": "My: sampler"}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"text": 'a/b:c"d'}, "_meta": {"title": "Words"}},
    "6": {"class_type": "KSampler", "inputs": {"seed": 13}, "_meta": {"title": "other"}},
    "7": {"class_type": "KSampler", "inputs": {"seed": 14}, "_meta": "a client's own"},
}
NODES = [{"id": 6, "properties": {"Node name for S&R": "Second"}}, {"id": 3, "properties": None}, 7]
WORKFLOW = {"workflow": {"nodes": NODES}}


@pytest.mark.parametrize(
    ("prefix", "filled"),
    [
        ("%date:yyyy-MM-dd%/v", "2026-03-07/v"),
        ("%date:yy_M_d hhmmss%", "26_3_7 090504"),
        ("%date:yyyy/MM/dd%/x", "2026/03/07/x"),
        ("%date:hh:mm%", "09_05"),
        ("%KSampler.seed%", "12"),
        ("%My: sampler.cfg%_%Words.text%", "1.5_a_b_c_d"),
        ("%Second.seed%", "13"),
        ("%width%x%height% 100%", "%width%x%height% 100%"),
        ("50% of a.b.c% d", "50% of a.b.c% d"),
    ],
)
def test_patterns_are_filled_in(comfyui, prefix, filled):
    from rivulet.nodes.run.naming import fill

    assert fill(prefix, GRAPH, WORKFLOW, NOW) == filled


@pytest.mark.parametrize("prefix", ["%KSampler.model%", "%KSampler.nothing%", "%Nobody.seed%"])
def test_what_names_nothing_is_refused(comfyui, prefix):
    from rivulet.nodes.run.naming import fill

    for extra in (WORKFLOW, None, {}, {"workflow": []}):
        with pytest.raises(ValueError, match="filename_prefix asks for"):
            fill(prefix, GRAPH, extra, NOW)


REFUSED = [
    ("", "has no name"),
    ("rivulet/", "has no name"),
    ("  ", "has no name"),
    ("/tmp/x", "leads out"),
    ("../x", "leads out"),
    ("a/../../x", "leads out"),
    ("a\\..\\x", "leads out"),
    ("C:/x", "leads out"),
    ("\\\\server\\x", "leads out"),
    ("x" * 260, "bytes too long for the disk"),
    ("\u72d7" * 90, "bytes too long for the disk"),
    ("a\0b", "cannot be a name: it has a NUL"),
    ("a\ud800", "no letter of any script"),
    ("a\nb", "it has a line break"),
]
ON_WINDOWS = [
    ("a:b", "Windows does not allow in names"),
    ("a?", "Windows does not allow in names"),
    ("con/x", "choose another"),
    ("nul.txt", "choose another"),
    ("a./x", "choose another"),
    ("/".join(["x" * 40] * 6), "Windows allows 259"),
]


@pytest.mark.parametrize(("prefix", "words"), REFUSED)
def test_what_no_file_can_be_called_is_refused_everywhere(comfyui, prefix, words):
    from rivulet.nodes.run.naming import target, why_not

    for system in ("posix", "nt"):
        assert words in why_not(prefix, system), system
    with pytest.raises(ValueError, match=r"filename_prefix"):
        target(prefix, SimpleNamespace(prompt=None, extra_pnginfo=None), 64, 64)


@pytest.mark.parametrize(("prefix", "words"), ON_WINDOWS)
def test_windows_has_rules_of_its_own(comfyui, prefix, words):
    from rivulet.nodes.run.naming import why_not

    assert words in why_not(prefix, "nt") and why_not(prefix, "posix") == ""


def test_names_that_are_refused_are_refused_before_the_run_and_patterns_make_folders(server):
    for prefix in ("", "x" * 260, "../out", "/tmp/out"):
        status, told = server.post("/prompt", {"prompt": stream_graph(prefix)})
        assert status == 400 and "filename_prefix" in str(told["node_errors"]["4"]["errors"]), told
    graph = stream_graph("%date:yyyy-MM%/named %RivuletStream.seed%", seconds=0.5)
    del graph["5"]
    entry = server.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1][1]["exception_message"]
    found = f"{datetime.now():%Y-%m}/named 3_00001_.mp4"
    assert (server.base / "output" / found).is_file()
    graph["4"]["inputs"]["filename_prefix"] = "%Nobody.seed%"
    entry = server.run(graph)
    assert "asks for '%Nobody.seed%'" in str(entry["status"]["messages"])

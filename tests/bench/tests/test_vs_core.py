"""`bench vs-core` without a ComfyUI: turns, ratios, processes, and what it refuses."""

import argparse
import io
import json
import sys
from dataclasses import replace

import pytest
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.tests.bench import vs_core
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.vs_core import CORE, OURS, Contender
from safetensors import safe_open

SIZE = replace(vs_core.SIZES["tiny"], config=WanConfig(128, 128, 1, text_dim=8))
ANSWER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"latents": int(line)}), flush=True)
"""


def figures(seconds, **more):
    given = {"made_frames": 9, "decoded_seconds": seconds, "seconds": seconds, "first_seconds": seconds}
    given |= {"processor_seconds": seconds, "sampling_seconds": seconds, "peak_bytes": 100}
    return given | {"sampling_processor_seconds": seconds, "before_bytes": 10} | more


def options(**changed):
    given = {"comfyui": None, "python": None, "size": None, "latents": None, "rounds": None, "threads": None}
    return argparse.Namespace(quick=True, **(given | changed))


def test_contenders_take_turns_and_the_ratio_is_of_pairs():
    asked, out = [], io.StringIO()

    def maker(who, times):
        def make(latents):
            asked.append((who, latents))
            return figures(1.0 if latents == vs_core.WARM_LATENTS else times.pop(0))

        return make

    # a machine that slows down to a third meets both: pair by pair the ratio is 2
    makers = {CORE: maker(CORE, [2.0, 6.0, 6.0]), OURS: maker(OURS, [1.0, 3.0, 3.0])}
    vs_core.compare(Rows("vs-core", True, out), "tiny", SIZE, makers, [81, 21], 1)
    assert [latents for _, latents in asked] == [6, 6, 21, 21, 81, 81]
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row.get("case") for row in rows] == [CORE, OURS, None] * 2
    assert [row["speed_ratio"] for row in rows if row["row"] == "ratio"] == [2.0, 2.0]
    asked.clear()
    makers = {CORE: maker(CORE, [2.0, 6.0]), OURS: maker(OURS, [1.0, 3.0])}
    vs_core.compare(Rows("vs-core", True, out), "tiny", SIZE, makers, [21], 2)
    assert [who for who, latents in asked if latents == 21] == [CORE, OURS, OURS, CORE]


def test_each_ratio_is_cores_over_ours():
    core = figures(8.0, decoded_seconds=6.0, first_seconds=5.0, peak_bytes=300, sampling_seconds=4.0)
    found = vs_core.ratios([(core, figures(2.0))])
    assert found == {
        "speed_ratio": 3.0,
        "to_file_ratio": 4.0,
        "sampling_ratio": 2.0,
        "sampling_processor_ratio": 4.0,
        "processor_ratio": 4.0,
        "first_picture_ratio": 2.5,
        "peak_ratio": 3.0,
    }


def test_a_contender_answers_from_its_own_process():
    with Contender("ours", [sys.executable, "-c", ANSWER]) as contender:
        assert contender.make(21) == {"latents": 21} and contender.make(81) == {"latents": 81}
    assert contender.process.returncode == 0


def test_a_contender_that_dies_says_why():
    dead = [sys.executable, "-c", "import sys; sys.exit('no such sampler')"]
    with (
        pytest.raises(RuntimeError, match=r"(?s)core made no video of 21 latents.*no such sampler"),
        Contender("core", dead) as contender,
    ):
        contender.make(21)
    assert contender.process.returncode is not None


def test_both_are_given_the_same_files(tmp_path):
    vs_core.write(tmp_path, SIZE)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])["transformer"]
        assert config == {"causal_ar": True, "text_dim": 8, "num_heads": SIZE.config.num_heads}
        assert "blocks.0.self_attn.q.weight" in file.keys()  # noqa: SIM118 - no dict
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["width"], settings["block_frames"], settings["text_dim"]) == (64, 3, 8)
    assert (tmp_path / "vae.safetensors").is_file()


def test_without_a_comfyui_it_says_what_it_needs(tmp_path, capsys):
    rows = Rows("vs-core", True, io.StringIO())
    assert vs_core.run(options(), rows) == 2
    assert "give --comfyui, the folder of a ComfyUI" in capsys.readouterr().err
    assert vs_core.run(options(comfyui=tmp_path), rows) == 2
    assert "is not ComfyUI: it has no main.py" in capsys.readouterr().err

"""`bench memory`: its arithmetic, its rows on a model small enough for a test, and what it refuses."""

import argparse
import io
import json
import subprocess
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.bench import memory_cost
from rivulet.tests.bench.memory_bytes import state_bytes
from rivulet.tests.bench.memory_cost import Making, Sample, figures, in_turns, verdict
from rivulet.tests.bench.memory_subjects import TINY, random_subject, tiny
from rivulet.tests.bench.memory_work import SIZES, added_shares, encoder_flops
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.remembering import MEMORIES

# 3 frames of 4 tokens of 64 channels in float32
TOKENS_BYTES = 3 * 4 * 64 * 4
# a key and a value of 64 channels in each of two layers, twice, in float32
AVERAGES_BYTES = 2 * 2 * 2 * 64 * 4


def chosen(**options):
    usual = {"size": "tiny", "rounds": None, "blocks": None, "memory": "learned", "memory_file": None}
    return argparse.Namespace(quick=True, **(usual | {"case": None} | options))


def rows_of(**options):
    out = io.StringIO()
    status = memory_cost.run(chosen(**options), Rows("memory", True, out))
    return status, [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_memory_is_timed_beside_none_in_both_formats():
    status, rows = rows_of(case="time", rounds=2)
    assert status == 0
    assert [(row["format"], row["memory"]) for row in rows] == [
        (name, memory) for name in ("dense", "latent") for memory in MEMORIES
    ]
    for row in rows:
        assert row["block_ms"] > 0 and row["rounds_samples"] == 2 and row["weights"] == "random"
        assert row["lower_quartile_to_off_ratio"] <= row["upper_quartile_to_off_ratio"]
        # between blocks there are two: the next block's first call sees the older
        assert row["memory_bytes"] == {"learned": 2 * TOKENS_BYTES, "memrope": AVERAGES_BYTES}.get(
            row["memory"], 0
        )
    assert {row["to_off_ratio"] for row in rows if row["memory"] == "off"} == {1.0}
    # 12 frames of 4 tokens, keys and values in two layers
    assert {row["cache_bytes"] for row in rows if row["format"] == "dense"} == {12 * 4 * 64 * 2 * 4 * 2}


def test_streams_take_turns_and_another_one_goes_first_each_round():
    order = []

    def step(name, seconds):
        return lambda: order.append(name) or (seconds, 1.0)

    taken = in_turns({"off": step("off", 2.0), "ema": step("ema", 3.0), "learned": step("learned", 5.0)}, 3)
    assert taken == {"off": [(2.0, 1.0)] * 3, "ema": [(3.0, 1.0)] * 3, "learned": [(5.0, 1.0)] * 3}
    assert order == ["off", "ema", "learned", "ema", "learned", "off", "learned", "off", "ema"]


def test_ratios_are_of_pairs_on_the_clock_and_in_the_processors_time():
    taken, off = [(2.0, 1.5), (8.0, 3.0), (6.0, 4.5)], [(1.0, 1.0), (2.0, 2.0), (2.0, 3.0)]
    got = figures(taken, off, on_gpu=False)
    assert (got["block_ms"], got["to_off_ratio"]) == (6000, 3)
    assert (got["block_cpu_ms"], got["cpu_to_off_ratio"]) == (3000, 1.5)
    assert "block_cpu_ms" not in figures(taken, off, on_gpu=True)


def test_a_long_stream_tells_what_it_kept_and_its_highest_id(monkeypatch):
    monkeypatch.setattr(memory_cost, "FIRST_BLOCK", 16)  # by then it keeps all the latents that it will
    status, (first, result) = rows_of(case="flat", blocks=38)
    assert status == 0 and first["at_blocks"] == 17 and first["memory_bytes"] == 2 * TOKENS_BYTES
    assert (result["from_blocks"], result["blocks"], result["highest_id"]) == (16, 38, 20)
    assert result["is_flat"] and result["is_state_constant"] and result["is_bounded"] and result["ok"]
    assert result["state_growth_bytes_per_1000_blocks"] == 0
    assert result["state_bytes"] == sum(first[name] for name in ("cache_bytes", "memory_bytes", "tail_bytes"))
    assert "slope_ms_per_1000_blocks" in result and result["late_to_young_ratio"] > 0


def test_ctrl_c_ends_a_long_stream_with_what_there_is(monkeypatch):
    monkeypatch.setattr(memory_cost, "FIRST_BLOCK", 16)
    made, step = [], Making.step

    def interrupted(self):
        made.append(1)
        if len(made) == 28:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Making, "step", interrupted)
    status, rows = rows_of(case="flat", blocks=1000)
    # 16 blocks before, 11 samples of every second block: 18 to 26
    assert status == 0 and rows[-2]["row"] == "interrupted" and rows[-2]["at_blocks"] == 27
    assert rows[-1]["blocks"] == 26


@pytest.mark.parametrize(
    ("resident", "kept", "check"),
    [(0, 0, None), (16 << 20, 0, "is_flat"), (0, 1, "is_state_constant")],
    ids=["level", "resident", "state"],
)
def test_what_grows_is_found(resident, kept, check):
    """Growth of this much over the run."""
    out, blocks = io.StringIO(), range(50, 1051, 100)
    samples = [Sample(b, (b - 50) * 2 * resident // 1000, 0.25, (b - 50) * kept) for b in blocks]
    ok = verdict(Rows("memory", True, out), Making(tiny(), "learned"), samples, [1.0, 2.0, 3.0])
    row = json.loads(out.getvalue())
    assert ok == row["ok"] == (check is None)
    assert {name for name, fine in row.items() if fine is False and name.startswith("is_")} == {check} - {
        None
    }
    assert (row["late_to_young_ratio"], row["block_ms"], row["slope_ms_per_1000_blocks"]) == (2, 250, 0)


def test_ids_that_grow_are_found():
    growing = replace(tiny(), config=replace(tiny().config, preset="echo_std", sigmas=(1.0,)))
    making = Making(growing, "learned").to(8)
    assert making.highest_id == 3 * 8 - 1
    samples = [Sample(block, 0, 1.0, 0) for block in (1, 2)]
    assert not verdict(Rows("memory", True, io.StringIO()), making, samples, [1.0, 1.0])


def test_bytes_at_true_sizes_are_the_published_ones():
    status, rows = rows_of(case="bytes")
    assert status == 0 and len(rows) == 6 and all(row["ok"] and row["model"] == "1.3B" for row in rows)
    found = {row["case"]: row["allocated_bytes"] for row in rows}
    # Echo-Infinity's released code: 14.4 MB, 28.8 MB, 68.57 million parameters, 3.45 GB
    assert round(found["memory_tokens"] / 1e6, 1) == 14.4
    assert round(found["keys_and_values_of_a_read"] / 1e6, 1) == 28.8
    assert round(found["encoder_weights"] / 2 / 1e6, 2) == 68.57
    assert round(found["window_dense"] / 1e9, 2) == 3.45


def test_products_that_a_memory_adds_are_those_of_its_layers():
    """By hand: 26 square matrices of the model's width and two attentions, over the memory's tokens."""
    for sizes, tokens in zip(SIZES, (3 * 4 * 4, 3 * 30 * 52), strict=True):
        dim = sizes.model.dim
        assert encoder_flops(sizes) == 2 * tokens * 26 * dim**2 + 2 * 4 * tokens**2 * dim
        shares = added_shares(sizes)
        assert shares["added_share"] == shares["encoder_share"] + shares["attention_share"] > 0


def test_the_large_model_runs_as_the_tiny_one_in_bfloat16():
    """Its code at another width; its own sizes need a GPU."""
    config = StreamConfig(
        Geometry(64, 32, latent_channels=4), "echo", sigmas=(1.0, 0.7), dtype=torch.bfloat16
    )
    given = random_subject("1.3B", replace(TINY, num_layers=1), config, 3, torch.device("cpu"))
    # three frames of 8 tokens, keys and values, in bfloat16; two averages of a token of each, in float32
    kept = {"learned": 2 * 3 * 8 * 64 * 2, "memrope": 2 * 2 * 1 * 64 * 4}
    for memory in MEMORIES:
        making = Making(given, memory, given.formats()["latent"]).to(6)
        assert state_bytes(making.state)["memory_bytes"] == kept.get(memory, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_large_model_is_refused(capsys):
    assert rows_of(size="1.3B") == (2, [])
    assert "--size 1.3B needs a CUDA GPU; take pocket or tiny here" in capsys.readouterr().err


def test_a_stream_too_short_to_grow_is_refused():
    with pytest.raises(SystemExit, match="--blocks must be over 50, got 50"):
        rows_of(blocks=50)


def test_each_case_has_a_process_of_its_own_and_all_options(monkeypatch):
    commands = []

    def record(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1 if "--case=flat" in command else 0)

    monkeypatch.setattr(memory_cost.subprocess, "run", record)
    assert rows_of(blocks=60, rounds=5, memory_file="x.pt") == (1, [])
    asked = ["bench", "memory", "--quick", "--size=tiny", "--rounds=5", "--blocks=60"]
    asked += ["--memory=learned", "--memory-file=x.pt"]
    assert [command[2:] for command in commands] == [
        [*asked, f"--case={case}"] for case in ("time", "flat", "bytes", "work")
    ]


def test_the_large_model_is_done_in_minutes_on_a_card():
    """Blocks of a whole run, at a second each, which a card of 24 GB takes for one with memory (computed)."""
    name, formats = "1.3B", 2
    timed = formats * len(MEMORIES) * (memory_cost.STEADY_BLOCKS + memory_cost.ROUNDS[name])
    flat = memory_cost.LENGTHS[name][0] + memory_cost.FIRST_BLOCK + 2 * memory_cost.PAIRS[name]
    assert timed + flat < 400

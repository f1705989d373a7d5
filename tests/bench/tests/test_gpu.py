"""`bench gpu`: what it does without a GPU, its order, its budget, and its rows on a model small enough."""

import argparse
import io
import json
from dataclasses import replace

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.bench import gpu, gpu_cases, kernels, vs_core
from rivulet.tests.bench.gpu_cases import CASES, MORE, Bench, Case, measure
from rivulet.tests.bench.records import Rows

TINY = replace(
    gpu_cases.SMALL,
    config=WanConfig(dim=128, ffn_dim=128, num_layers=1, text_dim=8),
    vae_dim=4,
    text_tokens=4,
)
RATES = Device("assumed", matmul_flops=1e9, bytes_per_second=1e9)


def rows_of(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def options(**changed) -> argparse.Namespace:
    given = {"quick": True, "no_tests": True, "seconds": 480.0, "comfyui": None, "python": None}
    return argparse.Namespace(**(given | changed))


@pytest.fixture
def parts(monkeypatch):
    """Returns a function that runs the bench with nothing measured: its rows."""
    monkeypatch.setattr(gpu, "probe", lambda *_: RATES)
    monkeypatch.setattr(gpu, "measure", lambda bench, case: {"pictures_fps": 1.0})
    for name in ("decoders", "timed_kernels", "beside_core", "tested"):

        def told(*given, name=name):
            next(each for each in given if isinstance(each, Rows))("part", case=name)
            return True

        monkeypatch.setattr(gpu, name, told)

    def run(**changed):
        out = io.StringIO()
        assert gpu.run(options(**changed), Rows("gpu", True, out)) == 0
        return rows_of(out)

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.run(options(quick=False), Rows("gpu", False, io.StringIO())) == 2
    assert "needs a CUDA GPU; with --quick it runs a small model" in capsys.readouterr().err


def test_what_matters_comes_first_and_the_tests_last(parts, tmp_path):
    told = [
        row["case"] for row in parts(no_tests=False, comfyui=tmp_path) if row["row"] in ("stream", "part")
    ]
    first, more = [case.name for case in CASES], [case.name for case in MORE]
    assert told == [*first, "decoders", "beside_core", "timed_kernels", *more, "tested"]
    assert told[0] == "dense, W9" and len(set(told)) == len(told)


def test_what_time_does_not_allow_is_left_out_by_name(parts, monkeypatch):
    monkeypatch.setattr(gpu, "QUICK_SCALE", 1.0)
    rows = parts(no_tests=False, seconds=25.0)
    assert not [row for row in rows if row["row"] == "stream"]
    left = {row["case"]: row["expected_seconds"] for row in rows if row["row"] == "left_out"}
    # 20 s for the decoders fit, 30 s for the tests do not
    assert set(left) == {case.name for case in (*CASES, *MORE)} | {"kernels", "tests"}
    assert left["tests"] == gpu.TEST_SECONDS and rows[-1]["row"] == "result"


def test_a_case_is_expected_to_take_as_long_as_the_longest_before_it():
    budget = gpu.Budget(100.0, longest=7.0)
    cases = list(gpu.streams(Rows("gpu", True, io.StringIO()), None, CASES, budget, 1.0))
    assert {expected for _, expected, _ in cases} == {7.0}
    assert budget.allows(99.0) and not budget.allows(101.0)


@pytest.mark.parametrize(
    "case",
    [Case("dense"), Case(gpu_cases.EIGHTH, 12, learned=True, tiny=True), Case("mla", mla=True)],
    ids=lambda case: case.name,
)
def test_a_case_is_a_video_and_stands_beside_its_plan(case):
    bench = Bench(torch.device("cpu"), TINY, RATES)
    found = measure(bench, case)
    assert found["pictures_fps"] > 0 and found["block_ms"] > 0 and found["first_picture_seconds"] > 0
    # 16 tokens a frame, keys and values of 128 channels in float32; 192 + 32 numbers for VideoMLA
    per_frame = {"dense": 16 * 2 * 128 * 4, "mla": 16 * 224 * 4}
    if case.format in per_frame:
        assert found["cache_bytes"] == case.window * per_frame[case.format]
    else:
        assert found["cache_bytes"] < case.window * per_frame["dense"] / 3
    assert found["floor_ms"] < found["predicted_chunk_ms"] and found["predicted_block_ms"] > 0
    assert found["of_floor_share"] == pytest.approx(found["floor_ms"] / found["chunk_ms"])


def test_a_decoder_that_draws_twice_the_size_is_a_video_too(monkeypatch):
    monkeypatch.setattr(Bench, "_decoder", lambda bench, case: WanVAE(bench.sizes.vae_dim, upscale=2))
    assert measure(Bench(torch.device("cpu"), TINY, RATES), Case("dense"))["pictures_fps"] > 0


def test_formats_do_not_lie_on_the_card_together():
    bench = Bench(torch.device("cpu"), TINY, RATES)
    dit, vae = bench.hold(Case("dense"))
    assert bench.hold(Case("int8")) == (dit, vae)
    assert bench.hold(Case("dense", tiny=True))[0] is dit
    assert bench.hold(Case("mla", mla=True))[0] is not dit
    bench.drop()
    assert bench.dit is None and bench.vae is None


def test_the_float64_chain_turns_keys_as_the_kernel_does(monkeypatch):
    store = object.__new__(gpu_cases.Float64Store)
    keys, table = torch.randn(1, 5, 2, 8), torch.randn(5, 4, 2)
    monkeypatch.setattr(gpu_cases.Float64Store, "view_keys_values", lambda *_: (keys, keys))
    turned, values = store.read(0, slice(None), None, table, None)
    assert values is keys and turned.dtype == keys.dtype
    torch.testing.assert_close(turned, rotate(keys, table))


def test_a_stream_runs_with_the_float64_chain_and_differs_by_rounding():
    latents, (dit, _) = [], Bench(torch.device("cpu"), TINY, RATES).hold(Case("dense"))
    config = StreamConfig(TINY.geometry, Case("dense").positions, dtype=torch.float32)
    for cache in (DENSE, gpu_cases.Float64Rope()):
        text = torch.ones(1, TINY.text_tokens, TINY.config.text_dim)
        caller = ModelCaller(dit, "cpu")
        state = init(caller, (text,), config, cache=cache)
        for _ in range(5):  # frames have left the window
            made, state = step(caller, state)
        latents.append(made)
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)


def test_other_benches_get_options_that_they_know(monkeypatch):
    asked = {}
    for name, bench in (("decode", gpu.decode), ("core", vs_core), ("kernels", kernels)):
        monkeypatch.setattr(bench, "run", lambda given, rows, name=name: asked.update({name: given}) or 0)
    rows, chosen = Rows("gpu", True, io.StringIO()), options()
    assert gpu.decoders(chosen, rows, torch.device("cpu"))
    assert gpu.beside_core(chosen, rows) and gpu.timed_kernels(chosen, rows)
    for name, bench in (("decode", gpu.decode), ("core", vs_core), ("kernels", kernels)):
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        assert set(vars(parser.parse_args([]))) | {"quick"} == set(vars(asked[name])), name


@pytest.mark.parametrize(("text", "ok"), [("assert True", True), ("assert False", False)])
def test_what_the_tests_said_is_a_row(tmp_path, monkeypatch, text, ok):
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(f"def test_it():\n    {text}\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    out = io.StringIO()
    assert gpu.tested(Rows("gpu", False, out), torch.device("cpu"), 300.0) is ok
    (row,) = rows_of(out)
    assert row["ok"] is ok and ("1 passed" if ok else "1 failed") in row["why"]

"""`bench gpu`: what it does without a GPU, and its rows on a model small enough for a test."""

import argparse
import io
import json

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.tests.bench import gpu, kernels
from rivulet.tests.bench.records import Rows

TINY = WanConfig(dim=128, ffn_dim=128, num_layers=1, text_dim=8)


def rows_of(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    chosen = argparse.Namespace(quick=False, no_tests=True, rounds=1)
    assert gpu.run(chosen, Rows("gpu", False, io.StringIO())) == 2
    assert "needs a CUDA GPU; with --quick it runs a small model" in capsys.readouterr().err


def test_every_format_is_timed_over_a_full_window(monkeypatch):
    monkeypatch.setattr(gpu, "SMALL", TINY)
    monkeypatch.setattr(gpu, "WINDOWS", (6,))
    monkeypatch.setattr(kernels, "run", lambda chosen, rows: 0)
    out = io.StringIO()
    assert gpu.run(argparse.Namespace(quick=True, no_tests=True, rounds=2), Rows("gpu", True, out)) == 0
    found = {row["case"]: row for row in rows_of(out)}
    assert list(found) == [
        *("dense", "int8", "mla", "mla-int8", "dense, float64 RoPE", "mla, dense window"),
        *gpu.PLANS,
    ]
    assert all(row["block_ms"] > 0 and row["window_frames"] == 6 for row in found.values())
    assert found["dense"]["to_dense_ratio"] == 1
    # 6 frames of 16 tokens, keys and values of 128 channels in float32; 192 + 32 numbers for VideoMLA
    assert found["dense"]["cache_bytes"] == 6 * 16 * 2 * 128 * 4
    assert found["mla"]["cache_bytes"] == 6 * 16 * 224 * 4
    assert found["int8"]["cache_bytes"] < found["dense"]["cache_bytes"] / 3


def test_the_float64_chain_turns_keys_as_the_kernel_does(monkeypatch):
    store = object.__new__(gpu.Float64Store)
    keys, table = torch.randn(1, 5, 2, 8), torch.randn(5, 4, 2)
    monkeypatch.setattr(gpu.Float64Store, "view_keys_values", lambda *_: (keys, keys))
    turned, values = store.read(0, slice(None), None, table, None)
    assert values is keys and turned.dtype == keys.dtype
    torch.testing.assert_close(turned, rotate(keys, table))


@pytest.mark.parametrize(("text", "ok"), [("assert True", True), ("assert False", False)])
def test_what_the_tests_said_is_a_row(tmp_path, monkeypatch, text, ok):
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(f"def test_it():\n    {text}\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    out = io.StringIO()
    assert gpu.tested(Rows("gpu", False, out), torch.device("cpu")) is ok
    (row,) = rows_of(out)
    assert row["ok"] is ok and ("1 passed" if ok else "1 failed") in row["why"]

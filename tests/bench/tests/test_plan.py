"""`bench plan`: its rows, on formulas and on a model small enough for a test."""

import argparse
import io
import json

import pytest
from rivulet.tests.bench import plan
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.subject import random_subject


def rows_of(**options):
    out = io.StringIO()
    given = {"quick": True, "blocks": 2, "weights": None, "computed_only": False, "table": False} | options
    chosen = argparse.Namespace(**given)
    assert plan.run(chosen, Rows("plan", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_wan_is_computed_at_both_sizes_for_every_preset_and_each_row_says_so():
    found = [row for row in rows_of(computed_only=True) if row["row"] == "computed"]
    assert [(row["width_pixels"], row["preset"]) for row in found] == [
        (width, preset) for width in (832, 1280) for preset in plan.PRESETS
    ]
    assert all(row["is_computed"] for row in found)
    nine = found[1]
    assert nine["capacity_frames"] == 9 and nine["cache_token_bytes"] == 6144
    # 9 frames of 1560 tokens in 30 layers
    assert nine["cache_bytes"] == 9 * 1560 * 30 * 6144
    # 4 x 24.3 TFLOP and a fifth call without its last layer, as counted by hand
    assert nine["block_tflop"] == pytest.approx(5 * 24.3, rel=0.01)


def test_the_pocket_is_predicted_and_measured(monkeypatch):
    monkeypatch.setattr(plan, "PICTURES", ())
    monkeypatch.setattr(plan, "cards", lambda rows: None)
    monkeypatch.setattr(plan, "subject", lambda folder: random_subject(dim=128, layers=1, size=16, vae_dim=4))
    probed, block, decode, cache = rows_of()
    assert probed["matmul_gflop_per_seconds"] > 0
    for row in (block, decode):
        assert row["predicted_to_best_ratio"] == row["predicted_seconds"] / row["best_seconds"] > 0
        assert row["median_seconds"] >= row["best_seconds"]
    assert cache["planned_bytes"] == cache["cache_bytes"] > 0


def test_the_table_of_the_docs_is_what_the_command_prints(root):
    out = io.StringIO()
    plan.run(argparse.Namespace(table=True), Rows("plan", False, out))
    assert out.getvalue() in (root / "docs" / "plan.md").read_text(encoding="utf-8")


def test_every_way_to_run_wan_has_its_row():
    found = [row for row in rows_of(computed_only=True) if row["row"] == "card"]
    # 3 formats for 14B and 5 for 1.3B, 6 ways to keep weights, 2 pictures, 2 decoders
    assert len(found) == (3 + 5) * 6 * 2 * 2
    assert all(row["is_computed"] and row["is_for_a_card"] == ("card_bytes" in row) for row in found)

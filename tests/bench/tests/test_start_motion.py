"""Equal means of noise, the same levels dealt out anew, and clips whose pace changes by the block."""

import io
import json

import pytest
import torch
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket
from rivulet.tests.bench.start_motion import STEADY, STOP_AND_GO, motion_rows, rendered, shuffled, spend

EPS = torch.finfo(torch.float32).eps


def test_a_mean_is_spent_over_all_blocks_and_shuffled_as_it_is():
    levels = spend(0.8, [[0.0, 0.1], [0.02, 0.04]])
    assert levels == [pytest.approx([0.84, 0.74]), pytest.approx([0.82, 0.8])]
    dealt = shuffled(levels, 3)
    flat = [sorted(level for stream in each for level in stream) for each in (levels, dealt)]
    assert flat[0] == pytest.approx(flat[1], abs=EPS) and dealt != levels


def test_a_clip_stops_and_goes_by_the_block():
    pocket = small_pocket()
    steady = rendered(pocket, 8, 3, 0, STEADY)
    places = rendered(pocket, 8, 3, 0, STOP_AND_GO).places_BFN2
    steps_BF = (places[:, 1:] - places[:, :-1]).abs().amax((2, 3))
    blocks = (steps_BF[:, :8], steps_BF[:, 9:20], steps_BF[:, 21:])
    stands = torch.stack([(block == 0).all(1) for block in blocks])
    goes = torch.stack([(block > 0).all(1) for block in blocks])
    assert (stands | goes).all() and stands.any() and goes.any()
    assert ((steady.places_BFN2[:, 1:] - steady.places_BFN2[:, :-1]).abs().amax((2, 3)) > 0).all()


def test_every_row_has_the_mean_it_was_asked_for():
    out = io.StringIO()
    with torch.inference_mode():
        for figures in motion_rows(small_pocket(), 2, 2, (0.9,), 0.05, 0):
            Rows("start", quick=True, out=out)("motion", **figures)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["case"], row["mode"]) for row in rows] == [
        (case, mode) for case in (STOP_AND_GO, STEADY) for mode in ("fixed", "moving", "shuffled")
    ]
    assert all(row["noise_share"] == pytest.approx(0.9, abs=4 * EPS) for row in rows)
    assert [row["noise_spread_share"] > 0 for row in rows] == [row["mode"] != "fixed" for row in rows]
    assert all(row["both_gain_share"] == 0 for row in rows if row["mode"] == "fixed")

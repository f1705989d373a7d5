"""Rows are JSON a machine can read and names a person can: no number without its unit."""

import io
import json

import pytest
from rivulet.tests.bench.records import Rows, cpu_name, machine, why_not


def test_a_row_is_one_line_of_json_with_its_bench_and_its_quick_mark():
    out = io.StringIO()
    rows = Rows("stream", quick=True, out=out)
    rows("block", block_seconds=0.25, peak_bytes=1 << 30, preset="pocket", is_flat=True)
    rows("end", stop="time")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first == {
        "bench": "stream", "row": "block", "quick": True,
        "block_seconds": 0.25, "peak_bytes": 1 << 30, "preset": "pocket", "is_flat": True,
    }  # fmt: skip
    assert second["row"] == "end"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("time", 0.25, "time has no unit"),
        ("seconds_of_block", 0.25, "has no unit"),
        ("block_seconds", float("nan"), "block_seconds is nan"),
        ("block_seconds", float("inf"), "block_seconds is inf"),
        ("peak_bytes", None, "NoneType; give a number"),
        ("ratio", "1.0", "ratio is text"),
        ("flat", True, "call it is_..."),
    ],
)
def test_a_field_that_would_mislead_is_refused(name, value, words):
    out = io.StringIO()
    with pytest.raises(ValueError, match=f"Bench stream, row block: .*{words}"):
        Rows("stream", quick=False, out=out)("block", **{name: value})
    assert out.getvalue() == ""


@pytest.mark.parametrize("name", ["seconds", "block_seconds", "growth_bytes_per_1000_blocks", "time_ratio"])
def test_a_unit_at_the_end_of_a_name_is_enough(name):
    assert why_not(name, 1) is None


def test_the_machines_own_row_can_be_printed():
    out = io.StringIO()
    Rows("stream", quick=False, out=out)("machine", **machine())
    row = json.loads(out.getvalue())
    assert row["cpu"] == cpu_name() != "" and row["cores"] >= 1 and row["torch"]

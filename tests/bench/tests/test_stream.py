"""`bench stream`: its arithmetic, and its rows on a model small enough for a test."""

import argparse
import io
import json
import subprocess
from itertools import islice

import pytest
from rivulet.tests.bench import stream
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.subject import random_subject

LATE_BYTES = 1 << 20  # a system that counts pages per core may tell a peak that is this much too small


def rows_of(case, **options):
    out = io.StringIO()
    chosen = argparse.Namespace(
        quick=True, case=case, **{"blocks": 22, "seconds": None, "weights": None} | options
    )
    assert stream.run(chosen, Rows("stream", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(
        stream, "subject", lambda folder: random_subject(dim=128, layers=1, size=16, vae_dim=4)
    )


def test_the_window_case_has_an_early_a_late_and_a_ratio_row(tiny):
    early, late, ratio = rows_of("window")
    assert (early["at_blocks"], late["at_blocks"], ratio["late_blocks"]) == (20, 22, 22)
    assert early["peak_bytes"] >= early["resident_bytes"] > 0
    assert late["peak_bytes"] + LATE_BYTES >= early["peak_bytes"]
    assert ratio["peak_growth_bytes"] == late["peak_bytes"] - early["peak_bytes"]
    assert 0 < ratio["lower_quartile_time_ratio"] <= ratio["time_ratio"] <= ratio["upper_quartile_time_ratio"]
    assert {row["weights"] for row in (early, late)} == {"random"}


def test_each_case_has_a_process_of_its_own_and_all_options(monkeypatch):
    commands = []

    def record(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, -9 if "--case=window" in command else 0)

    monkeypatch.setattr(stream.subprocess, "run", record)
    chosen = argparse.Namespace(quick=True, case=None, blocks=30, seconds=2.5, weights=None)
    assert stream.run(chosen, Rows("stream", True)) == 1
    asked = ["bench", "stream", "--quick", "--blocks=30", "--seconds=2.5"]
    assert [command[2:] for command in commands] == [[*asked, f"--case={case}"] for case in stream.CASES]


def test_the_whole_clip_keeps_every_frame_until_the_length_is_reached(tiny, monkeypatch):
    kept, place = [], stream.place

    def watched(rows, case, running):
        kept.append(len(running.state.cache.frames))
        return place(rows, case, running)

    monkeypatch.setattr(stream, "place", watched)
    *places, ratio = rows_of("whole_clip")
    assert kept == [60, 66]
    assert [row["at_blocks"] for row in places] == [20, 22] and ratio["stop"] == "length"


def test_the_whole_clip_stops_when_its_time_is_over(tiny):
    *places, ratio = rows_of("whole_clip", blocks=1000, seconds=1e-9)
    assert ratio["stop"] == "time" and ratio["late_blocks"] == 20 and len(places) == 1


def test_a_late_block_before_the_early_one_is_refused(tiny):
    with pytest.raises(SystemExit, match="--blocks must be over 20, got 20"):
        rows_of("window", blocks=20)


def test_milestones_rise_by_two_five_ten():
    assert list(islice(stream.milestones(20), 7)) == [20, 50, 100, 200, 500, 1000, 2000]


def test_ratios_pair_each_late_step_with_an_early_one_and_change_turns():
    order = []

    def timed(name, seconds):
        return lambda: order.append(name) or seconds

    assert stream.ratios(timed("late", 3.0), timed("early", 2.0), 4) == [1.5] * 4
    assert order == ["early", "late", "late", "early", "early", "late", "late", "early"]

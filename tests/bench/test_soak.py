"""The soak: a short healthy stream passes, and each way of going wrong is seen."""

import io
import json

import pytest
import torch
from rivulet.tests.bench import soak
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.subject import random_subject


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """A process of some blocks has not found its size yet: growth is given, not measured, in these tests."""
    monkeypatch.setattr(soak, "resident_bytes", lambda: 300 << 20)


@pytest.fixture
def given():
    return random_subject(dim=128, layers=1, size=32, vae_dim=4)


def made(given, path, blocks=4):
    """Returns what one short soak saw, its last chunk and its rows."""
    out, watch = io.StringIO(), soak.Watch()
    rows = Rows("soak", True, out)
    last_FHWC = soak.soak(given, blocks, path, watch, rows)
    return watch, last_FHWC, rows, out


def result_of(given, path, watch, last_FHWC, rows):
    ok = soak.verdict(given, watch, path, last_FHWC, 1.0, rows)
    row = json.loads(rows.out.getvalue().splitlines()[-1])
    assert row["row"] == "result" and row["ok"] is ok
    return {name for name, value in row.items() if value is False}, row


def test_a_short_stream_passes_and_its_file_has_every_frame(given, tmp_path):
    path = tmp_path / "soak.mp4"
    watch, last_FHWC, rows, out = made(given, path)
    samples = [json.loads(line) for line in out.getvalue().splitlines()]
    failed, row = result_of(given, path, watch, last_FHWC, rows)
    assert failed == set()
    assert row["frames"] == row["file_frames"] == 9 + 12 * 3
    assert row["highest_id"] == 11 and row["weights"] == "random" and "last_tenth_seen_share" not in row
    assert [sample["at_blocks"] for sample in samples] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("break_it", "check"),
    [
        (
            lambda watch: watch.resident.__setitem__(slice(None), [i * soak.NOISE_BYTES for i in range(4)]),
            "is_flat",
        ),
        (lambda watch: setattr(watch, "bad_blocks", 1), "is_finite"),
        (lambda watch: setattr(watch, "highest_id", 12), "is_bounded"),
        (lambda watch: setattr(watch, "frames", 44), "is_playable"),
        (lambda watch: watch.seen.extend([1.0] * 15 + [0.4] * 5), "is_prompt_seen"),
    ],
    ids=["leak", "nan", "ids", "lost frame", "prompt forgotten"],
)
def test_what_goes_wrong_is_named(given, tmp_path, break_it, check):
    path = tmp_path / "soak.mp4"
    watch, last_FHWC, rows, _ = made(given, path)
    break_it(watch)
    failed, _ = result_of(given, path, watch, last_FHWC, rows)
    assert failed == {check, "ok"}


def test_another_last_picture_than_the_streamed_one_is_seen(given, tmp_path):
    path = tmp_path / "soak.mp4"
    watch, last_FHWC, rows, _ = made(given, path)
    failed, row = result_of(given, path, watch, 255 - last_FHWC, rows)
    assert failed == {"is_playable", "ok"} and row["last_frame_db"] < soak.LEAST_DB


def test_an_interruption_keeps_a_file_that_plays(given, tmp_path, monkeypatch):
    step, calls = soak.step, []

    def interrupted(dit, state):
        calls.append(state.block)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(dit, state)

    monkeypatch.setattr(soak, "step", interrupted)
    path = tmp_path / "soak.mp4"
    watch, last_FHWC, rows, _ = made(given, path)
    failed, row = result_of(given, path, watch, last_FHWC, rows)
    assert failed == set() and (row["blocks"], row["file_frames"]) == (2, 21)


def test_growth_leaves_the_warm_up_out():
    watch = soak.Watch(at_blocks=list(range(0, 1001, 100)))
    watch.resident = [0, 10**9, *[2 * 10**9 + 64 * at for at in watch.at_blocks[2:]]]
    per_block, growth = watch.growth()
    assert per_block == pytest.approx(64) and growth == pytest.approx(64 * 800)


def test_shares_are_those_of_the_first_and_the_last_tenth():
    watch = soak.Watch(seen=[1.0, 0.5] + [0.0] * 16 + [0.25, 0.75])
    assert watch.seen_shares() == (0.75, 0.5)
    assert soak.Watch(seen=[0.5]).seen_shares() == (0.5, 0.5)


def test_trained_weights_are_asked_for_the_prompt(given, monkeypatch):
    asked = []
    monkeypatch.setattr(soak, "adherence", lambda pixels_FHWC, prompt: asked.append(prompt) or 0.5)
    watch = soak.Watch()
    watch.sample(given, torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert asked == []
    watch.sample(
        soak.Subject(**{**vars(given), "weights": "nano"}), torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    )
    assert asked == [given.prompt] and watch.seen == [0.5]

"""The fuzz: its inputs are the same for the same seed, and each way of going wrong is seen."""

import io
import json
from pathlib import Path
from random import Random

import pytest
from rivulet.tests.bench import fuzz_mutate, soak_fuzz
from rivulet.tests.bench.fuzz_messages import Case, UnusableError
from rivulet.tests.bench.fuzz_targets import Targets
from rivulet.tests.bench.records import Rows

PATH = Path("x.safetensors")


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return Targets(tmp_path_factory.mktemp("fuzz")).all()


def case_of(targets, kind, at, folder):
    case = targets[kind][0](Random(f"0 {kind} {at}"), folder)
    return case, case.value.read_bytes() if case.is_file else repr(case.value)


@pytest.mark.parametrize("kind", soak_fuzz.KINDS)
def test_inputs_are_drawn_by_seed_kind_and_place_alone(targets, kind, tmp_path):
    first, again = ([case_of(targets, kind, at, tmp_path) for at in range(8)] for _ in range(2))
    assert first == again
    assert len({content for _, content in first}) > 4


@pytest.mark.parametrize("kind", soak_fuzz.KINDS)
def test_whatever_is_changed_is_refused_in_words_or_read(targets, kind, tmp_path):
    make, use = targets[kind]
    folders = [tmp_path / str(at) for at in range(60)]
    for folder in folders:
        folder.mkdir()
    cases = [make(Random(f"1 {kind} {folder.name}"), folder) for folder in folders]
    found = [soak_fuzz.tried(case, use) for case in cases]
    assert [each for each in found if each[0] in soak_fuzz.BAD] == []
    assert {outcome for outcome, _ in found} == {"refused", "accepted"}
    if cases[0].is_ours:
        assert 10 < sum(case.is_resealed for case in cases) < 50


def raising(error):
    def use(value):
        raise error

    return use


@pytest.mark.parametrize(
    ("case", "use", "outcome"),
    [
        (Case(PATH, is_ours=True, is_file=True), lambda value: None, "silent"),
        (Case(PATH, is_ours=True, is_resealed=True, is_file=True), lambda value: None, "accepted"),
        (Case(PATH, is_file=True), lambda value: None, "accepted"),
        (Case(PATH, is_file=True), raising(ValueError("x.safetensors is cut. Copy it again.")), "refused"),
        (Case(PATH, is_file=True), raising(ValueError("Test: it is cut. Copy it again.")), "unclear"),
        (Case(PATH, is_file=True), raising(ValueError("Set weights_only for x.safetensors.")), "unclear"),
        (Case("text"), raising(ValueError("invalid literal for int()")), "unclear"),
        (Case("text"), raising(ValueError("long." * 1000)), "unclear"),
        (Case("text"), raising(ValueError("half a letter \ud800.")), "unclear"),
        (Case("text"), raising(json.JSONDecodeError("no.", "", 0)), "unclear"),
        (Case("text"), raising(TypeError("int")), "raw"),
        (Case("text"), raising(MemoryError()), "raw"),
        (Case("text"), raising(RecursionError()), "raw"),
        (Case(PATH, is_ours=True, is_resealed=True, is_file=True), raising(UnusableError("NaN")), "unusable"),
        (Case(PATH, is_file=True), raising(UnusableError("NaN")), "accepted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_seen(case, use, outcome):
    assert soak_fuzz.tried(case, use)[0] == outcome


@pytest.mark.parametrize(
    ("begin", "outcomes"),
    [
        ("import sys; sys.exit(3)", ["stuck"]),
        ("import json; print(json.dumps({'ready': 1}), flush=True); import time; time.sleep(60)", ["stuck"]),
        ("import json; print(json.dumps({'at': 4, 'outcome': 'refused'}))", ["refused", "stuck"]),
    ],
    ids=["ends", "hangs", "ends later"],
)
def test_a_process_that_hangs_or_dies_is_told(monkeypatch, begin, outcomes):
    monkeypatch.setattr(soak_fuzz, "BEGIN", begin)
    monkeypatch.setattr(soak_fuzz, "STUCK_SECONDS", 2.0)
    told = list(soak_fuzz.worker("control", 4, 6, 0))
    assert [each["outcome"] for each in told] == outcomes
    assert [each["at"] for each in told] == [4, 5][: len(told)]


def test_after_an_input_that_hung_the_next_ones_are_tried(monkeypatch):
    asked = []

    def worker(kind, start, end, seed):
        asked.append(start)
        yield {"at": start, "outcome": "stuck" if start == 0 else "refused", "seconds": 0.0, "growth": 7}

    monkeypatch.setattr(soak_fuzz, "worker", worker)
    rows = Rows("soak-fuzz", True, io.StringIO())
    assert not soak_fuzz.fuzz("control", 3, 0, rows) and asked == [0, 1, 2]
    fault, row = map(json.loads, rows.out.getvalue().splitlines())
    assert fault["row"] == "fault" and fault["case"] == "control 0: stuck"
    assert (row["stuck_trials"], row["refused_trials"], row["growth_bytes"], row["ok"]) == (1, 2, 7, False)


def test_growth_is_a_fault(monkeypatch):
    def worker(kind, start, end, seed):
        yield {"at": start, "outcome": "refused", "growth": soak_fuzz.NOISE_BYTES + 1}

    monkeypatch.setattr(soak_fuzz, "worker", worker)
    rows = Rows("soak-fuzz", True, io.StringIO())
    assert not soak_fuzz.fuzz("control", 1, 0, rows)
    assert json.loads(rows.out.getvalue())["is_flat"] is False


def test_a_value_is_changed_and_the_given_one_stays():
    given = {"a": [1, {"b": "text"}], "c": 0.5}
    before = json.dumps(given)
    made = [fuzz_mutate.changed_value(Random(at), given) for at in range(50)]
    assert json.dumps(given) == before and sum(each != given for each in made) > 40

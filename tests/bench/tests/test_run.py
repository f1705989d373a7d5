"""`bench NAME`: the name is checked before anything is imported, the machine comes first."""

import json
from types import SimpleNamespace

import pytest
import torch
from rivulet.tests.bench import run


@pytest.fixture
def bench(monkeypatch):
    """Returns a benchmark that prints one row."""

    def measure(chosen, rows):
        rows("place", at_blocks=chosen.blocks)
        return 3

    module = SimpleNamespace(
        run=measure, add_arguments=lambda parser: parser.add_argument("--blocks", type=int)
    )
    monkeypatch.setattr(run.importlib, "import_module", lambda name, package: module)
    return module


def test_rows_follow_the_machine_and_the_status_is_the_benchmarks(bench, capsys):
    assert run.main(["stream", "--quick", "--blocks", "7"]) == 3
    machine, place = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert machine["row"] == "machine" and machine["torch"]
    assert place == {"bench": "stream", "row": "place", "quick": True, "at_blocks": 7}


@pytest.mark.parametrize(("quick", "threads"), [(["--quick"], 1), ([], 2)])
def test_a_quick_run_takes_one_thread(bench, capsys, quick, threads):
    torch.set_num_threads(2)
    try:
        run.main(["stream", "--blocks", "7", *quick])
    finally:
        torch.set_num_threads(1)
    machine, _ = capsys.readouterr().out.splitlines()
    assert json.loads(machine)["threads"] == threads


@pytest.mark.parametrize("arguments", [[], ["speed"]])
def test_without_a_known_name_the_names_are_told(bench, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        run.main(arguments)
    assert "NAME" in capsys.readouterr().err


def test_help_lists_every_benchmark(capsys):
    with pytest.raises(SystemExit, match="0"):
        run.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in run.BENCHES)

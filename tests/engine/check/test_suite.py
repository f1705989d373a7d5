"""The list of tests: bounds of time, interruption, faults in a test, and the command around it."""

import json

import pytest
import torch
from rivulet.model_patches.check import command, suite
from rivulet.model_patches.check.clock import Clock, OutOfTimeError
from rivulet.model_patches.check.finding import Finding
from rivulet.model_patches.check.suite import Check, Suite
from rivulet.model_patches.check.tolerance import allowed

CPU = torch.device("cpu")


class Watch:
    """A clock's hand that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def listed(monkeypatch, *tests):
    monkeypatch.setattr(Suite, "tests", lambda self: list(tests))


def fine(clock):
    yield Finding("fine", "ok", "it is")


def test_a_tick_ends_a_test_at_its_own_bound_and_at_the_end_of_all_time():
    watch = Watch()
    clock = Clock(100, now=watch)
    with clock.bounded(10):
        watch.now = 9
        clock.tick()
        watch.now = 11
        with pytest.raises(OutOfTimeError, match="not done after 11 s"):
            clock.tick()
    with clock.bounded(500):
        clock.tick()
        watch.now = 101
        with pytest.raises(OutOfTimeError):
            clock.tick()


def test_a_test_that_takes_too_long_is_skipped_with_what_it_had_found_and_the_rest_goes_on(monkeypatch):
    def late(clock):
        yield Finding("early", "ok", "it is")
        clock.tick()

    listed(monkeypatch, Check("late", -1, late), Check("fine", 10, fine))
    report = Suite(CPU).run()
    assert [(each.name, each.verdict) for each in report.findings] == [
        ("early", "ok"), ("late", "skipped"), ("fine", "ok")
    ]  # fmt: skip


def test_without_time_nothing_is_begun(monkeypatch):
    listed(monkeypatch, Check("fine", 10, fine))
    (finding,) = Suite(CPU, seconds=0).run().findings
    assert (finding.verdict, finding.said) == ("skipped", "no time was left")


def test_a_fault_in_a_test_is_broken_in_clean_words_and_the_rest_goes_on(monkeypatch):
    def fault(clock):
        raise OSError("cannot read /home/planted/secret.bin\nmore of it")

    listed(monkeypatch, Check("fault", 10, fault), Check("fine", 10, fine))
    report = Suite(CPU).run()
    assert [each.verdict for each in report.findings] == ["broken", "ok"] and not report.ok
    assert report.findings[0].said == "OSError: cannot read <path> more of it"


def test_an_interruption_passes_through(monkeypatch):
    class Interrupted(BaseException):
        pass

    def pulse():
        raise Interrupted

    listed(monkeypatch, Check("ticks", 10, lambda clock: [clock.tick()]), Check("fine", 10, fine))
    before = torch.get_num_threads()
    with pytest.raises(Interrupted):
        Suite(CPU, pulse=pulse).run()
    assert torch.get_num_threads() == before


def test_the_list_has_every_stream_and_a_quick_one_fewer():
    names = [test.name for test in Suite(CPU).tests()]
    quick = [test.name for test in Suite(CPU, quick=True).tests()]
    streams = [name for name in names if name.startswith("Stream")]
    assert len(streams) == 10 and len([name for name in quick if name.startswith("Stream")]) == 4
    assert names[0] == "Machine" and {"Triton", "Attention", "Resume", "VAE decode", "Speed"} < set(names)


@pytest.fixture
def short(monkeypatch):
    listed(monkeypatch, Check("fine", 10, fine))


def test_the_command_prints_a_table_and_writes_a_file(short, tmp_path, capsys):
    path = tmp_path / "check.json"
    assert command.main(["--device", "cpu", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "ok       fine: it is\n1 ok; 0 s\n" in out and str(tmp_path) not in out
    assert "[ 1/1]" in err
    written = json.loads(path.read_text())
    assert written["kind"] == "rivulet check" and written["facts"]["torch"] == torch.__version__
    assert written["findings"][0]["verdict"] == "ok" and not list(tmp_path.glob("*.part"))


def test_something_broken_is_the_exit_status(monkeypatch, capsys):
    listed(monkeypatch, Check("bad", 10, lambda clock: [Finding("bad", "broken", "it is", "go round")]))
    assert command.main(["--device", "cpu"]) == 1
    assert "broken   bad: it is\n         way round: go round\n1 broken; 0 s" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused_with_those_that_are(short, capsys):
    assert command.main(["--device", "cuda:7"]) == 2
    assert "there is no device 'cuda:7'; choose one of" in capsys.readouterr().err
    assert command.main(["--device", "nonsense"]) == 2


def test_a_test_that_hangs_ends_with_what_was_found(short, monkeypatch, capsys, tmp_path):
    ended = []
    monkeypatch.setattr(command.os, "_exit", ended.append)
    made = Suite(CPU)
    made.run()
    command.give_up(made, tmp_path / "check.json")
    out = capsys.readouterr().out
    assert ended == [1] and "ok       fine" in out and "broken   Time: a test hung after 1 findings" in out
    assert json.loads((tmp_path / "check.json").read_text())["findings"][-1]["name"] == "Time"


def test_a_tolerance_has_the_formats_own_error_in_it():
    assert allowed(1e-7, torch.float32, 1e-2) == 1e-2 and suite.SECONDS == 180

"""run.py decides what to install and what to run; nothing here uses the network."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest


@pytest.fixture
def run(root):
    spec = importlib.util.spec_from_file_location("rivulet_run", root / "run.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    sys.modules["rivulet_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rivulet_run"]


@pytest.fixture
def called(run, monkeypatch):
    """Returns the list of commands that would have run; each one succeeds unless its name is in `failing`."""
    commands = []

    def record(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, int(bool(record.failing & set(command))), stdout="")

    record.failing = set()
    monkeypatch.setattr(run.subprocess, "run", record)
    return commands, record


def torch_in(run, monkeypatch, **found):
    """Lets only these interpreters have a torch; `venv` gets one when something is installed or linked."""
    monkeypatch.setattr(
        run, "torch_of", lambda python: found.get("host" if python == sys.executable else "venv")
    )
    monkeypatch.setattr(run, "link", lambda venv, python, folder: found.update(venv=found["host"]))
    monkeypatch.setattr(
        run, "pip_install", lambda python, wanted: found.update(venv=("2.13.0", "pip"), got=wanted)
    )
    return found


def test_the_dev_extra_and_the_tested_torch_are_the_same_in_the_project_file(run, root):
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    extras = {
        name: re.findall(r'"(.+?)"', names) for name, names in re.findall(r"^(\w+) = \[(.*)\]$", text, re.M)
    }
    assert sorted(extras["dev"]) == sorted(run.TOOLS)
    assert extras["cpu"] == [run.TORCH]
    base = [name for name in run.requirements(run.COMMANDS["demo"]) if name not in run.TOOLS]
    assert extras["dependencies"] == base


def test_only_the_checks_need_the_tools(run):
    with_tools = {
        name for name, command in run.COMMANDS.items() if set(run.TOOLS) & set(run.requirements(command))
    }
    assert with_tools == {"test"}


def test_nothing_but_the_pinned_torch_is_ever_asked_for(run):
    wanted = {name for command in run.COMMANDS.values() for name in run.requirements(command)}
    assert not {name for name in wanted if name.startswith("torch")}
    assert run.TORCH.startswith("torch==")


@pytest.mark.parametrize(
    ("version", "usable"),
    [
        ("2.13.0+cpu", True),
        ("2.4.1", True),
        ("3.0.0a1", True),
        ("2.3.9", False),
        ("1.13.1", False),
        ("", False),
    ],
)
def test_an_old_torch_is_not_kept(run, version, usable):
    assert run.new_enough(version) is usable


def test_the_environments_own_torch_is_kept(run, monkeypatch, tmp_path):
    found = torch_in(run, monkeypatch, venv=("2.9.0", "venv"), host=("2.8.0", "host"))
    assert run.provide_torch(tmp_path, tmp_path / "python") == "2.9.0"
    assert "got" not in found


def test_this_interpreters_torch_is_kept(run, monkeypatch, tmp_path):
    found = torch_in(run, monkeypatch, host=("2.8.0+cu129", "host"))
    assert run.provide_torch(tmp_path, tmp_path / "python") == "2.8.0+cu129"
    assert "got" not in found


def test_without_a_torch_the_tested_one_is_installed(run, monkeypatch, tmp_path):
    found = torch_in(run, monkeypatch)
    assert run.provide_torch(tmp_path, tmp_path / "python") == "2.13.0"
    assert found["got"] == [run.TORCH]


def test_a_torch_that_cannot_be_imported_after_installing_is_said(run, monkeypatch, tmp_path):
    torch_in(run, monkeypatch)
    monkeypatch.setattr(run, "pip_install", lambda python, wanted: None)
    with pytest.raises(run.StopError, match="delete that folder"):
        run.provide_torch(tmp_path, tmp_path / "python")


def test_linking_puts_the_folder_on_the_environments_path(run, monkeypatch, tmp_path):
    monkeypatch.setattr(
        run.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=f"{tmp_path}\n"),
    )
    run.link(tmp_path, tmp_path / "python", "/where/torch/is")
    assert (tmp_path / "rivulet_torch.pth").read_text() == "/where/torch/is\n"


def test_a_torch_is_found_where_it_is_installed(run):
    version, folder = run.torch_of(sys.executable)
    import torch

    assert version == torch.__version__
    assert torch.__file__.startswith(folder)


def ready(run, tmp_path, stamp: dict):
    python = run.venv_python(tmp_path)
    python.parent.mkdir(parents=True)
    python.write_text("")
    run.write_stamp(tmp_path, stamp)


def test_a_prepared_environment_starts_nothing(run, called, tmp_path):
    commands, _ = called
    command = run.COMMANDS["test"]
    ready(run, tmp_path, {"torch": "2.13.0", "installed": run.requirements(command)})
    assert run.prepare(command, tmp_path) == run.venv_python(tmp_path)
    assert commands == []


def test_what_a_second_command_adds_is_installed_alone(run, called, tmp_path):
    commands, _ = called
    demo, test = run.COMMANDS["demo"], run.COMMANDS["test"]
    ready(run, tmp_path, {"torch": "2.13.0", "installed": run.requirements(demo)})
    run.prepare(test, tmp_path)
    assert [command[-len(run.TOOLS) - 1 :] for command in commands] == [
        ["--disable-pip-version-check", *run.TOOLS]
    ]
    assert run.missing(run.requirements(test), run.read_stamp(tmp_path)) == []


def test_a_failed_install_is_not_recorded_and_says_what_to_do(run, called, tmp_path):
    _, record = called
    record.failing = {"install"}
    ready(run, tmp_path, {"torch": "2.13.0"})
    with pytest.raises(run.StopError, match=r"could not install safetensors.*connect once"):
        run.prepare(run.COMMANDS["demo"], tmp_path)
    assert run.read_stamp(tmp_path) == {"torch": "2.13.0"}


def test_an_environment_that_cannot_be_made_leaves_nothing(run, called, tmp_path):
    _, record = called
    record.failing = {"venv"}
    venv = tmp_path / "venv"
    venv.mkdir()
    with pytest.raises(run.StopError, match="apt install python3-venv"):
        run.prepare(run.COMMANDS["demo"], venv)
    assert not venv.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", None])
def test_a_broken_stamp_counts_as_none(run, tmp_path, text):
    if text is not None:
        (tmp_path / "rivulet.json").write_text(text)
    assert run.read_stamp(tmp_path) == {}


def test_the_stamp_is_readable_json(run, tmp_path):
    run.write_stamp(tmp_path, {"torch": "2.13.0"})
    assert json.loads((tmp_path / "rivulet.json").read_text()) == {"torch": "2.13.0"}
    assert [path.name for path in tmp_path.iterdir()] == ["rivulet.json"]


def test_the_interpreter_is_found_on_every_system(run, tmp_path):
    assert run.venv_python(tmp_path, windows=True) == tmp_path / "Scripts" / "python.exe"
    assert run.venv_python(tmp_path, windows=False) == tmp_path / "bin" / "python"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_command_and_prepares_nothing(run, called, capsys, arguments):
    assert run.main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in run.COMMANDS) and called[0] == []


def test_an_unknown_command_is_answered_with_the_known_ones(run):
    with pytest.raises(run.StopError, match="no command 'stream'; there are demo, comfy, check, test, bench"):
        run.main(["stream"])


def test_an_old_python_is_told_which_one_is_needed(run, monkeypatch):
    monkeypatch.setattr(run.sys, "version_info", (3, 9, 18))
    with pytest.raises(run.StopError, match=r"needs Python 3\.10 or newer, this is 3\.9\.18"):
        run.main(["demo"])


def test_a_command_goes_on_in_the_environment(run, monkeypatch, tmp_path):
    handed = []
    monkeypatch.setattr(run, "prepare", lambda command: tmp_path / "python")
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "hand_over", lambda command: handed.append(command) or 7)
    assert run.main(["bench", "stream", "--quick"]) == 7
    assert handed == [[str(tmp_path / "python"), str(run.ROOT / "run.py"), "bench", "stream", "--quick"]]


@pytest.mark.parametrize(
    ("command", "given", "policy"),
    [
        ("demo", None, "passive"),
        ("demo", "active", "active"),
        ("comfy", None, "passive"),
        ("comfy", "active", "active"),
        ("bench", None, None),
    ],
)
def test_demo_and_comfyui_wait_without_keeping_a_core_busy_unless_told_to(
    run, monkeypatch, tmp_path, command, given, policy
):
    monkeypatch.setattr(run.os, "environ", {"OMP_WAIT_POLICY": given} if given else {})
    monkeypatch.setattr(run, "prepare", lambda command: tmp_path / "python")
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "hand_over", lambda command: 0)
    monkeypatch.setattr(run, "comfy", lambda arguments: 0)
    assert run.main([command]) == 0
    assert run.os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize("linked", [False, True])
def test_inside_the_environment_the_commands_main_runs(run, monkeypatch, tmp_path, linked):
    """One that .venv is a link to, too: it would be handed over to again and again."""
    got = []
    monkeypatch.setattr(run, "prepare", lambda command: tmp_path / "python")
    environment = run.Path(sys.prefix).resolve()
    if linked:
        (tmp_path / ".venv").symlink_to(environment, target_is_directory=True)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv" if linked else environment)
    monkeypatch.setattr(run, "hand_over", lambda command: pytest.fail("handed over to itself"))
    monkeypatch.setattr(run, "run_module", lambda name, arguments: got.append((name, arguments)) or 0)
    assert run.main(["soak", "--blocks", "9"]) == 0
    assert got == [("tests.bench.soak", ["--blocks", "9"])]


def test_every_check_runs_and_pytest_is_last(run, called, capsys):
    commands, record = called
    record.failing = {"ruff"}
    assert run.test([]) == 1
    assert "basedpyright" in commands[1] and commands[-1][-2:] == ["-m", "pytest"]
    assert "FAILED: ruff" in capsys.readouterr().err
    record.failing = set()
    assert run.test([]) == 0


def test_arguments_go_to_pytest_alone(run, called):
    commands, _ = called
    assert run.test(["tests/test_run.py", "-k", "stamp"]) == 0
    assert [command[-4:] for command in commands] == [["pytest", "tests/test_run.py", "-k", "stamp"]]


def test_widget_tests_run_where_there_is_a_node(run, monkeypatch, tmp_path, capsys):
    (tmp_path / "tests" / "web").mkdir(parents=True)
    (tmp_path / "tests" / "web" / "ring.test.mjs").write_text("")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "node", lambda python: ["node"])
    assert run.checks("python")["web"] == [
        "node",
        "--test",
        str(tmp_path / "tests" / "web" / "ring.test.mjs"),
    ]
    monkeypatch.setattr(run, "node", lambda python: None)
    assert "web" not in run.checks("python")
    assert "SKIPPED tests/web: no Node.js" in capsys.readouterr().err

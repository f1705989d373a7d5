"""Staying awake, with stand-ins for the systems' programs on PATH; POSIX' processes are real."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rivulet.model_patches.takes import awake
from rivulet.model_patches.takes.awake import CONTINUOUS, SYSTEM_REQUIRED, Awake, WindowsHolder, holder_for
from rivulet.tests.waiting import wait_for

posix = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
# notes its process, then does what the last argument says, as systemd-inhibit does
INHIBITS = 'echo $$ >> "{pids}"; echo "$@" > "{asked}"; for last; do :; done; exec "$last"'
# watches a process, as caffeinate -w does
WATCHES = 'echo $$ >> "{pids}"; echo "$@" > "{asked}"; while kill -0 $3 2>/dev/null; do sleep 0.05; done'
REFUSES = 'echo $$ >> "{pids}"; echo "Failed to inhibit: Access denied" >&2; exit 1'

HOLDS = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location(
    "rivulet", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
from rivulet.model_patches.takes.awake import Awake, holder_for
with Awake("a test", holder_for(sys.argv[2], "a test")):
    time.sleep(600)
"""


class Programs:
    """Stand-ins on PATH, and the processes that ran as them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pids_file, self.asked_file = folder, folder / "pids", folder / "asked"

    def add(self, name: str, does: str) -> None:
        script = self.folder / name
        script.write_text(f"#!/bin/sh\n{does.format(pids=self.pids_file, asked=self.asked_file)}\n")
        script.chmod(0o755)

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self.pids_file.read_text().split()] if self.pids_file.exists() else []

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """A process that ended and was not waited for does not count."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Returns stand-ins that are found before anything else; the real ones are not found at all."""
    (tmp_path / "bin").mkdir()
    kept = {name: subprocess.check_output(["which", name], text=True).strip() for name in ("cat", "sleep")}
    for name, path in kept.items():
        (tmp_path / "bin" / name).symlink_to(path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(awake, "REFUSED_SECONDS", 0.5)
    return Programs(tmp_path / "bin")


@posix
def test_linux_holds_while_blocks_are_made_and_not_in_a_pause(programs):
    programs.add("systemd-inhibit", INHIBITS)
    with Awake("makes blocks", holder_for("linux", "makes blocks")) as held:
        wait_for(lambda: len(programs.alive) == 1)
        assert "--what=sleep:idle" in programs.asked_file.read_text()
        assert "--why=makes blocks" in programs.asked_file.read_text()
        held.hold()
        held.release()
        wait_for(lambda: not programs.alive)
        held.hold()
        wait_for(lambda: len(programs.alive) == 1)
    wait_for(lambda: not programs.alive)
    assert len(programs.pids) == 2


@posix
@pytest.mark.parametrize(("system", "program", "does"), [
    ("linux", "systemd-inhibit", INHIBITS),
    ("linux", "gnome-session-inhibit", INHIBITS),
    ("darwin", "caffeinate", WATCHES),
])  # fmt: skip
def test_the_holder_ends_when_our_process_is_killed(programs, root, system, program, does):
    programs.add(program, does)
    ours = subprocess.Popen([sys.executable, "-c", HOLDS, str(root), system])
    try:
        wait_for(lambda: programs.alive)
        os.kill(ours.pid, signal.SIGKILL)
        ours.wait()
        wait_for(lambda: not programs.alive)
    finally:
        ours.kill()
        ours.wait()


@posix
def test_macos_names_our_process(programs):
    programs.add("caffeinate", WATCHES)
    with Awake("x", holder_for("darwin", "x")):
        wait_for(lambda: programs.alive and programs.asked_file.exists())
        assert programs.asked_file.read_text().split() == ["-i", "-w", str(os.getpid())]
    wait_for(lambda: not programs.alive)


@posix
def test_what_is_refused_is_told_once_and_the_next_is_tried(programs, caplog):
    caplog.set_level(logging.INFO)
    programs.add("systemd-inhibit", REFUSES)
    with Awake("x", holder_for("linux", "x")) as held:
        wait_for(lambda: "Access denied" in caplog.text)
        held.release()
        held.hold()
    assert caplog.text.count("may go to sleep") == 1 and len(programs.pids) == 1
    programs.add("gnome-session-inhibit", INHIBITS)
    with Awake("x", holder_for("linux", "x")):
        wait_for(lambda: len(programs.alive) == 1)
    wait_for(lambda: not programs.alive)


@posix
@pytest.mark.parametrize("system", ["linux", "darwin", "freebsd14"])
def test_a_system_without_a_way_is_told_of(programs, caplog, system):
    caplog.set_level(logging.INFO)
    with Awake("x", holder_for(system, "x")):
        wait_for(lambda: "no way to stay awake" in caplog.text)


def test_windows_is_asked_by_the_thread_that_holds(caplog):
    caplog.set_level(logging.INFO)
    asked = []
    with Awake("x", WindowsHolder(lambda flags: asked.append(flags) or 1)) as held:
        held.release()
        held.hold()
    assert asked == [CONTINUOUS | SYSTEM_REQUIRED, CONTINUOUS] * 2 and not caplog.text
    with Awake("x", WindowsHolder(lambda flags: 0)):
        assert "Windows does not allow it" in caplog.text
    assert isinstance(holder_for("win32", "x"), WindowsHolder)


def test_it_follows_a_stream():
    asked = []
    with Awake("x", WindowsHolder(lambda flags: asked.append(flags) or 1)) as held:
        for phase in ("paused", "paused", "running", "running", "ended", "failed"):
            held.follow(phase)
    held.follow("ended")
    assert asked == [CONTINUOUS | SYSTEM_REQUIRED, CONTINUOUS] * 2

"""One writer per video: who has the lock, and that a dead one has none."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from rivulet.model_patches.writer import lock
from rivulet.model_patches.writer.lock import FileLock, LockedError, hold, is_held, is_locked, lock_path
from rivulet.tests.waiting import wait_for

from .test_video import open_writer, posix

__all__ = ["open_writer"]

LOAD = """
import importlib.util, sys, time, os
spec = importlib.util.spec_from_file_location("rivulet", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
"""
HOLDS = (
    LOAD
    + """
from rivulet.model_patches.writer.lock import FileLock
FileLock(sys.argv[2]).acquire()
lock = FileLock(sys.argv[2] + ".other.mp4")
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""
)
FORKS = (
    LOAD
    + """
from rivulet.model_patches.writer.lock import FileLock
lock = FileLock(sys.argv[2])
lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
time.sleep(600)
"""
)
WRITES = (
    LOAD
    + """
import torch
from rivulet.model_patches.writer.video import Mp4Writer
with Mp4Writer(sys.argv[2], width=32, height=16, fps=16) as writer:
    writer.write(torch.zeros(9, 16, 32, 3, dtype=torch.uint8))
    writer.wait_on_disk(8)
    print(writer._feed._encoder.process.pid, flush=True)
    time.sleep(600)
"""
)


def start(code, root, video):
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(video)], stdout=subprocess.PIPE)
    return process, process.stdout.readline().decode().strip()


@pytest.fixture
def video(tmp_path):
    return tmp_path / "take.mp4"


def test_a_lock_is_had_once_and_given_back(video):
    assert not is_locked(video)
    with FileLock(video):
        assert is_locked(video)
        with pytest.raises(LockedError, match=rf"take.mp4 is being .* this program \(process {os.getpid()},"):
            FileLock(video).acquire()
        assert is_locked(video)
    assert not is_locked(video)
    assert not lock_path(video).exists()
    with FileLock(video):
        pass


def test_another_videos_lock_is_another(video):
    with FileLock(video), FileLock(video.with_name("other.mp4")):
        assert is_locked(video)


def test_another_process_is_named_and_frees_its_lock_when_it_is_killed(root, video):
    process, _ = start(HOLDS, root, f"{video}.other.mp4")
    other = video.with_name("take.mp4.other.mp4.other.mp4")
    words = rf"by another run \(process {process.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\); wait"
    with pytest.raises(LockedError, match=words):
        FileLock(other).acquire()
    assert is_locked(other)
    process.kill()
    process.wait()
    # the file is still there
    assert lock_path(other).exists() and not is_locked(other)
    with FileLock(other):
        assert is_locked(other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(root, video):
    process, child = start(FORKS, root, video)
    try:
        assert is_locked(video)
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # it lives
        wait_for(lambda: not is_locked(video))
    finally:
        os.kill(int(child), signal.SIGKILL)


@posix
def test_the_ffmpeg_of_a_dead_program_keeps_no_lock_and_its_part_is_left_until_it_is_done(
    root, video, footage, open_writer, monkeypatch
):
    process, ffmpeg = start(WRITES, root, video)
    assert is_locked(video)
    os.kill(int(ffmpeg), signal.SIGSTOP)
    try:
        process.kill()
        process.wait()
        assert not is_locked(video)
        monkeypatch.setattr("rivulet.model_patches.writer.parts.ORPHAN_SECONDS", 0.3)
        with pytest.raises(RuntimeError, match=r"ffmpeg of a run that died still writes .*take.part1.mp4"):
            open_writer(start_frame=8).__enter__()
        assert not is_locked(video)
    finally:
        os.kill(int(ffmpeg), signal.SIGCONT)
    monkeypatch.undo()
    with open_writer(start_frame=8) as writer:
        writer.write(footage.frames(8, 3))
    assert footage.numbers(video) == [0] * 8 + [8, 9, 10]


def test_a_disk_without_locks_is_said_and_gone_on_with(video, monkeypatch, caplog, open_writer, footage):
    def none(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_system_lock", none)
    with open_writer() as writer:
        writer.write(footage.frames(0, 9))
    assert "knows no locks (No locks available); a second run on the same name is not noticed" in caplog.text
    assert footage.numbers(video) == list(range(9))


def test_a_lock_that_was_just_deleted_is_none(video, monkeypatch):
    """Whoever gives it back deletes its file, after another has opened it and before it gets the lock."""
    first, taken = FileLock(video), []
    first.acquire()
    real = lock._system_lock

    def late(handle):
        if not taken:
            taken.append(handle)
            first.release()
        real(handle)

    monkeypatch.setattr(lock, "_system_lock", late)
    with FileLock(video):
        assert lock_path(video).exists() and is_locked(video)


def test_whoever_asks_at_the_same_time_keeps_nobody_from_the_lock(video, monkeypatch):
    asking = os.open(lock_path(video), os.O_RDWR | os.O_CREAT)
    lock._system_lock(asking)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.close(asking))
    with FileLock(video):
        assert is_locked(video)


def test_a_file_is_held_as_long_as_the_child_lives(tmp_path):
    part = tmp_path / "part"
    with hold(part) as kept:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **kept)
    if os.name == "posix":
        assert is_held(part)
    child.communicate(b"\n")
    assert not is_held(part)

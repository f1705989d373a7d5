"""Takes whose process is killed at once, as by kill -9 or a power cut of the program, and gone on with."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from rivulet.model_patches.stream import pipeline
from rivulet.model_patches.takes import keeper, rewind, timeline_file
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.listing import describe
from rivulet.model_patches.writer import copying, encoder, parts
from rivulet.model_patches.writer.lock import is_locked
from rivulet.model_patches.writer.parts import frames_of
from rivulet.tests.waiting import wait_for

from ..stream.videos import GEOMETRY, Collected
from .made import Studio, resume

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
BYTES = GEOMETRY.width * GEOMETRY.height * 3
# what may be under way when the process dies: in the loop, in a snapshot, in the video, in going back
PLACES = [
    (pipeline, "step"), (keeper, "write"), (keeper, "write_picture"), (keeper, "append"),
    (encoder.Encoder, "write"), (encoder.Encoder, "close"), (os, "fsync"), (os, "replace"), (os, "unlink"),
    (parts, "copy"), (copying, "sync"), (rewind, "rewrite"), (timeline_file, "write_text"),
]  # fmt: skip


class Logged(Collected):
    """A writer that has its pictures in a file at once, so that they outlive the process."""

    log = None  # where

    def write(self, pixels):
        super().write(pixels)
        with Logged.log.open("ab") as file:
            file.write(self.chunks[-1].tobytes())


def die_at(number):
    """Has this process killed when it comes to the so-manieth of those calls, before or after it."""
    left = [number]

    def dying(call):
        def counted(*args, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return counted

    for place, name in PLACES:
        setattr(place, name, dying(getattr(place, name)))


def in_a_child(work):
    """The exit status of a process that does this."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_until_killed(studio, number, log, **how):
    """Whether the take came to its end before the so-manieth call."""

    def work():
        Logged.log = log
        die_at(number)
        studio.make(writer=Logged, **how)

    status = in_a_child(work)
    assert status in (0, -signal.SIGKILL), "see the child's own output"
    return status == 0


def pictures_in(log):
    data = log.read_bytes() if log.exists() else b""
    whole = len(data) // BYTES * BYTES
    return np.frombuffer(data[:whole], np.uint8).reshape(-1, GEOMETRY.height, GEOMETRY.width, 3)


@pytest.mark.parametrize("offset", range(6))
def test_a_take_that_is_killed_anywhere_goes_on_to_the_same_pictures(studio, whole, offset):
    number, video = 2 + 5 * offset, studio.folder / "take.mp4"
    finished = False
    while not finished and number < 80:
        log = studio.folder / f"{number}.raw"
        finished = run_until_killed(studio, number, log, pictures=57)
        assert np.array_equal(pictures_in(log), whole[: len(pictures_in(log))])
        if not finished:
            go_on_to_the_end(studio, whole, video, len(pictures_in(log)))
            shutil.rmtree(TakeFolder(video).path)
            video.unlink()
        number += 30


def go_on_to_the_end(studio, whole, video, made):
    """Resumes a take whose process died: what was shown is made again, if it did not reach the disk."""
    # a child that the dead process was starting holds a copy of the lock until it is another program
    wait_for(lambda: not is_locked(video))
    if not TakeFolder(video).snapshots():
        assert made <= 9, "the first snapshot is there when the first block is"
        shutil.rmtree(TakeFolder(video).path, ignore_errors=True)
        for each in video.parent.glob("take*"):
            each.unlink()
        return studio.make(pictures=57) and None
    take = describe(video)
    assert take.can_go_on or not frames_of(video), take.reason
    studio.shown.clear()
    studio.make(pictures=57, redo=resume())
    ((start, shown),) = studio.shown
    assert np.array_equal(shown.frames, whole[start:57]) and frames_of(video) == 57
    assert {path.name for path in video.parent.glob("take*")} == {"take.mp4", "take.take"}
    assert not [path for path in TakeFolder(video).path.iterdir() if path.name.endswith((".part", ".new"))]


@pytest.mark.parametrize("offset", range(4))
def test_a_redo_that_is_killed_anywhere_leaves_the_old_story_or_the_new_one(studio, whole, offset, tmp_path):
    """And whatever was cut off is in the tail, or still in the take."""
    studio.make("old/take.mp4", pictures=57)
    other = Studio(tmp_path / "other", studio.caller, studio.vae)
    other.make("take.mp4", pictures=57)
    other.make("take.mp4", pictures=57, redo=resume(frame=21, seed=8))
    changed, number = other.frames, 1 + 3 * offset
    finished = False
    while not finished and number < 40:
        folder = studio.folder / f"redo{number}"
        shutil.copytree(studio.folder / "old", folder)
        log = studio.folder / f"redo{number}.raw"
        again = Studio(folder, studio.caller, studio.vae)
        finished = run_until_killed(again, number, log, pictures=57, redo=resume(frame=21, seed=8))
        if not finished:
            frames = frames_of(folder / "take.mp4")
            tails = [frames_of(tail) for tail in folder.glob("take_tail*.mp4")]
            assert frames == 57 or 57 - 16 in tails, "nothing is lost"
            again.make(pictures=69, redo=resume())
            ((start, shown),) = again.shown
            story = changed if np.array_equal(shown.frames[: 57 - start], changed[start:]) else whole
            assert np.array_equal(shown.frames[: 57 - start], story[start:57])
        number += 12


def test_two_that_go_on_with_the_same_take_at_once(studio, whole):
    """The second is refused before it has changed anything, and the first ends as it would have."""
    studio.make(pictures=33)
    video, log = studio.folder / "take.mp4", studio.folder / "first.raw"

    def slowly():
        Logged.log = log
        studio.watch = lambda session: setattr(
            session, "should_continue", lambda rest: time.sleep(0.5) or True
        )
        studio.make(pictures=57, redo=resume(), writer=Logged)

    child = os.fork()
    if not child:
        try:
            slowly()
        finally:
            os._exit(0)
    while not log.exists():
        time.sleep(0.01)
    take = describe(video)
    with pytest.raises(ValueError, match=rf"is being written by another run \(process {child}"):
        studio.make(pictures=57, redo=resume(frame=9))
    assert os.waitpid(child, 0)[1] == 0
    assert take.standing == "running" and frames_of(video) == 57
    assert np.array_equal(pictures_in(log), whole[33:57])

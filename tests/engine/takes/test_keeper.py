"""Snapshots while a take is made: when they are due, when they are written, and what becomes of faults."""

import errno
import os
import shutil
import threading
import time

import numpy as np
import pytest
from rivulet.model_patches.stream.pipeline import run
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.takes import keeper as keeper_module
from rivulet.model_patches.takes.folder import About, TakeFolder
from rivulet.model_patches.takes.keeper import Keeper, Policy
from rivulet.model_patches.takes.timeline_file import Event, read
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.tests.waiting import wait_for

from ..stream.videos import Collected
from .made import EVERY, FPS, scripted

ABOUT = About(0, float(FPS), 32, 16, 0.0)


class Video(Collected):
    """A writer whose frames reach the disk when the test says so."""

    def __init__(self, start_frame=0):
        super().__init__(start_frame)
        self.start_frame = start_frame
        self.asked, self.may_go_on = [], threading.Event()
        self.may_go_on.set()
        self.reaches = lambda frames: True

    def reserve(self, count):
        self.reserved = count

    def wait_on_disk(self, frames):
        self.asked.append(frames)
        self.may_go_on.wait(60)
        return self.reaches(frames)


@pytest.fixture
def kept(studio):
    """Returns a function that makes blocks with a keeper: (the folder, its writer, what was told)."""

    def make(
        blocks=6, policy=EVERY, video=None, script=None, on_chunk=lambda chunk, keeper: None, name="take"
    ):
        folder, video, told = TakeFolder(studio.folder / f"{name}.mp4"), video or Video(), []
        decoder = VaeDecoder(studio.vae)
        with Keeper(studio.caller, decoder, video, folder, ABOUT, policy, told.append) as keeper:
            run(
                studio.caller, decoder, studio.begin(), [video, keeper.pictures], blocks=blocks,
                script=script or scripted(), keep=keeper.keep, on_prompt=keeper.on_prompt,
                on_chunk=lambda chunk: on_chunk(chunk, keeper),
            )  # fmt: skip
        return folder, video, told

    return make


def blocks_of(folder, marked=None):
    return [each.block for each in folder.snapshots() if marked is None or each.marked is marked]


def each_written(chunk, keeper):
    """Blocks are made no faster than snapshots are written, so that none is passed over."""
    wait_for(lambda: not keeper._queue.waits and chunk.block + 1 in blocks_of(keeper._folder))


def test_a_snapshot_is_due_at_the_start_every_so_many_seconds_and_at_the_end(kept):
    # two seconds are 32 pictures; the blocks end at 9, 21, 33, 45, 57, 69, 81, 93
    def slowly(chunk, keeper):
        wait_for(lambda: not keeper._queue.waits)

    folder, video, told = kept(8, Policy(every_seconds=2.0), on_chunk=slowly)
    assert video.reserved > folder.snapshots()[-1].bytes / 2, "room for the last one is kept"
    assert blocks_of(folder) == [0, 3, 6, 8] and told == []
    assert folder.read_about().ended.how == "planned"


def test_a_prompt_is_noted_and_its_first_state_is_marked(kept):
    script = scripted({2: Prompt(0, "5", "recache"), 4: Prompt(0, "6", "cut")})
    folder, _, _ = kept(6, Policy(every_seconds=1e6), script=script, on_chunk=lambda *_: time.sleep(0.3))
    assert set(blocks_of(folder, marked=True)) == {2, 4} and blocks_of(folder, marked=False) == [0, 6]
    assert read(folder.timeline) == [
        Event(0, 0, None, "", 7), Event(0, 0, "0", "smooth", 7),
        Event(2, 21, "5", "recache", 7), Event(4, 45, "6", "cut", 7),
    ]  # fmt: skip


def test_whoever_watches_can_mark_the_next_state(kept):
    def mark(chunk, keeper):
        if chunk.block == 1:
            keeper.mark()

    folder, _, _ = kept(4, Policy(every_seconds=1e6), on_chunk=mark)
    assert blocks_of(folder, marked=True) == [3]


def test_a_snapshot_waits_for_its_frames_and_the_blocks_do_not(kept):
    video = Video()
    video.may_go_on.clear()
    made = []

    def on_chunk(chunk, keeper):
        made.append(blocks_of(keeper._folder))
        if chunk.block == 5:
            video.may_go_on.set()

    folder, _, _ = kept(6, video=video, on_chunk=on_chunk)
    assert made == [[]] * 6, "nothing was written, and nobody waited"
    # one was on its way, one more waited, and the last is written in any case
    assert video.asked[0] == 0 and len(video.asked) <= 3 and blocks_of(folder)[-1] == 6


def test_frames_that_never_reach_the_disk_have_no_snapshot(kept):
    video = Video()
    video.reaches = lambda frames: frames <= 21
    folder, _, _ = kept(6, video=video, on_chunk=lambda *_: time.sleep(0.1))
    assert blocks_of(folder) and max(blocks_of(folder)) <= 2


def test_a_video_that_cannot_be_closed_has_no_last_snapshot(kept):
    class Broken(Video):
        def seal(self):
            raise RuntimeError("the disk is gone")

    folder, _, told = kept(3, Policy(every_seconds=1e6), video=Broken())
    assert blocks_of(folder) == [0] and told == []


def test_older_snapshots_are_thinned_to_the_budget(kept):
    folder, _, _ = kept(3, on_chunk=each_written, name="few")
    each = folder.snapshots()[-1].bytes
    folder, _, _ = kept(12, Policy(every_seconds=0, budget_bytes=6 * each), on_chunk=each_written)
    blocks = blocks_of(folder)
    assert len(blocks) <= 7 and blocks[0] == 0 and blocks[-3:] == [10, 11, 12]


def test_a_drive_is_not_written_to_without_a_rest(kept):
    folder, _, _ = kept(
        8, Policy(every_seconds=0, bytes_per_second=1.0), on_chunk=lambda *_: time.sleep(0.05)
    )
    assert blocks_of(folder) == [0, 8]


def full_disk(monkeypatch, fails):
    """Has snapshots fail to be written while `fails` says so."""
    write = keeper_module.write

    def full(captured, path):
        if fails(captured):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(captured, path)

    monkeypatch.setattr(keeper_module, "write", full)
    monkeypatch.setattr(keeper_module, "REST_SECONDS", 0.0)


def test_a_full_disk_is_told_once_and_the_video_goes_on(kept, monkeypatch):
    full_disk(monkeypatch, lambda captured: captured.block in (2, 3, 4))
    folder, video, told = kept(8, on_chunk=lambda *_: time.sleep(0.1))
    assert len(told) == 1 and "the disk is full. The video" in told[0] and "goes on and is whole" in told[0]
    assert video.frames_written == 93 and blocks_of(folder)[-1] == 8
    assert not set(blocks_of(folder)) & {2, 3, 4}


def test_a_full_disk_has_room_again_where_an_older_snapshot_goes(kept, monkeypatch):
    at = {"folder": None}

    def fails(captured):
        return captured.block == 7 and len(blocks_of(at["folder"])) == 7

    full_disk(monkeypatch, fails)

    def on_chunk(chunk, keeper):
        at["folder"] = keeper._folder
        each_written(chunk, keeper)

    folder, _, told = kept(8, on_chunk=on_chunk)
    assert told == [] and blocks_of(folder)[-2:] == [7, 8] and len(blocks_of(folder)) <= 8


def test_a_folder_that_is_deleted_comes_back(kept):
    def delete(chunk, keeper):
        if chunk.block == 3:
            shutil.rmtree(keeper._folder.path)

    folder, video, _ = kept(8, on_chunk=lambda chunk, keeper: (time.sleep(0.1), delete(chunk, keeper)))
    assert blocks_of(folder)[-1] == 8 and folder.read_about().ended.how == "planned"
    assert video.frames_written == 93


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(kept, studio):
    TakeFolder(studio.folder / "take.mp4").path.mkdir(mode=0o500)
    _, video, told = kept(3)
    assert video.frames_written == 33 and "Permission denied" in told[0]


def test_a_name_that_a_file_has_is_told_and_the_video_goes_on(kept, studio):
    TakeFolder(studio.folder / "take.mp4").path.write_text("in the way")
    _, video, told = kept(3)
    assert video.frames_written == 33 and told and "no snapshots are kept" in told[0]
    assert len(told) == len({each.split(":")[1] for each in told})


def test_a_clock_that_jumps_changes_nothing(kept, monkeypatch):
    clock = iter(range(10**9, -(10**9), -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    folder, _, _ = kept(6, on_chunk=each_written)
    assert blocks_of(folder) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_run_leaves_the_newest_state(kept, error):
    def end(chunk, keeper):
        if chunk.block == 3:
            raise error("the block broke")

    with pytest.raises(error):
        kept(6, Policy(every_seconds=1e6), on_chunk=end)


def test_how_it_ended_is_noted(kept, studio):
    folder = TakeFolder(studio.folder / "take.mp4")
    test_what_ends_the_run_leaves_the_newest_state(kept, RuntimeError)
    assert blocks_of(folder) == [0, 4]
    ended = folder.read_about().ended
    assert (ended.how, ended.sentence) == ("failed", "the block broke")
    test_what_ends_the_run_leaves_the_newest_state(kept, KeyboardInterrupt)
    assert folder.read_about().ended.how == "stopped"


def test_nothing_stays_of_a_take_that_came_to_its_end_where_that_is_wanted(kept):
    folder, _, _ = kept(3, Policy(every_seconds=0, stays=False))
    assert not folder.path.exists()


def test_the_picture_is_the_newest(kept):
    from PIL import Image

    folder, video, _ = kept(4, on_chunk=each_written)
    shown = np.asarray(Image.open(folder.picture)).astype(float)
    last, first = video.frames[-1].astype(float), video.frames[0].astype(float)
    # a JPEG of the same picture is nearer to it than to any other
    assert abs(shown - last).mean() < abs(shown - first).mean()


def test_whatever_goes_wrong_with_one_snapshot_the_next_is_written(kept, monkeypatch):
    write = keeper_module.write

    def odd(captured, path):
        if captured.block == 2:
            raise AttributeError("of an unforeseen kind")
        return write(captured, path)

    monkeypatch.setattr(keeper_module, "write", odd)
    monkeypatch.setattr(keeper_module, "REST_SECONDS", 0.0)
    folder, _, told = kept(6, on_chunk=lambda *_: time.sleep(0.1))
    assert blocks_of(folder)[-1] == 6 and 2 not in blocks_of(folder) and "unforeseen" in told[0]

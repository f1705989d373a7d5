"""Long runs: parts of so many hours or gigabytes, and a disk that fills up."""

import os

import pytest
from rivulet.model_patches.writer import disk, feeding, parts
from rivulet.model_patches.writer.disk import DiskLowError
from rivulet.model_patches.writer.joining import finish
from rivulet.model_patches.writer.parts import find_parts, frames_of
from rivulet.tests.waiting import wait_for

from .test_video import open_writer

__all__ = ["open_writer"]


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Returns a list whose last number is how many MiB the disk says are free."""
    monkeypatch.setattr(disk, "LOOK_SECONDS", 0)
    usage, left = disk.shutil.disk_usage(tmp_path), [10_000]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage._replace(free=left[-1] << 20))
    return left


def fill(writer, footage, frames=60, chunk=5):
    for first in range(writer.start_frame, frames, chunk):
        count = min(chunk, frames - first)
        writer.write(footage.frames(first, count))
        wait_for(lambda first=first, count=count: writer.frames_on_disk >= first + count - 1)


@pytest.mark.parametrize("options", [{"part_hours": 20 / 16 / 3600}, {"part_gigabytes": 1.5e-6}], ids=str)
def test_a_new_part_begins_at_its_length_and_the_parts_stay(open_writer, footage, tmp_path, options):
    told = []
    with open_writer(**options, tell=told.append) as writer:
        fill(writer, footage)
    assert len(writer.files) > 1 and writer.result == writer.files[0] == tmp_path / "take.part1.mp4"
    assert [n for path in writer.files for n in footage.numbers(path)] == [i % 50 for i in range(60)]
    if "part_hours" in options:
        assert [part.frames for part in find_parts(writer.path)] == [20, 20, 20]
    assert f"take.mp4 stays in {len(writer.files)} parts, take.part1.mp4 to take.part" in told[0]
    assert "python run.py recover" in told[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in writer.files]
    # and go on: the parts are the take
    with open_writer(**options, start_frame=33, tell=told.append) as writer:
        fill(writer, footage)
    assert [n for path in writer.files for n in footage.numbers(path)] == [i % 50 for i in range(60)]
    assert footage.numbers(finish(writer.path)) == [i % 50 for i in range(60)]


def test_a_video_of_one_part_is_finished_as_always(open_writer, footage, tmp_path):
    with open_writer(part_hours=1) as writer:
        fill(writer, footage)
    assert writer.files == [writer.result] == [tmp_path / "take.mp4"]


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, 1e7], ids=str)
def test_a_length_that_is_none_is_refused(open_writer, value):
    with pytest.raises(ValueError, match="part_hours must be more than 0, or none for no limit, got"):
        open_writer(part_hours=value)


def test_a_run_is_told_before_the_disk_is_full_and_stopped_when_it_nearly_is(open_writer, footage, free):
    with pytest.raises(DiskLowError, match=r"has 20 MiB free, so the run stops here and keeps"):  # noqa: SIM117
        with open_writer() as writer:
            fill(writer, footage, 10)
            wait_for(lambda: writer.frames_on_disk >= 9)
            assert writer.low_disk == ""
            free.append(40)
            fill_more(writer, footage, 10)
            wait_for(lambda: writer.low_disk)
            assert "has 40 MiB free, so the run stops here" in writer.low_disk
            free.append(20)
            fill_more(writer, footage, 15)
            wait_for(lambda: "20 MiB" in writer.low_disk)
            fill_more(writer, footage, 20)
    # what was taken is whole, and the refused chunk is not claimed
    assert writer.frames_written == frames_of(writer.path) == 20
    assert footage.numbers(writer.result) == list(range(20))


def fill_more(writer, footage, first):
    writer.write(footage.frames(first, 5))


def test_room_for_what_else_is_kept_counts(open_writer, footage, free):
    free.append(100)
    with open_writer() as writer:
        fill_more(writer, footage, 0)
        wait_for(lambda: writer.frames_on_disk >= 4)
        assert writer.low_disk == ""
        writer.reserve(60 << 20)
        assert "has 100 MiB free" in writer.low_disk


@pytest.mark.parametrize("count", [1, 3], ids="{}_parts".format)
def test_what_cannot_be_joined_for_lack_of_room_stays_whole_and_is_told(
    open_writer, footage, tmp_path, free, count
):
    told = []
    with open_writer(tell=told.append) as writer:
        for first in range(0, 10 * count, 10):
            writer.write(footage.frames(first, 10))
            writer.seal()
        free.append(5)
    assert [n for path in writer.files for n in footage.numbers(path)] == list(range(10 * count))
    if count == 1:
        assert writer.result == tmp_path / "take.mp4" and "is kept as it grew" in told[-1]
        assert os.listdir(tmp_path) == ["take.mp4"]
    else:
        assert writer.result == tmp_path / "take.part1.mp4"
        assert "stays in 3 parts" in told[-1] and "5 MiB free" in told[-1]
    free.append(10_000)
    with open_writer(start_frame=7) as writer:
        writer.write(footage.frames(7, 5))
    assert footage.numbers(writer.result) == list(range(12))


def test_that_joining_will_not_fit_is_told_while_the_run_goes_on(open_writer, footage, free, monkeypatch):
    monkeypatch.setattr(feeding, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(disk, "STOP_BYTES", 5 << 20)
    monkeypatch.setattr(disk, "LOW_BYTES", 5 << 20)
    told = []
    with open_writer(tell=told.append) as writer:
        writer._feed._bytes = 70 << 20  # of parts before
        free.append(70)
        fill(writer, footage)
        writer.seal()
        assert writer.low_disk == ""
        free.append(10_000)
    assert len(told) == 1 and "joining this video takes 70 MiB; unless some are freed" in told[0]


def test_a_video_that_there_is_no_room_to_cut_stays_as_it_is(open_writer, footage, free, tmp_path):
    with open_writer() as writer:
        fill(writer, footage)
    free.append(64)
    monkey = parts.SPARE_BYTES
    try:
        parts.SPARE_BYTES = 100 << 20
        with pytest.raises(RuntimeError, match=r"needed to cut take.mp4, and .* has 64 MiB free"):
            open_writer(start_frame=7).__enter__()
    finally:
        parts.SPARE_BYTES = monkey
    assert frames_of(tmp_path / "take.mp4") == 60
    with open_writer(start_frame=60) as writer:
        pass
    assert footage.numbers(writer.result) == [i % 50 for i in range(60)]

"""Going on with a video that is there, finished or in parts: one file in the end, every frame once."""

import os
import shutil
import subprocess
from fractions import Fraction

import pytest
from rivulet.model_patches.writer import parts, reopen
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.joining import copy_tail, finish
from rivulet.model_patches.writer.movie import frame_count, read_movie
from rivulet.model_patches.writer.parts import frames_of, part_path
from rivulet.model_patches.writer.video import Mp4Writer

from .test_video import open_writer

__all__ = ["open_writer"]


def make(open_writer, footage, frames=25, first=0, **options):
    """Writes a finished video of so many frames, or goes on with it."""
    with open_writer(start_frame=first, keyframe_frames=8, **options) as writer:
        for at in range(first, frames, 10):
            writer.write(footage.frames(at, min(10, frames - at)))
    return writer


@pytest.mark.parametrize("frame", [25, 24, 17, 16, 8, 1], ids="frame{}".format)
def test_a_finished_video_is_gone_on_with_in_its_own_file(open_writer, footage, tmp_path, frame):
    make(open_writer, footage)
    assert frames_of(tmp_path / "take.mp4") == 25
    writer = make(open_writer, footage, frame + 7, first=frame)
    assert writer.result == tmp_path / "take.mp4"
    assert footage.numbers(writer.result) == list(range(frame + 7))
    assert os.listdir(tmp_path) == ["take.mp4"]
    shown = read_movie(writer.result)
    assert (shown.frames, shown.fps, shown.width, shown.height) == (frame + 7, 16, 32, 16)


def test_a_video_is_gone_on_with_again_and_again(open_writer, footage):
    for frames, first in ((10, 0), (20, 8), (30, 17), (40, 30), (41, 5)):
        writer = make(open_writer, footage, frames, first=first)
    assert footage.numbers(writer.result) == list(range(41))


def test_from_its_first_frame_only_where_it_is_asked_for(open_writer, footage):
    make(open_writer, footage)
    with pytest.raises(ValueError, match="exists already and stays as it is"):
        make(open_writer, footage)
    with open_writer(go_on=True) as writer:
        writer.write(footage.frames(40, 3))
    assert footage.numbers(writer.result) == [40, 41, 42]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fps": 24}, r"mp4 is 32x16 pixels at 16 frames per second, and this run makes 32x16 at 24; set"),
        ({"fps": Fraction(16000, 1001)}, r"at 16 frames per second, and this run makes 32x16 at 15.984;"),
        ({"width": 64}, "is 32x16 pixels .* makes 64x16"),
        ({"start_frame": 26}, "resumes at frame 26, but .* holds only 25 frames of take.mp4"),
    ],
    ids=lambda x: str(x)[:20],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "in parts"])
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    open_writer, footage, tmp_path, options, words, finished
):
    make(open_writer, footage)
    if not finished:
        (tmp_path / "take.mp4").rename(part_path(tmp_path / "take.mp4", 1))
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    with pytest.raises(ValueError, match=words):
        open_writer(**{"start_frame": 9, **options}).__enter__()
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "in parts"])
@pytest.mark.parametrize("frame", [0, 9])
def test_a_run_that_fails_before_its_first_frame_leaves_every_frame(
    open_writer, footage, tmp_path, frame, finished
):
    take = tmp_path / "take.mp4"
    make(open_writer, footage)
    before = take.read_bytes()
    if not finished:
        take.rename(part_path(take, 1))
    with pytest.raises(ArithmeticError), open_writer(start_frame=frame, go_on=True) as writer:
        assert writer.wait_on_disk(frame) and writer.frames_on_disk == frame
        raise ArithmeticError
    assert writer.result == take and os.listdir(tmp_path) == ["take.mp4"]
    assert take.read_bytes() == before or not finished
    assert footage.numbers(take) == list(range(25))


def test_a_run_that_ends_without_a_frame_ends_its_video_there(open_writer, footage):
    make(open_writer, footage)
    with open_writer(start_frame=9) as writer:
        pass
    assert footage.numbers(writer.result) == list(range(9))


def encode(path, *options):
    command = [
        find_ffmpeg(),
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=32x16:rate=16:duration=2",
    ]
    subprocess.run([*command, *options, "-pix_fmt", "yuv420p", "-y", str(path)], check=True)


TONE = ("-f", "lavfi", "-i", "sine=duration=2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-c:v", "libx264", "-bf", "2"), "holds its frames in another order than they are shown in"),
        (("-c:v", "mpeg4"), "is coded as mp4v and not as H.264"),
        (
            (*TONE, "-c:v", "libx264", "-bf", "0", "-map", "0", "-map", "1", "-map", "1"),
            "has tracks beside its pictures and one sound",
        ),
    ],
    ids=["reordered", "mpeg4", "two sounds"],
)
def test_what_another_program_changed_is_refused(open_writer, tmp_path, options, words):
    encode(tmp_path / "take.mp4", *options)
    with pytest.raises(ValueError, match=words):
        open_writer(start_frame=9).__enter__()


@pytest.mark.parametrize("more", [(), TONE], ids=["silent", "with a sound"])
def test_any_other_mp4_of_the_same_kind_can_be_gone_on_with(open_writer, footage, tmp_path, more):
    encode(tmp_path / "take.mp4", *more, "-c:v", "libx264", "-bf", "0")
    before = footage.decode(tmp_path / "take.mp4")
    with open_writer(start_frame=9) as writer:
        writer.write(footage.frames(9, 4))
    assert (footage.decode(writer.result)[:9] == before[:9]).all()
    assert footage.numbers(writer.result)[9:] == [9, 10, 11, 12]


class Killed(BaseException):
    """The program ends here."""


STEPS = [
    (parts.Path, "rename"),
    (parts.Path, "replace"),
    (parts.Path, "unlink"),
    (parts.os, "truncate"),
    (parts.os, "link"),
    (parts, "copy"),
    (parts, "sync"),
    (reopen, "sync"),
]


@pytest.mark.parametrize(("frame", "ended"), [(25, True), (12, True), (12, False)], ids=str)
def test_a_kill_between_any_two_steps_leaves_a_take_that_plays(
    open_writer, footage, tmp_path, monkeypatch, frame, ended
):
    take, copies = tmp_path / "take.mp4", tmp_path / "copies"
    with open_writer(keyframe_frames=8) as writer:
        for at in (0, 10, 20):
            writer.write(footage.frames(at, 10 if at < 20 else 5))
            writer.seal()
        if not ended:
            writer._finish = lambda: None
    copies.mkdir()
    for file in tmp_path.glob("*.mp4"):
        shutil.copy(file, copies)
    for last in range(100):
        for file in tmp_path.glob("take*"):
            file.unlink()
        for file in copies.iterdir():
            shutil.copy(file, tmp_path)
        done = interrupted(monkeypatch, last, lambda: make(open_writer, footage, frame + 2, first=frame))
        # what is left holds all before the frame, and then at most what was there or was made
        numbers = [n for part in parts.files_of(take) for n in footage.numbers(part.path)]
        assert numbers[:frame] == list(range(frame))
        assert numbers == list(range(len(numbers)))
        assert frames_of(take) == len(numbers)
        make(open_writer, footage, frame + 2, first=frame)
        assert footage.numbers(take) == list(range(frame + 2))
        assert sorted(os.listdir(tmp_path)) == ["copies", "take.mp4"]
        if done:
            break
    assert done and last >= 5


def interrupted(monkeypatch, last, work):
    """Does the work up to step `last`, and no step more; returns whether it was done by then."""
    count = 0

    def counted(step):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count > last:
                raise Killed
            return step(*arguments, **options)

        return wrapper

    with monkeypatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
        except (Killed, RuntimeError):  # the writer's thread tells what ended it
            if count <= last:
                raise
            return False
    return True


@pytest.mark.parametrize("frame", [0, 7, 8, 13, 24], ids="frame{}".format)
@pytest.mark.parametrize("kind", ["finished", "one part", "parts"])
def test_the_end_of_a_take_is_copied_from_a_key_frame_on(open_writer, footage, tmp_path, frame, kind):
    take, tail = tmp_path / "take.mp4", tmp_path / "take_tail1.mp4"
    with open_writer(keyframe_frames=8) as writer:
        for at in (0, 12):
            writer.write(footage.frames(at, 12 if at == 0 else 13))
            if kind == "parts":
                writer.seal()
        if kind != "finished":
            writer._finish = lambda: None
    keyframe = frame // 8 * 8 if kind != "parts" or frame < 12 else 12 + (frame - 12) // 8 * 8
    names = sorted(os.listdir(tmp_path))
    assert copy_tail(take, frame, tail) == keyframe
    assert footage.numbers(tail) == list(range(keyframe, 25))
    assert read_movie(tail).keyframes[0] == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "take_tail1.mp4"])
    assert frames_of(take) == 25
    with pytest.raises(ValueError, match="exists already and stays"):
        copy_tail(take, frame, tail)
    with pytest.raises(ValueError, match="has 25 frames, so none is number 25"):
        copy_tail(take, 25, tmp_path / "other.mp4")


def test_a_name_that_is_taken_meanwhile_is_left_alone_and_told(open_writer, footage, tmp_path):
    told = []
    with open_writer(tell=told.append) as writer:
        writer.write(footage.frames(0, 9))
        (tmp_path / "take.mp4").write_bytes(b"somebody's")
    assert (tmp_path / "take.mp4").read_bytes() == b"somebody's"
    assert writer.result == tmp_path / "take_2.mp4"
    assert footage.numbers(writer.result) == list(range(9))
    assert "take.mp4 was there by now and stays as it is" in told[0]
    assert sorted(os.listdir(tmp_path)) == ["take.mp4", "take_2.mp4"]


def test_what_cannot_be_read_under_the_videos_name_is_set_aside_where_its_parts_are_whole(
    open_writer, footage, tmp_path
):
    take, told = tmp_path / "take.mp4", []
    make(open_writer, footage)
    take.rename(part_path(take, 1))
    take.write_bytes(b"\0" * 5000)
    writer = make(open_writer, footage, 30, first=20, tell=told.append)
    assert footage.numbers(writer.result) == list(range(30))
    assert (tmp_path / "take.broken1.mp4").read_bytes() == b"\0" * 5000
    assert "is called take.broken1.mp4 now" in told[0]


def test_a_finished_video_that_was_cut_is_gone_on_with_as_far_as_it_is_whole(open_writer, footage, tmp_path):
    take = make(open_writer, footage, 40).result
    data = take.read_bytes()
    take.write_bytes(data[: len(data) - 60])
    whole = frames_of(take)
    assert 0 < whole < 40
    with pytest.raises(ValueError, match=rf"holds only {whole} frames"):
        open_writer(start_frame=whole + 1).__enter__()
    writer = make(open_writer, footage, 45, first=whole)
    assert footage.numbers(writer.result) == list(range(45))


def test_a_writer_of_one_path_at_a_time(open_writer, footage, tmp_path):
    with open_writer() as writer:
        writer.write(footage.frames(0, 9))
        with pytest.raises(
            ValueError, match=r"take.mp4 is being written by this program \(process \d+, since"
        ):
            open_writer(start_frame=5).__enter__()
        with pytest.raises(ValueError, match="is being written by"):
            finish(writer.path)
    assert footage.numbers(writer.result) == list(range(9))


def test_frames_are_on_disk_when_that_was_waited_for(open_writer, footage):
    with open_writer() as writer:
        writer.write(footage.frames(0, 9))
        assert writer.wait_on_disk(8)
        assert sum(part.frames for part in parts.find_parts(writer.path)) >= 8
        writer.seal()
        assert writer.wait_on_disk(9) and writer.frames_on_disk == 9
    assert not writer.wait_on_disk(10)
    assert writer.wait_on_disk(9)


def test_a_refused_writer_can_be_left(tmp_path):
    writer = Mp4Writer(tmp_path / "take.mp4", width=32, height=16, fps=16)
    assert (writer.frames_on_disk, writer.wait_on_disk(0), writer.low_disk) == (0, False, "")
    assert frame_count.__module__ and not os.listdir(tmp_path)

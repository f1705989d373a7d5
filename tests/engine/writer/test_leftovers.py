"""What dead runs leave beside a video, and the command that makes videos of their parts."""

import os

import pytest
from rivulet.model_patches.writer.copying import working_files
from rivulet.model_patches.writer.lock import FileLock
from rivulet.model_patches.writer.parts import joined_path, part_path
from rivulet.model_patches.writer.recover import main

from .test_video import open_writer

__all__ = ["open_writer"]


@pytest.fixture
def take(tmp_path):
    return tmp_path / "take.mp4"


@pytest.mark.parametrize("content", [b"", bytes(4000), "header"], ids=["empty", "zeros", "header"])
def test_a_stub_without_a_frame_does_not_keep_its_name(open_writer, footage, take, recording, content):
    part_path(take, 1).write_bytes(recording[:700] if content == "header" else content)
    with open_writer() as writer:
        writer.write(footage.frames(0, 5))
    assert footage.numbers(writer.result) == list(range(5))
    assert os.listdir(take.parent) == ["take.mp4"]


def test_what_was_begun_goes_at_the_next_start_and_others_files_stay(open_writer, footage, take):
    others = [
        take.with_name("other.mp4.joining"),
        take.with_name("take.part1.avi"),
        take.with_name("take2.part1.mp4"),
    ]
    for path in [*working_files(take), *working_files(part_path(take, 1)), *others]:
        path.write_bytes(b"half")
    part_path(take, 1).write_bytes(b"")
    with open_writer() as writer:
        writer.write(footage.frames(0, 5))
    assert sorted(os.listdir(take.parent)) == sorted(["take.mp4", *(path.name for path in others)])


def test_nothing_goes_while_another_writes(open_writer, footage, take):
    with open_writer() as writer:
        writer.write(footage.frames(0, 5))
        working = working_files(take)[0]
        working.write_bytes(b"half")
        with pytest.raises(ValueError, match="is being written by"):
            open_writer().__enter__()
        assert main([str(take)]) == 2
        assert working.exists()


def leave(open_writer, footage, frames=25):
    """Leaves the parts that a killed run would leave."""
    with open_writer(metadata={"title": "lost"}) as writer:
        for first in range(0, frames, 10):
            writer.write(footage.frames(first, min(10, frames - first)))
            writer.seal()
        writer._finish = lambda: None


@pytest.mark.parametrize("named", ["take.mp4", "take.part2.mp4", "."])
def test_the_command_makes_a_video_of_what_a_run_left(open_writer, footage, take, named, capsys):
    leave(open_writer, footage)
    assert main([str(take.parent / named)]) == 0
    assert capsys.readouterr().out == f"{take}: 25 frames\n"
    assert footage.numbers(take) == list(range(25))
    assert os.listdir(take.parent) == ["take.mp4"]


def test_the_command_says_what_it_cannot_do(open_writer, footage, take, capsys):
    assert main([str(take)]) == 2
    assert "holds no whole frame of take.mp4" in capsys.readouterr().err
    assert main([str(take.parent)]) == 2
    assert "holds no parts of an unfinished video" in capsys.readouterr().err
    assert main([str(take.parent / "no" / "folder.mp4")]) == 2
    leave(open_writer, footage)
    with FileLock(take):
        assert main([str(take)]) == 2
        assert "take.mp4 is being written by this program" in capsys.readouterr().err
        assert main([str(take.parent)]) == 0
        assert "take.mp4 is still being written, and stays as it is" in capsys.readouterr().err
    assert main([str(take)]) == 0
    assert main([str(take)]) == 2
    assert "is finished already" in capsys.readouterr().err


def test_a_video_that_was_joined_and_not_yet_named_is_named(open_writer, footage, take):
    leave(open_writer, footage)
    assert main([str(take)]) == 0
    take.rename(joined_path(take))
    part_path(take, 3).write_bytes(b"what it already holds")
    assert main([str(take)]) == 0
    assert os.listdir(take.parent) == ["take.mp4"]
    # the same, killed between giving the new name and taking the old one away
    os.link(take, joined_path(take))
    assert main([str(take.parent)]) == 0
    assert os.listdir(take.parent) == ["take.mp4"]

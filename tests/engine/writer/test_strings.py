"""Text that a person, a page or a shell passes: what cannot be written is found before the work."""

import os
from pathlib import Path

import pytest
from rivulet.model_patches.writer import copying
from rivulet.model_patches.writer.copying import working_files
from rivulet.model_patches.writer.joining import finish
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.parts import part_path
from rivulet.model_patches.writer.text import plain, text_problem
from rivulet.model_patches.writer.video import Mp4Writer

from .test_video import open_writer, posix, read_tags

__all__ = ["open_writer"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red circle, ein Kreis, 円, 🟥\n", ""),
        ("a\0b", "it has a NUL"),
        ("a \ud83d", "its letter 3 is no letter of any script (a lone surrogate)"),
        ("\udcff", "its letter 1 is no letter of any script (a lone surrogate)"),
    ],
)
def test_what_cannot_be_written_is_named(text, words):
    assert text_problem(text) == words
    assert text_problem(plain(text)) == ""
    assert (plain(text) == text) is (words == "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("take\ud800.mp4", r"take\?.mp4' cannot be a path: its letter \d+ is no letter of any script"),
        ("take\udcff.mp4", r"cannot be a path: its letter \d+ is no letter"),
        ("\udcff/take.mp4", r"cannot be a path: its letter \d+ is no letter"),
        ("ta\0ke.mp4", "it has a NUL"),
        ("ta\nke.mp4", "has a line break; choose another name"),
        ("fol\rder/take.mp4", "has a line break"),
        ("x" * 230 + ".mp4", r"is 1 bytes too long for the parts of its video; choose a shorter one"),
        ("円" * 100 + ".mp4", "is 71 bytes too long"),
        ("take.avi", r"must end in .mp4, got 'take.avi'"),
        ("take", r"must end in .mp4, got 'take'"),
    ],
    ids=lambda x: ascii(x)[:16],
)
def test_a_path_that_cannot_be_is_refused_before_anything_is_made(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        Mp4Writer(tmp_path / name, width=32, height=16, fps=16)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["x" * 229, "円" * 76, "a 'quoted' [b] (c) %d #1 -y; $(e)", "-y", "a\\b" if os.name == "posix" else "a"],
)
def test_any_other_name_is_written_and_joined(tmp_path, footage, name):
    with Mp4Writer(tmp_path / f"{name}.mp4", width=32, height=16, fps=16) as writer:
        writer.write(footage.frames(0, 3))
        writer.seal()
        writer.write(footage.frames(3, 2))
    assert writer.result == tmp_path / f"{name}.mp4"
    assert frame_count(writer.result) == 5
    assert os.listdir(tmp_path) == [f"{name}.mp4"]


TEXTS = [
    {"title": "a lone \ud83d surrogate"},
    {"title": "a\0b", "comment": "c"},
    {"title": "x" * 5_000_000},
    {"": "no name", "title": "t"},
    {"a=b;c#d\\e\nf": "g=h;i#j\\k\nl", "title": "t"},
    {"[CHAPTER]": "[CHAPTER]\nSTART=0", "title": "[STREAM]"},
    {"title": "\r\n\r", "\ud800": "\udfff"},
    {"title": 7, 8: None},
]


@pytest.mark.parametrize("metadata", TEXTS, ids=range(len(TEXTS)))
def test_no_text_of_the_metadata_can_make_the_end_fail(open_writer, footage, metadata):
    with open_writer() as writer:
        writer.write(footage.frames(0, 5))
        writer.describe(metadata)
    assert footage.numbers(writer.result) == list(range(5))


@pytest.mark.parametrize("metadata", TEXTS, ids=range(len(TEXTS)))
def test_no_text_of_the_metadata_can_make_the_beginning_fail(open_writer, footage, metadata, caplog):
    with open_writer(metadata=metadata) as writer:
        writer.write(footage.frames(0, 5))
        writer.seal()
        assert footage.numbers(part_path(writer.path, 1)) == list(range(5))
    assert not caplog.records
    assert footage.numbers(writer.result) == list(range(5))


def test_a_letter_that_cannot_be_written_is_a_question_mark(open_writer, footage):
    with open_writer(metadata={"title": "half \ud83d of a pair", "comment": "whole 🟥"}) as writer:
        writer.write(footage.frames(0, 5))
    tags = read_tags(writer.result)
    assert (tags["title"], tags["comment"]) == ("half ? of a pair", "whole 🟥")


def test_tags_that_ffmpeg_refuses_are_left_out_and_told(open_writer, footage, monkeypatch, caplog):
    run = copying._run

    def refuse(command, *others):
        if working_files(writer.path)[2].read_text() != ";FFMETADATA1\n":
            raise RuntimeError("ffmpeg stopped with code 1: no such tag")
        run(command, *others)

    monkeypatch.setattr(copying, "_run", refuse)
    with open_writer(metadata={"title": "t"}) as writer:
        writer.write(footage.frames(0, 5))
    assert footage.numbers(writer.result) == list(range(5))
    assert "take.mp4 is made without its tags (ffmpeg stopped with code" in caplog.text


@posix
def test_a_command_line_that_is_not_utf_8_is_refused(tmp_path):
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    with pytest.raises(ValueError, match="is no letter of any script"):
        Mp4Writer(bad, width=32, height=16, fps=16)
    with pytest.raises(ValueError, match="is no letter of any script"):
        finish(bad)

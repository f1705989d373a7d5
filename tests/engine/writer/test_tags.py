"""What a video says of itself, from its first byte on and through whatever happens to it."""

import json
import subprocess

import pytest
from rivulet.model_patches.writer.boxes import without_tags
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.fmp4 import FragmentIndex
from rivulet.model_patches.writer.joining import copy_tail, finish
from rivulet.model_patches.writer.parts import find_parts, part_path
from rivulet.model_patches.writer.tags import TagsFile, read_tags
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.tests.waiting import wait_for

GRAPH = json.dumps({"1": {"text": 'a "red" circle; #1 = best\nand a \\ square', "more": "Zoë " * 30_000}})
TAGS = {"prompt": GRAPH, "workflow": "{}", "title": "a take"}


@pytest.fixture
def opened(tmp_path, footage):
    def make(**options):
        sizes = {"width": footage.width, "height": footage.height, "fps": 16, "keyframe_frames": 4}
        return Mp4Writer(tmp_path / "take.mp4", **{**sizes, "metadata": TAGS, **options})

    return make


def shown(path):
    """The tags as ffmpeg reads them, escaped."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-f", "ffmetadata", "-"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


def test_the_live_part_has_its_tags_before_its_first_frame_is_whole(opened, footage, tmp_path):
    with opened() as writer:
        writer.write(footage.frames(0, 2))
        part, dropped = part_path(writer.path, 1), tmp_path / "dropped.mp4"
        wait_for(lambda: part.exists() and read_tags(part))
        dropped.write_bytes(part.read_bytes())
        assert read_tags(dropped) == TAGS
        assert "workflow={}" in shown(dropped) and "title=a take" in shown(dropped)
        writer.write(footage.frames(2, 2))
        wait_for(lambda: not list(tmp_path.glob("*.tags")))


def test_players_are_sent_no_tags(opened, footage, tmp_path):
    with opened() as writer:
        writer.write(footage.frames(0, 6))
        writer.seal()
        part = part_path(writer.path, 1)
        index = FragmentIndex(part)
        index.extend()
        assert part.stat().st_size > len(GRAPH) > len(index.init)
        seen = tmp_path / "seen.mp4"
        seen.write_bytes(index.init + index.read(0)[0])
        index.close()
    assert footage.numbers(seen) == list(range(6))
    assert read_tags(seen) == {}
    assert without_tags(b"") == b"" and without_tags(b"no box") == b"no box"


def test_a_video_that_was_cut_off_keeps_its_tags(opened, footage, tmp_path):
    part = tmp_path / "take.part1.mp4"
    with opened() as writer:
        writer.write(footage.frames(0, 6))
        writer.seal()
        left = part.read_bytes()
    writer.path.unlink()
    part.write_bytes(left[:-200])
    made = finish(writer.path)
    assert read_tags(made) == TAGS
    assert len(footage.numbers(made)) >= 5


def test_the_newest_run_says_what_the_video_was_made_from(opened, footage):
    with opened() as writer:
        writer.write(footage.frames(0, 8))
    with opened(start_frame=8, metadata={"prompt": "newer"}) as writer:
        writer.write(footage.frames(8, 4))
        writer.seal()
        parts = [part.path for part in find_parts(writer.path)]
        assert [read_tags(part)["prompt"] for part in parts] == [GRAPH, "newer"]
        left = [part.read_bytes() for part in parts]
    assert read_tags(writer.path) == {"prompt": "newer"}
    writer.path.unlink()
    for part, data in zip(parts, left, strict=True):
        part.write_bytes(data)
    assert read_tags(finish(writer.path)) == {**TAGS, "prompt": "newer"}  # as a kill would have left it


def test_what_is_described_later_is_in_later_parts_and_the_finished_video(opened, footage):
    with opened() as writer:
        writer.write(footage.frames(0, 4))
        writer.seal()
        writer.describe({"title": "another", "rivulet_timeline": "[0s] a"})
        writer.write(footage.frames(4, 4))
        writer.seal()
        first, second = (read_tags(part.path) for part in find_parts(writer.path))
    assert first == TAGS
    assert second == {**TAGS, "title": "another", "rivulet_timeline": "[0s] a"} == read_tags(writer.result)


def test_a_tail_that_is_cut_off_has_the_tags_of_its_video(opened, footage, tmp_path):
    with opened() as writer:
        writer.write(footage.frames(0, 12))
    copy_tail(writer.path, 6, tmp_path / "tail.mp4")
    assert read_tags(tmp_path / "tail.mp4") == TAGS
    assert footage.numbers(tmp_path / "tail.mp4") == list(range(4, 12))


def test_tags_that_every_player_reads_come_back_too(opened, footage):
    tags = {"title": "Zoë; a = take", "comment": "x", "description": "y", "date": "2026"}
    with opened(metadata=tags) as writer:
        writer.write(footage.frames(0, 2))
    assert read_tags(writer.result) == tags


def test_an_ffmpeg_that_dies_of_its_tags_costs_no_frame(opened, footage, monkeypatch):
    def broken(self, metadata):
        self.path.write_text("no FFMETADATA")
        return self.path

    monkeypatch.setattr(TagsFile, "write", broken)
    with opened() as writer:
        writer.write(footage.frames(0, 6))
    assert footage.numbers(writer.result) == list(range(6))
    assert read_tags(writer.result) == TAGS


def test_without_tags_a_part_has_none(opened, footage):
    with opened(metadata=None) as writer:
        writer.write(footage.frames(0, 2))
        writer.seal()
        assert read_tags(part_path(writer.path, 1)) == {}

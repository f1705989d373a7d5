import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from rivulet.model_patches.writer import disk, feeding
from rivulet.model_patches.writer.encoding import Encoding
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.joining import finish
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.parts import find_parts, part_path
from rivulet.model_patches.writer.progress import stop
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.tests.waiting import wait_for

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def indexed(writer):
    """Returns how many frames the live file shows."""
    if writer.index is None:
        return 0
    writer.index.extend()
    return writer.index.frames


@pytest.fixture
def open_writer(tmp_path, footage):
    def make(**options):
        sizes = {"width": footage.width, "height": footage.height, "fps": 16}
        return Mp4Writer(tmp_path / "take.mp4", **{**sizes, **options})

    return make


@pytest.fixture
def encoders(monkeypatch):
    """Returns the list of ffmpeg processes that writers start."""
    started = []
    start = feeding.Encoder.__init__

    def noted(self, *arguments):
        start(self, *arguments)
        started.append(self.process)

    monkeypatch.setattr(feeding.Encoder, "__init__", noted)
    return started


@pytest.mark.parametrize("chunk", [1, 9, 12, 53], ids="chunk{}".format)
def test_every_frame_comes_back_in_order_however_it_was_cut(open_writer, footage, tmp_path, chunk):
    with open_writer() as writer:
        for frames in footage.frames(0, 53).split(chunk):
            writer.write(frames)
        assert writer.frames_written == 53
    assert writer.result == tmp_path / "take.mp4"
    assert footage.numbers(writer.result) == [i % 50 for i in range(53)]
    assert os.listdir(tmp_path) == ["take.mp4"]


def test_colours_come_back(open_writer, footage):
    colours = 200 * torch.eye(3, dtype=torch.uint8)
    with open_writer(encoding=Encoding(crf=0)) as writer:
        writer.write(colours[:, None, None].expand(3, footage.height, footage.width, 3))
    # each of Y, Cb, Cr is rounded once, half a step; the way back weighs them by 1.17 and 2.12 and rounds
    for frame, colour in zip(footage.decode(writer.result), colours.numpy().astype(int), strict=True):
        assert np.abs(frame - colour).max() <= 0.5 * (1.17 + 2.12) + 0.5 + 1


def test_the_finished_file_starts_with_its_header_and_carries_what_it_was_made_from(open_writer, footage):
    story = {"prompt": 'a "red" circle; #1 = best\nand a \\ square', "seed": 7}
    metadata = {"title": "Zoë; a = take", "comment": json.dumps(story)}
    with open_writer(metadata=metadata) as writer:
        writer.write(footage.frames(0, 3))
        writer.metadata["description"] = "made known at the end"
    data = writer.result.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"moof" not in data
    assert read_tags(writer.result) | metadata == read_tags(writer.result)
    assert read_tags(writer.result)["description"] == "made known at the end"


def test_free_names_of_metadata_are_kept_too(open_writer, footage):
    with open_writer(metadata={"workflow": "{}" * 40_000}) as writer:
        writer.write(footage.frames(0, 3))
    assert read_tags(writer.result)["workflow"] == "{}" * 40_000


def read_tags(path):
    told = subprocess.run(
        [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-f", "ffmetadata", "-"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    tags, escaped, key, text = {}, False, None, ""
    for letter in told.partition("\n")[2]:
        if escaped or letter not in "\\=\n" or (letter == "=" and key is not None):
            text, escaped = text + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == "=":
            key, text = text, ""
        elif key is not None:
            tags[key], key, text = text, None, ""
    return tags


@pytest.mark.parametrize("fps", [16, 12.5, 30000 / 1001], ids=str)
def test_every_frame_is_shown_for_the_same_time(open_writer, footage, fps):
    with open_writer(fps=fps) as writer:
        writer.write(footage.frames(0, 10))
        writer.seal()
        writer.write(footage.frames(10, 7))
    shown = subprocess.run(
        [find_ffmpeg(), "-loglevel", "info", "-i", str(writer.result), "-vf", "showinfo", "-f", "null", "-"],
        capture_output=True,
        text=True,
    ).stderr
    times = [float(word.split(":")[1]) for word in shown.split() if word.startswith("pts_time:")]
    # printed with six digits
    assert times == pytest.approx([i / fps for i in range(17)], abs=2e-6)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt], ids=lambda e: e.__name__)
def test_an_error_keeps_what_was_written_as_a_finished_file(open_writer, footage, error):
    with pytest.raises(error), open_writer() as writer:
        writer.write(footage.frames(0, 20))
        raise error
    assert footage.numbers(writer.result) == list(range(20))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(2, 16, 32, 3), r"must be uint8 in 0 to 255, got torch.float32; scale and round"),
        (np.zeros((2, 16, 32, 3), np.int16), "must be uint8"),
        (torch.zeros(2, 32, 16, 3, dtype=torch.uint8), r"got \[2, 32, 16, 3\]"),
        (torch.zeros(2, 3, 16, 32, dtype=torch.uint8), r"must be \[F, 16, 32, 3\] \(height 16, width 32"),
        (torch.zeros(16, 32, 3, dtype=torch.uint8), r"got \[16, 32, 3\]"),
        ([[0]], "got list"),
    ],
    ids=["float", "int16", "turned", "channels first", "one frame", "list"],
)
def test_wrong_frames_are_refused_and_the_earlier_ones_stay(open_writer, footage, bad, words):
    with pytest.raises(ValueError, match=words), open_writer() as writer:
        writer.write(footage.frames(0, 4))
        writer.write(bad)
    assert footage.numbers(writer.result) == [0, 1, 2, 3]


def test_frames_are_copied_so_that_the_caller_may_use_its_buffer_again(open_writer, footage):
    buffer = footage.frames(7, 1).clone()
    with open_writer() as writer:
        writer.write(buffer)
        writer.write(buffer.numpy())
        buffer.zero_()
        writer.seal()
    assert footage.numbers(writer.result) == [7, 7]


def test_without_a_frame_there_is_no_file(open_writer, footage, tmp_path):
    with open_writer() as writer:
        writer.write(footage.frames(0, 0))
    assert writer.result is None
    assert os.listdir(tmp_path) == []


def test_sealing_puts_every_frame_on_disk(open_writer, footage, tmp_path):
    with open_writer() as writer:
        for first in (0, 5, 10):
            writer.write(footage.frames(first, 5))
            writer.seal()
            assert sum(part.frames for part in find_parts(writer.path)) == writer.frames_written == first + 5
            assert writer.index.frames == first + 5
        writer.seal()
        assert [part.number for part in find_parts(writer.path)] == [1, 2, 3]
    assert footage.numbers(writer.result) == list(range(15))
    assert os.listdir(tmp_path) == ["take.mp4"]


def test_the_growing_file_can_be_read_while_it_is_written(open_writer, footage, tmp_path):
    with open_writer() as writer:
        writer.write(footage.frames(0, 9))
        # the encoder keeps the newest frame until the next one comes
        wait_for(lambda: indexed(writer) == 8)
        live = tmp_path / "seen"
        live.write_bytes(writer.index.init + writer.index.read(0)[0])
        assert footage.numbers(live) == list(range(8))


KILLED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("rivulet", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
import torch
from rivulet.model_patches.writer.video import Mp4Writer
with Mp4Writer(sys.argv[2], width=32, height=16, fps=16) as writer:
    for i in range(10**9):
        writer.write(torch.full((1, 16, 32, 3), 5 * (i % 50), dtype=torch.uint8))
        print(writer.index.frames if writer.index else 0, flush=True)
"""


@posix
def test_a_killed_program_leaves_a_file_that_plays_to_its_last_frame(root, footage, tmp_path):
    take = tmp_path / "take.mp4"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(take)], stdout=subprocess.PIPE)
    seen = next(n for n in map(int, process.stdout) if n >= 60)
    process.kill()
    process.wait()
    part = part_path(take, 1)
    # ffmpeg lives on until it has written what was in its pipe, then adds the table of fragments
    wait_for(lambda: b"mfra" in part.read_bytes()[-2_000_000:])
    frames = frame_count(part)
    assert frames >= seen
    assert footage.numbers(part) == [i % 50 for i in range(frames)]
    assert finish(take) == take
    assert footage.numbers(take) == [i % 50 for i in range(frames)]
    assert os.listdir(tmp_path) == ["take.mp4"]


@posix
def test_ctrl_c_in_the_terminal_does_not_reach_the_encoder(open_writer, footage, encoders):
    with open_writer() as writer:
        writer.write(footage.frames(0, 1))
        wait_for(lambda: encoders)
        assert os.getpgid(encoders[0].pid) != os.getpgid(0)


def leave_parts(open_writer, footage, frames):
    """Leaves the parts that a run killed after so many frames would leave."""
    writer = open_writer()
    writer.__enter__()
    for first in range(0, frames, 10):
        writer.write(footage.frames(first, min(10, frames - first)))
        writer.seal()
    stop(writer._feed)
    writer._lock.release()


@pytest.mark.parametrize("position", [25, 20, 17, 3], ids="frame{}".format)
def test_a_resumed_stream_goes_on_at_its_frame(open_writer, footage, tmp_path, position):
    leave_parts(open_writer, footage, 25)
    with open_writer(start_frame=position) as writer:
        assert writer.frames_written == position
        writer.write(footage.frames(position, 6))
        wait_for(lambda: writer.index is not None)
        assert writer.index.first_frame == position
    assert writer.frames_written == position + 6
    assert footage.numbers(writer.result) == list(range(position + 6))
    assert os.listdir(tmp_path) == ["take.mp4"]


def test_a_stream_cannot_go_on_in_a_file_that_lacks_its_frames(open_writer, footage):
    leave_parts(open_writer, footage, 25)
    with pytest.raises(ValueError, match=r"resumes at frame 26, but .* holds only 25 frames"):
        open_writer(start_frame=26).__enter__()
    assert sum(part.frames for part in find_parts(open_writer().path)) == 25


def test_a_resumed_stream_may_start_a_file_of_its_own(open_writer, footage):
    with open_writer(start_frame=40) as writer:
        writer.write(footage.frames(40, 5))
    assert (writer.frames_written, footage.numbers(writer.result)) == (45, [40, 41, 42, 43, 44])


def test_nothing_that_exists_is_overwritten(open_writer, footage, tmp_path):
    leave_parts(open_writer, footage, 12)
    with pytest.raises(
        ValueError, match=r"12 frames of an unfinished take.mp4 .*run `python run.py recover "
    ):
        open_writer().__enter__()
    finish(tmp_path / "take.mp4")
    with pytest.raises(ValueError, match="exists already and stays as it is; choose another name"):
        open_writer().__enter__()
    with pytest.raises(ValueError, match="is finished already"):
        finish(tmp_path / "take.mp4")
    assert footage.numbers(tmp_path / "take.mp4") == list(range(12))


def test_a_video_that_cannot_be_joined_stays_in_its_parts(open_writer, footage, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match=r"5 frames are in take.part1.mp4, take.part2.mp4 .* and play"):  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 3))
            writer.seal()
            writer.write(footage.frames(3, 2))
            (tmp_path / "take.mp4.joining").mkdir()
    (tmp_path / "take.mp4.joining").rmdir()
    assert finish(writer.path) == writer.path
    assert footage.numbers(writer.path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 33}, "width must be a multiple of 2 pixels, got 33; nearest is 3"),
        ({"height": 0}, "height must be a whole number of pixels, 1 or more, got 0"),
        ({"width": 32.0}, "width must be a whole number"),
        ({"fps": 0}, "fps must be from 0.01 to 1000 frames per second, got 0"),
        ({"fps": float("nan")}, "got nan"),
        ({"fps": "16"}, "got '16'"),
        ({"start_frame": -1}, "start_frame must be a whole number, 0 or more, got -1"),
        ({"queue_chunks": 0}, "queue_chunks must be a whole number from 1 to 64, got 0"),
        ({"keyframe_frames": 0}, "keyframe_frames must be a whole number from 1"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_wrong_values_are_refused_before_anything_is_made(open_writer, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        open_writer(**options)
    assert os.listdir(tmp_path) == []


def test_another_kind_of_file_is_refused():
    with pytest.raises(ValueError, match=r"must end in .mp4, got 'take.webm'"):
        Mp4Writer("take.webm", width=32, height=16, fps=16)


def test_a_folder_that_cannot_be_written_is_told_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write into .*file.* choose a folder"):
        Mp4Writer(tmp_path / "file" / "take.mp4", width=32, height=16, fps=16).__enter__()


def test_a_disk_that_is_nearly_full_is_told_before_work_starts(open_writer, monkeypatch, tmp_path):
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage._replace(free=5 << 20))
    with pytest.raises(RuntimeError, match=r"only 5 MiB are free in .*needs 64 MiB"):
        open_writer().__enter__()
    assert os.listdir(tmp_path) == []


def test_a_missing_ffmpeg_is_told_before_work_starts(open_writer, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match=r"nowhere does not start .*pip install imageio-ffmpeg"):
        open_writer().__enter__()
    assert os.listdir(tmp_path) == []


@posix
def test_an_ffmpeg_without_h264_is_told_before_work_starts(open_writer, monkeypatch, tmp_path):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho \"Codec 'libx264' is not recognized by FFmpeg.\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    with pytest.raises(RuntimeError, match="has no libx264"):
        open_writer().__enter__()


def test_a_writer_works_only_inside_its_with_block_and_once(open_writer, footage):
    writer = open_writer()
    with pytest.raises(RuntimeError, match="is not open; write inside its `with` block"):
        writer.write(footage.frames(0, 1))
    with writer:
        writer.write(footage.frames(0, 1))
        with pytest.raises(RuntimeError, match="was opened before"):
            writer.__enter__()
    for late in (lambda: writer.write(footage.frames(0, 1)), writer.seal):
        with pytest.raises(RuntimeError, match="is not open"):
            late()

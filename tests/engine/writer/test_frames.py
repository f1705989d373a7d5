import os

import numpy as np
import pytest
import torch
from PIL import Image
from rivulet.model_patches.writer.frames import PngWriter


@pytest.fixture
def open_writer(tmp_path, footage):
    def make(**options):
        return PngWriter(tmp_path / "frames", width=footage.width, height=footage.height, **options)

    return make


def numbers(folder):
    return [int(np.asarray(Image.open(folder / name)).mean()) // 5 for name in sorted(os.listdir(folder))]


def test_pictures_are_exact_and_numbered_from_nought(open_writer, footage):
    generator = torch.Generator().manual_seed(0)
    shape = (3, footage.height, footage.width, 3)
    noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    with open_writer() as writer:
        writer.write(noise[:1])
        writer.write(noise[1:])
        writer.seal()
        assert writer.frames_written == 3
    names = sorted(os.listdir(writer.folder))
    assert names == [f"frame_{i:08d}.png" for i in range(3)]
    for name, frame in zip(names, noise, strict=True):
        assert np.array_equal(np.asarray(Image.open(writer.folder / name)), frame.numpy())


def test_a_resumed_stream_replaces_what_came_after_its_snapshot(open_writer, footage):
    with open_writer() as writer:
        writer.write(footage.frames(0, 8))
    with open_writer(start_frame=5) as writer:
        writer.write(footage.frames(15, 2))
        assert writer.frames_written == 7
    assert numbers(writer.folder) == [0, 1, 2, 3, 4, 15, 16, 7]


def test_a_folder_with_frames_is_not_overwritten_and_a_gap_is_not_made(open_writer, footage):
    with open_writer() as writer:
        writer.write(footage.frames(0, 4))
    with pytest.raises(ValueError, match="holds 4 frames already"):
        open_writer().__enter__()
    with pytest.raises(ValueError, match=r"goes on at frame 5, but .* ends at frame 3"):
        open_writer(start_frame=5).__enter__()
    assert numbers(writer.folder) == [0, 1, 2, 3]


def test_an_error_keeps_the_pictures_before_it(open_writer, footage):
    with pytest.raises(ValueError, match="must be uint8"), open_writer() as writer:
        writer.write(footage.frames(0, 2))
        writer.write(footage.frames(2, 1).float())
    assert numbers(writer.folder) == [0, 1]


def test_a_picture_that_cannot_be_written_leaves_no_half_file(open_writer, footage):
    with open_writer() as writer:
        writer.write(footage.frames(0, 1))
        (writer.folder / "frame_00000001.png").mkdir()
        with pytest.raises(RuntimeError, match=r"frame 1 could not be written .*the frames before it are in"):
            writer.write(footage.frames(1, 1))
    assert sorted(os.listdir(writer.folder)) == ["frame_00000000.png", "frame_00000001.png"]
    assert writer.frames_written == 1


def test_a_folder_that_cannot_be_written_is_told_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write into .*choose a folder"):
        PngWriter(tmp_path / "file" / "frames", width=32, height=16).__enter__()


def test_it_writes_only_inside_its_with_block(open_writer, footage):
    writer = open_writer()
    with pytest.raises(RuntimeError, match="write inside its `with` block"):
        writer.write(footage.frames(0, 1))
    with writer:
        writer.write(footage.frames(0, 1))
    with pytest.raises(RuntimeError, match="is not open"):
        writer.write(footage.frames(0, 1))


@pytest.mark.parametrize("start", [-1, 1.0, True], ids=str)
def test_wrong_values_are_refused(open_writer, start):
    with pytest.raises(ValueError, match="start_frame must be a whole number"):
        open_writer(start_frame=start)

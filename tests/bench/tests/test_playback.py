"""The check of finished files: it finds the right last frame, and says when there is none."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from rivulet.tests.bench.playback import frame_count, last_frame, psnr_db


def write(path, frames: int) -> None:
    """Writes grey frames, each a step brighter than the one before."""
    writer = imageio_ffmpeg.write_frames(str(path), (64, 48), fps=16, macro_block_size=16, quality=9)
    writer.send(None)
    for i in range(frames):
        writer.send(np.full((48, 64, 3), 20 + 4 * i, np.uint8))
    writer.close()


@pytest.mark.parametrize("frames", [5, 50], ids=["shorter than the tail", "longer than the tail"])
def test_the_last_frame_is_the_last_one_written(tmp_path, frames):
    write(tmp_path / "grey.mp4", frames)
    assert frame_count(tmp_path / "grey.mp4") == frames
    picture = last_frame(tmp_path / "grey.mp4", 64, 48)
    # two grey levels: half of the step to the frame before
    assert (picture.float() - (20 + 4 * (frames - 1))).abs().mean() < 2


def test_a_file_that_ends_early_does_not_play(tmp_path):
    path = tmp_path / "grey.mp4"
    write(path, 5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RuntimeError, match=r"(?s)the end of .*grey\.mp4 does not play \(.+\)"):
        last_frame(path, 64, 48)


def test_psnr_of_a_known_error():
    black = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert psnr_db(black, black) == 100
    assert psnr_db(black, black + 255) == pytest.approx(0)
    assert psnr_db(black, black + 25) == pytest.approx(20.17, abs=0.01)

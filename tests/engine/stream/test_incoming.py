"""Pictures of files and of memory: each once, at the wanted rate and size; what is no video is refused."""

import tracemalloc
from fractions import Fraction

import pytest
import torch
from rivulet.model_patches.stream.incoming import Fitted, Pictures, VideoFile
from rivulet.model_patches.writer.encoding import Encoding
from rivulet.model_patches.writer.video import Mp4Writer

RED, GREEN = (225, 40, 40), (50, 200, 60)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A file of 45 grey pictures, each 5 levels brighter than the one before, at 16 a second."""
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    grey = (5 * torch.arange(45)).to(torch.uint8)[:, None, None, None].expand(45, 32, 48, 3)
    with Mp4Writer(path, width=48, height=32, fps=16, threads=1) as writer:
        writer.write(grey)
    return path


def numbers(pixels):
    """Which picture of the film each one is; the encoder moves a level by less than half a picture."""
    return (pixels[:, 16, 24, 0].float() / 5).round().int().tolist()


@pytest.mark.parametrize("cuts", [(100,), (1, 20, 100), (44, 1, 1), (45, 3)], ids=str)
def test_every_picture_comes_once_and_in_order(film, cuts):
    with VideoFile(film, fps=16) as video:
        taken = [video.take(count) for count in cuts]
        assert numbers(torch.cat([part for part in taken if len(part)])) == list(range(45))
        assert len(video.take(5)) == 0 and video.read_frames == 45
    assert all(len(part) == count for part, count in zip(taken[:-1], cuts[:-1], strict=True) if count < 45)


@pytest.mark.parametrize(
    ("fps", "first", "count"),
    [(8, [0, 2, 4, 6, 8], 23), (32, [0, 0, 1, 1, 2], 90), (24, [0, 0, 1, 2, 2], 68)],
)
def test_another_rate_takes_the_nearest_picture(film, fps, first, count):
    with VideoFile(film, fps=fps) as video:
        pixels = video.take(1000)
    # a file does not say for how long its last picture is shown
    assert abs(len(pixels) - count) <= 1
    wanted = [min(range(45), key=lambda n, i=i: abs(n / 16 - i / fps)) for i in range(40 * fps // 16)]
    found = numbers(pixels)
    assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=False))
    assert sum(a != b for a, b in zip(found, wanted, strict=False)) <= len(wanted) // 2


def test_a_part_of_a_file(film):
    with VideoFile(film, fps=16, start_seconds=1.0, seconds=0.5) as video:
        assert numbers(video.take(100)) == list(range(16, 24))


def test_colours_are_those_that_were_written(tmp_path):
    halves = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    halves[:, :, :16], halves[:, :, 16:] = torch.tensor(RED).byte(), torch.tensor(GREEN).byte()
    with Mp4Writer(
        tmp_path / "two.mp4", width=32, height=32, fps=16, threads=1, encoding=Encoding(crf=1)
    ) as writer:
        writer.write(halves)
    with VideoFile(tmp_path / "two.mp4", fps=16) as video:
        pixels = video.take(4).int()
    # 8-bit YCbCr holds a colour to within two levels each way
    assert (pixels[:, 16, 4] - torch.tensor(RED)).abs().max() <= 3
    assert (pixels[:, 16, 28] - torch.tensor(GREEN)).abs().max() <= 3


BROKEN = {
    "text": (b"this is no video", "notes.mp4 gives no picture"),
    "nothing": (b"", "notes.mp4 gives no picture"),
    "absent": (None, "there is no file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_video_is_refused(tmp_path, case):
    data, words = BROKEN[case]
    if data is not None:
        (tmp_path / "notes.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=words), VideoFile(tmp_path / "notes.mp4", fps=16) as video:
        video.take(1)


def test_a_file_that_breaks_off_gives_what_it_has_and_says_so(film, tmp_path, caplog):
    whole = film.read_bytes()
    from rivulet.model_patches.writer.copying import copy
    from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
    from rivulet.model_patches.writer.movie import frame_count

    copied = copy(find_ffmpeg(), [film], tmp_path / "whole.mp4", frames=frame_count(film))
    data = bytearray(copied.read_bytes())
    assert len(whole) > 2000
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data[: int(0.8 * len(data))])
    with VideoFile(broken, fps=16) as video:
        pixels = video.take(100)
    assert 0 < len(pixels) < 45 and "broken.mp4 ends after" in caplog.text


def test_leaving_early_ends_the_reader(film):
    with VideoFile(film, fps=16) as video:
        video.take(2)
        process = video._decoder.process
    assert process.poll() is not None


def test_the_newest_pictures_are_found_without_holding_the_rest():
    class Long:
        name, left = "a long video", 400

        def take(self, count):
            count, self.left = min(count, self.left), max(0, self.left - count)
            return torch.full((count, 64, 64, 3), float(self.left) / 400)

    tracemalloc.start()
    newest = Fitted(Long(), 32, 32).newest(9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert newest.shape == (9, 32, 32, 3) and newest[-1].max() == 0
    assert peak < 1 << 20
    assert len(Fitted(Pictures(torch.zeros(4, 32, 32, 3)), 32, 32).newest(9)) == 4


WIDE = torch.zeros(2, 64, 96, 3)
WIDE[:, :, 32:64] = 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_another_size_is_made_to_fit_by_the_chosen_rule(dtype):
    wide = WIDE if dtype == torch.float32 else (255 * WIDE).to(dtype)
    white = 1.0 if dtype == torch.float32 else 255.0
    cropped = Fitted(Pictures(wide), 16, 32).take(2)
    assert cropped.shape == (2, 32, 16, 3) and cropped.dtype == dtype
    assert cropped[:, :, 2:-2].float().min() > 0.99 * white
    stretched = Fitted(Pictures(wide), 16, 32, "stretch").take(2)
    assert abs(stretched.float().mean() / white - 1 / 3) < 0.02
    with pytest.raises(ValueError, match="is 96x64 and the video is to be 16x32"):
        Fitted(Pictures(wide), 16, 32, "refuse").take(2)
    assert torch.equal(Fitted(Pictures(wide), 96, 64, "refuse").take(2), wide)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (torch.full((1, 32, 32, 3), float("nan")), "holds NaN"),
        (torch.full((1, 32, 32, 4), 0.5), "transparent parts"),
        (torch.full((1, 32, 32, 4), 254, dtype=torch.uint8), "transparent parts"),
        (torch.zeros(1, 32, 32, 1), r"comes as \[1, 32, 32, 1\]"),
    ],
    ids=["NaN", "alpha", "alpha in levels", "grey"],
)
def test_what_a_video_cannot_show_is_refused(pixels, words):
    with pytest.raises(ValueError, match=words):
        Fitted(Pictures(pixels), 32, 32).take(1)


def test_no_pictures_at_all_are_refused():
    with pytest.raises(ValueError, match="has no picture"):
        Fitted(Pictures(torch.zeros(0, 32, 32, 3)), 32, 32).newest(9)


def test_pictures_of_another_rate_are_the_nearest_in_time():
    numbered = torch.arange(7.0)[:, None, None, None].expand(7, 4, 4, 3)
    source = Pictures(numbered, step=Fraction(7, 4))
    # of the moments 0, 1.75, 3.5, 5.25 and 7
    assert torch.cat([source.take(2), source.take(9)])[:, 0, 0, 0].tolist() == [0, 2, 4, 5]
    slow = Pictures(numbered[:2], step=Fraction(1, 3)).take(9)
    assert slow[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1]

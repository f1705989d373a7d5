"""Encoders, qualities, and small pictures that are enlarged in their file."""

import os
import sys

import numpy as np
import pytest
import torch
from rivulet.model_patches.stream.incoming import VideoFile
from rivulet.model_patches.writer.boxes import read_moov
from rivulet.model_patches.writer.encoder import encode_command
from rivulet.model_patches.writer.encoding import NVENC, X264, Coding, Encoding, coding_of, factor_for
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.joining import copy_tail, finish
from rivulet.model_patches.writer.movie import read_movie
from rivulet.model_patches.writer.options import check_fps
from rivulet.model_patches.writer.parts import part_path
from rivulet.model_patches.writer.video import Mp4Writer

SIDE = 64
posix = pytest.mark.skipif(os.name != "posix", reason="needs a script as a program")

# an ffmpeg that has a working NVENC, as far as anyone can tell without a card: another encoder does its work
STAND_IN = """#!{python}
import os, sys
args, nvenc = sys.argv[1:], "h264_nvenc" in sys.argv
if nvenc and {broken!r}:
    sys.exit({broken!r})
if nvenc:
    first = args.index("-c:v")
    last = args.index("-forced-idr") + 2
    args[first:last] = "-c:v libx264 -preset veryfast -tune zerolatency -crf 18".split()
os.execv({program!r}, [{program!r}, *args])
"""


@pytest.fixture
def opened(tmp_path):
    def make(name="take.mp4", **options):
        sizes = {"width": SIDE, "height": SIDE, "fps": 16, "threads": 1, "keyframe_frames": 4}
        return Mp4Writer(tmp_path / name, **{**sizes, **options})

    return make


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    def make(broken=""):
        program = tmp_path / "stand_in"
        program.write_text(STAND_IN.format(python=sys.executable, program=find_ffmpeg(), broken=broken))
        program.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    return make


def disk(count, side=SIDE):
    """A red disk that moves over blue: edges between two colours that are equally bright."""
    across = torch.arange(side)
    inside = [
        (across[None] - side // 3 - n) ** 2 + (across[:, None] - side // 2) ** 2 < (side // 4) ** 2
        for n in range(count)
    ]
    red, blue = torch.tensor([220, 30, 30]), torch.tensor([30, 40, 200])
    return torch.where(torch.stack(inside)[..., None], red, blue).to(torch.uint8)


def read(path, count, fps=16):
    with VideoFile(path, fps=fps) as video:
        return video.take(count + 1).numpy()


def psnr(one, other):
    return 10 * np.log10(255**2 / ((one.astype(float) - other.astype(float)) ** 2).mean())


def test_the_usual_coding_is_the_command_that_it_always_was(tmp_path):
    command = encode_command(
        "ffmpeg", tmp_path / "a.mp4", Encoding(enlarge=True).coding(832, 480),
        width=832, height=480, fps=check_fps(16), keyframe_frames=16, threads=0,
    )  # fmt: skip
    colours = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
    assert command[1:] == [
        *[
            "-hide_banner",
            "-loglevel",
            "error",
            "-nostdin",
            "-y",
            "-probesize",
            "32",
            "-analyzeduration",
            "0",
        ],
        *[
            "-f",
            "rawvideo",
            "-pixel_format",
            "rgb24",
            "-video_size",
            "832x480",
            "-framerate",
            "16/1",
            "-i",
            "pipe:0",
        ],
        *["-an", "-fps_mode", "passthrough", "-vf"],
        f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams={colours}",
        *["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", "18"],
        *["-g", "16", "-keyint_min", "16", "-sc_threshold", "0", "-threads", "0", "-flush_packets", "1"],
        *["-movflags", "frag_every_frame+empty_moov+default_base_moof", "-f", "mp4"],
        f"file:{tmp_path / 'a.mp4'}",
    ]


@pytest.mark.parametrize(
    ("width", "height", "factor"),
    [
        *[(64, 64, 4), (32, 48, 8), (96, 64, 4), (96, 96, 4), (128, 128, 2), (254, 400, 2), (2, 2, 128)],
        *[(256, 256, 1), (832, 480, 1), (480, 832, 1)],
        *[(2048, 32, 2), (32, 1364, 2), (32, 1024, 4), (2050, 32, 1), (9000, 128, 1)],  # at most 4096
    ],
)
def test_small_pictures_are_enlarged_by_an_even_factor(width, height, factor):
    assert factor_for(width, height) == factor
    assert Encoding(enlarge=True).coding(width, height).factor == factor
    assert Encoding().coding(width, height).factor == 1


@pytest.mark.parametrize(("width", "height"), [(16386, 16), (16, 16386)])
def test_a_side_that_no_encoder_codes_is_refused_before_anything_is_written(opened, tmp_path, width, height):
    with (
        pytest.raises(ValueError, match=rf"up to 16384 pixels a side, and these are {width}x{height}"),
        opened(width=width, height=height, encoding=Encoding(enlarge=True)),
    ):
        pass
    assert list(tmp_path.glob("take*")) == []


def test_edges_between_colours_survive_in_an_enlarged_file(opened):
    frames, made = disk(12), {}
    for enlarge in (False, True):
        with opened(f"{enlarge}.mp4", encoding=Encoding(enlarge=enlarge)) as writer:
            writer.write(frames)
        made[enlarge] = read(writer.result, 12)
        assert made[enlarge].shape == frames.shape
    # 4:2:0 gives four pixels one colour, so beside an edge of red and blue both are halfway to the other, 95
    # off in red and 85 in blue; a pixel with colours of its own is off by what crf 18 loses
    edges = (frames.diff(dim=2).abs().sum(-1) > 0).numpy()[..., None]
    near = [
        np.abs(made[each][:, :, 1:].astype(int) - frames[:, :, 1:].numpy())[edges[..., 0]].mean()
        for each in made
    ]
    assert near[0] > 3 * near[1]
    assert psnr(made[True], frames.numpy()) > psnr(made[False], frames.numpy()) + 6  # half the error


def test_an_enlarged_video_is_gone_on_with_cut_and_read_at_the_size_of_its_stream(opened, tmp_path):
    frames = disk(16)
    with opened(encoding=Encoding(enlarge=True)) as writer:
        writer.write(frames[:12])
    with opened(encoding=Encoding(enlarge=True), start_frame=10) as writer:
        writer.write(frames[10:])
        writer.seal()
        assert read_movie(part_path(writer.path, 2)).width == 4 * SIDE
    movie = read_movie(writer.result)
    assert (movie.width, movie.height, movie.frames) == (4 * SIDE, 4 * SIDE, 16)
    assert coding_of(movie) == Coding(factor=4)
    copy_tail(writer.result, 9, tmp_path / "tail.mp4")
    assert coding_of(read_movie(tmp_path / "tail.mp4")).factor == 4
    shown = read(writer.result, 16)
    assert shown.shape == frames.shape
    assert psnr(shown, frames.numpy()) > 35
    assert psnr(read(tmp_path / "tail.mp4", 8), frames[8:].numpy()) > 35


def test_a_small_video_of_an_earlier_release_goes_on_in_its_own_size(opened):
    with opened() as writer:
        writer.write(disk(8))
    with opened(encoding=Encoding(enlarge=True), start_frame=8) as writer:
        writer.write(disk(4))
    assert (read_movie(writer.result).width, read_movie(writer.result).frames) == (SIDE, 12)


def test_a_take_goes_on_in_the_quality_that_it_began_with(opened):
    told = []
    with opened(encoding=Encoding(crf=30)) as writer:
        writer.write(disk(8))
    with opened(encoding=Encoding(crf=5), start_frame=8, tell=told.append) as writer:
        writer.write(disk(4))
        assert writer.coding == Coding(crf=30)
    assert told == ["take.mp4 goes on as it began, with x264 at quality 30, so that it stays one."]
    assert coding_of(read_movie(writer.result)) == Coding(crf=30)


def test_a_video_cut_off_is_recovered_with_its_coding(opened, tmp_path):
    with opened(encoding=Encoding(crf=30, enlarge=True)) as writer:
        writer.write(disk(8))
        writer.seal()
        left = part_path(writer.path, 1).read_bytes()
    writer.path.unlink()
    part_path(writer.path, 1).write_bytes(left)
    assert coding_of(read_movie(finish(writer.path))) == Coding(crf=30, factor=4)


def test_quality_is_what_the_encoder_gets(opened):
    sizes = []
    noise = torch.randint(
        0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    for crf in (0, 18, 40):
        with opened(f"{crf}.mp4", encoding=Encoding(crf=crf)) as writer:
            writer.write(noise)
        sizes.append(writer.result.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("bad", [-1, 52, 18.0, True, None], ids=repr)
def test_a_quality_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="crf must be a whole number from 0 to 51, got"):
        Encoding(crf=bad)


def test_an_encoder_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"there is no encoder 'h266'; choose x264 or nvenc\."):
        Encoding("h266")


@posix
@pytest.mark.parametrize("broken", ["Unknown encoder 'h264_nvenc'", "Cannot load libcuda.so.1"])
def test_an_encoder_that_does_not_work_here_is_refused_before_a_file_is_made(
    opened, tmp_path, stand_in, broken
):
    stand_in(broken)
    with pytest.raises(
        ValueError, match=rf"nvenc does not work here with 256x256 pixels \({broken}\)\. .*choose"
    ):
        opened(encoding=Encoding(NVENC, enlarge=True)).__enter__()
    assert not list(tmp_path.glob("take*"))
    with opened() as writer:  # and the path is free
        writer.write(disk(2))


@posix
def test_an_encoder_of_a_card_makes_a_video_that_goes_on_by_it(opened, stand_in):
    stand_in()
    with opened(encoding=Encoding(NVENC, 25, enlarge=True)) as writer:
        writer.write(disk(8))
    with opened(start_frame=8) as writer:
        writer.write(disk(4))
        assert (writer.coding.encoder, writer.coding.crf) == (NVENC, 25)
    assert (read_movie(writer.result).frames, coding_of(read_movie(writer.result)).encoder) == (12, NVENC)


@posix
def test_what_has_worked_once_is_not_tried_again(stand_in, monkeypatch):
    stand_in()
    tried, run = [], __import__("subprocess").run
    monkeypatch.setattr(
        "subprocess.run", lambda command, **more: tried.append(command) or run(command, **more)
    )
    for _ in range(2):
        Coding(NVENC).check(os.environ["IMAGEIO_FFMPEG_EXE"], 320, 240, check_fps(16))
    assert len(tried) == 1


def test_pictures_too_small_for_the_card_are_refused_in_a_sentence(opened):
    with pytest.raises(
        ValueError, match="codes pictures from 146x50 on, and these are 64x64; choose the encoder x264"
    ):
        opened(encoding=Encoding(NVENC)).__enter__()


@pytest.mark.parametrize(
    "name", ["", "VideoHandler", "Rivulet: h266, crf 18, enlarged 4x", "Rivulet: x264, crf"]
)
def test_a_track_that_says_nothing_is_coded_as_usual(opened, name):
    with opened() as writer:
        writer.write(disk(2))
    movie = read_movie(writer.result)
    assert coding_of(movie) == Coding(X264, 18, 1)
    assert coding_of(type("Named", (), {"name": name})()) == Coding()


def test_the_usual_file_has_the_usual_name_of_its_track(opened):
    with opened() as writer:
        writer.write(disk(2))
    with writer.result.open("rb") as file:
        assert b"VideoHandler" in read_moov(file) and b"Rivulet" not in read_moov(file)

"""Videos as phones make them: HDR in 10 bit, turned on their side, at a rate that changes."""

import subprocess

import numpy as np
import pytest
from rivulet.model_patches.stream.incoming import VideoFile
from rivulet.model_patches.writer import hdr
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg

PATCH = 32  # pixels
GREYS = (0, 16, 48, 96, 128, 160, 192, 224, 255)
COLOURS = [(grey,) * 3 for grey in GREYS] + [(180, 40, 40), (40, 160, 60), (40, 60, 180), (120, 90, 70)]
WIDTH = PATCH * len(COLOURS)


def run(*arguments, given=None):
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=True)


def chart():
    return np.repeat(np.repeat(np.array(COLOURS, np.uint8)[None], PATCH, 1), 64, 0)


def pq(nits):
    """SMPTE ST 2084, from cd/m2 to the signal."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (nits / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg(nits):
    """ITU-R BT.2100, from cd/m2 of a grey on a display of 1000 to the signal."""
    light = (nits / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(light <= 1 / 12, np.sqrt(3 * light), a * np.log(np.maximum(12 * light - b, 1e-9)) + c)


CURVES = {"smpte2084": pq, "arib-std-b67": hlg}
# from linear light of BT.709's colours to that of BT.2020's (ITU-R BT.2087)
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def film(path, curve, tagged=True):
    """A chart in HDR by the standards' formulas, of which white is 203 cd/m2."""
    light = (chart() / 255) ** 2.4 @ TO_2020.T  # as a display shows an ordinary video (ITU-R BT.1886)
    if curve == "arib-std-b67":  # the display's part of it goes by brightness, not by colour
        nits = 203 * (light @ np.array([0.2627, 0.6780, 0.0593]))[..., None]
        scene = 203 * light / np.maximum(nits, 1e-6) * 1000 * (nits / 1000) ** (1 / 1.2)
        coded = hlg((scene / 1000) ** 1.2 * 1000)
    else:
        coded = pq(203 * light)
    raw = np.round(np.clip(coded, 0, 1) * 65535).astype("<u2")
    given = ["-f", "rawvideo", "-pixel_format", "rgb48le", "-video_size", f"{WIDTH}x64", "-framerate", "25"]
    known = f"color_primaries=bt2020:color_trc={curve}:colorspace=bt2020nc:range=tv"
    bits = f"scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,setparams={known}"
    names = f"colorprim=bt2020:transfer={curve}:colormatrix=bt2020nc:log-level=none"
    if not tagged:
        names = f"transfer={curve}:log-level=none"
        bits += ",setparams=color_primaries=unknown:colorspace=unknown"
    run(*given, "-i", "-", "-vf", bits, "-c:v", "libx265", "-crf", "4", "-x265-params", names,
        "-tag:v", "hvc1", path, given=raw.tobytes() * 4)  # fmt: skip


def patches(path, **window):
    with VideoFile(path, fps=25, **window) as video:
        picture = video.take(1)[0].numpy()
    return picture[32, PATCH // 2 :: PATCH].astype(int), picture.shape


@pytest.mark.parametrize("tagged", [True, False], ids=["all tags", "the curve alone"])
@pytest.mark.parametrize("curve", CURVES)
def test_hdr_of_a_phone_has_the_colours_of_an_ordinary_video(tmp_path, curve, tagged):
    film(tmp_path / "clip.mov", curve, tagged)
    shown, _ = patches(tmp_path / "clip.mov")
    # a step of the 10 bit signal is up to 2 of 255 here, where the curves differ most; coding, the colours'
    # matrix and rounding may each take one
    off = np.abs(shown - np.array(COLOURS))
    exact = np.array([max(colour) <= 192 for colour in COLOURS])
    assert off[exact].max() <= 6, off
    assert shown[GREYS.index(224)].mean() < shown[GREYS.index(255)].mean() < 255  # room for lights


def test_untouched_it_would_be_washed_out(tmp_path, monkeypatch):
    film(tmp_path / "clip.mov", "arib-std-b67")
    monkeypatch.setattr("rivulet.model_patches.stream.incoming.tone_mapping", lambda *_: "")
    shown, _ = patches(tmp_path / "clip.mov")
    assert np.abs(shown - np.array(COLOURS)).max() > 40


def test_an_ffmpeg_that_cannot_convert_is_told_with_the_command_that_does(tmp_path, monkeypatch):
    film(tmp_path / "a clip.mov", "smpte2084")
    monkeypatch.setattr(hdr, "_has", lambda program, name: name != "zscale")
    with pytest.raises(
        ValueError, match=r"a clip\.mov is in HDR \(PQ\), and \S+ lacks zscale or tonemap"
    ) as told:
        patches(tmp_path / "a clip.mov")
    # the command is right: what it makes has the same colours
    said = str(told.value)
    filters = said.partition('-vf "')[2].partition('"')[0]
    assert said.endswith('-c:v libx264 -crf 16 -c:a copy "a clip_sdr.mp4"')
    run("-i", tmp_path / "a clip.mov", "-vf", filters, "-c:v", "libx264", "-crf", "1", tmp_path / "sdr.mp4")
    shown, _ = patches(tmp_path / "sdr.mp4")
    assert np.abs(shown - np.array(COLOURS))[1:7].max() <= 6


def test_an_ordinary_video_is_left_alone(tmp_path):
    run("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.2", "-pix_fmt", "yuv420p10le", tmp_path / "ten.mp4")
    assert hdr.tone_mapping(find_ffmpeg(), tmp_path / "ten.mp4") == ""
    assert hdr.tone_mapping(find_ffmpeg(), tmp_path / "absent.mp4") == ""


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_phone_held_upright_gives_upright_pictures(tmp_path, turn):
    run(
        "-f",
        "lavfi",
        "-i",
        "color=red:s=96x64:r=25:d=0.2",
        "-vf",
        "drawbox=0:0:48:64:blue:fill",
        tmp_path / "a.mp4",
    )
    run("-display_rotation", turn, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "turned.mp4")
    with VideoFile(tmp_path / "turned.mp4", fps=25) as video:
        picture = video.take(1)[0].numpy()
    # counterclockwise, as the metadata has it
    blue = picture[..., 2] > 128
    wanted = np.zeros((64, 96), bool)
    wanted[:, :48] = True
    assert (blue == np.rot90(wanted, turn // 90)).mean() > 0.9


def test_pictures_are_taken_by_their_time_where_the_rate_changes(tmp_path):
    # ten pictures of brightness 20 * n, the second five shown three times as long
    greys = np.repeat(np.arange(1, 11, dtype=np.uint8) * 20, 64 * 64).tobytes()
    times = "setpts='if(lt(N,5),N,5+3*(N-5))/(10*TB)'"
    raw = ["-f", "rawvideo", "-pixel_format", "gray", "-video_size", "64x64", "-framerate", "10", "-i", "-"]
    coded = ["-vf", times, "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1"]
    run(*raw, *coded, tmp_path / "vfr.mp4", given=greys)
    with VideoFile(tmp_path / "vfr.mp4", fps=10) as video:
        shown = [round(float(picture.float().mean()) / 20) for picture in video.take(20)]
    assert shown[:17] == [1, 2, 3, 4, 5, *[6] * 3, *[7] * 3, *[8] * 3, *[9] * 3]

"""A sound that goes along with a video: through joining, going on, cutting, crashes."""

import subprocess
import wave

import numpy as np
import pytest
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.joining import copy_tail, finish
from rivulet.model_patches.writer.movie import read_movie
from rivulet.model_patches.writer.parts import part_path
from rivulet.model_patches.writer.sound import Sound, kept_sound, kind_of_sound
from rivulet.model_patches.writer.video import Mp4Writer

RATE = 16_000  # samples a second
PACKET = 1024 / RATE  # seconds: AAC is cut there
FPS = 16


def run(*arguments):
    command = [find_ffmpeg(), "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def clicks(tmp_path):
    """Makes a file in which second n has a tone of 300 * (n + 1) Hz; 4 seconds of it."""

    def make(name="source.wav", *coding, seconds=4):
        at = np.arange(seconds * RATE) / RATE
        tone = np.sin(2 * np.pi * 300 * (1 + np.floor(at)) * (at % 1)) * 20_000
        path = tmp_path / "tones.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(tone.astype("<i2").tobytes())
        if name.endswith(".wav"):
            return path
        run("-f", "lavfi", "-i", f"color=red:s=64x64:r=25:d={seconds}", "-i", path, *coding, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def opened(tmp_path, footage):
    def make(**options):
        sizes = {"width": footage.width, "height": footage.height, "fps": FPS, "keyframe_frames": 4}
        return Mp4Writer(tmp_path / "take.mp4", **{**sizes, **options})

    return make


def heard(path):
    """The tone that each tenth of a second has most of, in Hz, as the seconds of `clicks` it belongs to."""
    raw = run("-i", path, "-map", "0:a:0", "-ac", "1", "-ar", RATE, "-f", "s16le", "-")
    samples = np.frombuffer(raw, "<i2").astype(float)
    tenths = samples[: len(samples) // 1600 * 1600].reshape(-1, 1600)
    peaks = np.abs(np.fft.rfft(tenths * np.hanning(1600))).argmax(1) * 10  # Hz
    return [round(peak / 300) - 1 for peak in peaks], len(samples) / RATE


def seconds_of(start, end):
    """What is heard in the middles of the tenths from one second to the other."""
    return [int(start + n / 10 + 0.05) for n in range(round((end - start) * 10))]


def assert_heard(path, start, end):
    """A tenth at the border of two tones may be either: a coder's delay is less than that."""
    found, length = heard(path)
    wanted = seconds_of(start, end)
    # the last packet may be whole where the pictures end
    assert -PACKET <= length - (end - start) <= PACKET
    borders = len({*wanted}) - 1
    assert sum(one != other for one, other in zip(found, wanted, strict=False)) <= borders
    assert abs(len(found) - len(wanted)) <= 1


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        *[("a.wav", ()), ("a.mp4", ("-c:a", "aac")), ("a.mkv", ("-c:a", "libopus"))],
        *[("a.avi", ("-c:a", "mp3")), ("b.mov", ("-c:a", "pcm_s16le"))],
    ],
)
@pytest.mark.parametrize("start", [0.0, 1.5])
def test_the_sound_goes_along_from_its_moment_on_and_ends_with_the_pictures(
    opened, footage, clicks, name, coding, start
):
    with opened(sound=Sound(clicks(name, *coding), start)) as writer:
        writer.write(footage.frames(0, 20))
        writer.seal()
        writer.write(footage.frames(20, 12))
    movie = read_movie(writer.result)
    assert (movie.frames, movie.tracks, movie.sound) == (32, 2, True)
    assert_heard(writer.result, start, start + 2)
    assert footage.numbers(writer.result) == list(range(32))
    assert sorted(path.name for path in writer.path.parent.glob("take*")) == ["take.mp4"]


def test_a_sound_of_the_right_kind_is_not_coded_again(opened, footage, clicks):
    source = clicks("a.mp4", "-c:a", "aac", "-b:a", "32k")

    def packets(path):
        told = run("-i", path, "-map", "0:a", "-c", "copy", "-f", "framemd5", "-").decode()
        return [line.split(",")[-1].strip() for line in told.splitlines() if not line.startswith("#")]

    with opened(sound=Sound(source)) as writer:
        writer.write(footage.frames(0, 32))
    made, given = packets(writer.result), packets(source)
    assert made == given[: len(made)] and len(made) * PACKET > 1.9


def test_a_sound_that_is_shorter_than_the_pictures_ends_earlier(opened, footage, clicks):
    with opened(sound=Sound(clicks(seconds=1))) as writer:
        writer.write(footage.frames(0, 32))
    assert read_movie(writer.result).frames == 32
    assert_heard(writer.result, 0, 1)


def test_a_part_of_a_sound_is_not_more_than_that(opened, footage, clicks):
    with opened(sound=Sound(clicks(), 1.0, 1.0)) as writer:
        writer.write(footage.frames(0, 32))
    assert_heard(writer.result, 1, 2)


@pytest.mark.parametrize("bad", ["silent", "no file", "no sound in it"])
def test_without_a_sound_the_video_is_as_it_was(opened, footage, tmp_path, bad):
    run("-f", "lavfi", "-i", "color=red:s=64x64:r=25:d=1", tmp_path / "silent.mp4")
    (tmp_path / "text.mp4").write_text("nothing")
    path = {"silent": "silent.mp4", "no file": "absent.mp4", "no sound in it": "text.mp4"}[bad]
    made = []
    for sound in (None, Sound(tmp_path / path)):
        with opened(sound=sound, threads=1) as writer:
            writer.write(footage.frames(0, 8))
        made.append(writer.result.read_bytes())
        writer.result.unlink()
    assert made[0] == made[1]
    assert not kept_sound(writer.path).parent.exists()


def test_a_take_that_is_gone_on_with_has_the_rest_of_its_sound(opened, footage, clicks):
    kept = kept_sound(opened().path)
    with opened(sound=Sound(clicks())) as writer:
        writer.write(footage.frames(0, 16))
        (kept.parent / "take.json").write_text("{}")  # as a take has it
    assert_heard(writer.result, 0, 1)
    with opened(start_frame=12) as writer:
        writer.write(footage.frames(12, 36))
    assert_heard(writer.result, 0, 3)
    assert footage.numbers(writer.result) == list(range(48))


def test_a_video_alone_keeps_the_sound_that_it_has(opened, footage, clicks):
    with opened(sound=Sound(clicks())) as writer:
        writer.write(footage.frames(0, 32))
    assert not kept_sound(writer.path).exists()
    with opened(start_frame=24) as writer:
        writer.write(footage.frames(24, 24))
    assert_heard(writer.result, 0, 2)


def test_a_crash_keeps_the_sound(opened, footage, clicks):
    with opened(sound=Sound(clicks(), 1.0)) as writer:
        writer.write(footage.frames(0, 32))
        writer.seal()
        part, kept = part_path(writer.path, 1).read_bytes(), kept_sound(writer.path).read_bytes()
    writer.path.unlink()
    part_path(writer.path, 1).write_bytes(part[:-100])
    kept_sound(writer.path).parent.mkdir()
    kept_sound(writer.path).write_bytes(kept)
    made = finish(writer.path)
    assert read_movie(made).sound
    frames = read_movie(made).frames
    assert_heard(made, 1, 1 + frames / FPS)
    assert not kept_sound(writer.path).exists()


def test_a_tail_that_is_cut_off_sounds_as_it_did(opened, footage, clicks, tmp_path):
    with opened(sound=Sound(clicks())) as writer:
        writer.write(footage.frames(0, 48))
    assert copy_tail(writer.path, 17, tmp_path / "tail.mp4") == 16
    assert_heard(tmp_path / "tail.mp4", 1, 3)
    assert footage.numbers(tmp_path / "tail.mp4") == list(range(16, 48))


def test_a_new_video_has_not_the_sound_of_an_older_one(opened, footage, clicks):
    kept = kept_sound(opened().path)
    kept.parent.mkdir()
    kept.write_bytes(b"an older one's")
    with opened() as writer:
        writer.write(footage.frames(0, 8))
    assert not read_movie(writer.result).sound


def test_the_kind_of_a_sound_is_told(clicks, tmp_path):
    assert kind_of_sound(find_ffmpeg(), clicks("a.mkv", "-c:a", "libopus")) == "opus"
    assert kind_of_sound(find_ffmpeg(), tmp_path / "absent") == ""

"""Videos that creators bring along (sound, crops, trims, deleted files), linked folders, encoders."""

import subprocess
from fractions import Fraction

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.movie import read_movie
from rivulet.tests.host.comfy_server import Server
from rivulet.tests.host.test_nodes import GRAPH

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)


def film(path, seconds=3, sound=True, size="64x64"):
    """A video with a tone, which is louder to the right of its middle."""
    command = [
        find_ffmpeg(),
        "-loglevel",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s={size}:r=16:d={seconds}",
    ]
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}", "-c:a", "aac"]
    subprocess.run([*command, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def sound_seconds(path):
    """How long a file's sound is."""
    command = [
        find_ffmpeg(),
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-map",
        "0:a:0",
        "-ac",
        "1",
        "-ar",
        "8000",
    ]
    raw = subprocess.run([*command, "-f", "s16le", "-"], check=True, capture_output=True).stdout
    return len(raw) / 2 / 8000


@pytest.fixture
def opened(comfyui, tmp_path, monkeypatch):
    """What `open_sound` gives, as (file, first second, seconds); the folder for temporary files."""
    import folder_paths
    from rivulet.nodes.host.incoming import open_sound

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))

    def of(source, **options):
        with open_sound(source, **options) as sound:
            if sound is None:
                return None
            assert sound.path.is_file()
            return sound.path, sound.start_seconds, sound.seconds

    return of


def test_a_video_sounds_where_it_is_seen_and_after_a_trim(opened, tmp_path):
    from comfy_api.v0_0_2 import InputImpl

    path = film(tmp_path / "film.mp4")
    whole = InputImpl.VideoFromFile(str(path))
    trimmed = InputImpl.VideoFromFile(str(path), start_time=0.5, duration=1.0)
    assert opened(whole) == (path, 0.0, None) and opened(whole, after=True) is None
    assert opened(trimmed) == (path, 0.5, 1.0) and opened(trimmed, after=True) == (path, 1.5, None)
    assert opened(torch.zeros(2, 8, 8, 3)) is None


def test_a_video_in_memory_sounds_too(opened, tmp_path):
    from comfy_api.v0_0_2 import InputImpl, Types
    from rivulet.nodes.host.incoming import open_sound

    heard = {
        "waveform": torch.sin(torch.arange(8000) * 0.3)[None, None].expand(1, 2, -1),
        "sample_rate": 8000,
    }
    parts = Types.VideoComponents(images=torch.zeros(16, 8, 8, 3), frame_rate=Fraction(16), audio=heard)
    with open_sound(InputImpl.VideoFromComponents(parts)) as sound:
        assert sound_seconds(sound.path) == 1.0
    assert not sound.path.exists()
    silent = Types.VideoComponents(images=torch.zeros(16, 8, 8, 3), frame_rate=Fraction(16))
    assert opened(InputImpl.VideoFromComponents(silent)) is None
    import io

    packed = io.BytesIO(film(tmp_path / "film.mp4").read_bytes())
    assert opened(InputImpl.VideoFromFile(packed))[1:] == (0.0, None)
    assert not list((tmp_path / "temp").iterdir())


@pytest.mark.parametrize("mode", ["follow", "go on"])
def test_a_video_whose_file_was_deleted_is_refused_before_anything(comfyui, tmp_path, mode):
    from comfy_api.v0_0_2 import InputImpl
    from rivulet.nodes.start_from import RivuletStartFrom

    path = film(tmp_path / "film.mp4", 1)
    begin = RivuletStartFrom.execute(video=InputImpl.VideoFromFile(str(path)), mode=mode).args[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"the video film\.mp4 is not in \S+ any more; put it back, or"):
        begin.read(None, CONFIG, 16.0, 99)


def test_a_video_that_is_none_is_refused_before_anything(comfyui, tmp_path):
    from comfy_api.v0_0_2 import InputImpl
    from rivulet.nodes.run.beginnings import Following

    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 gives no picture"):
        Following(source=InputImpl.VideoFromFile(str(tmp_path / "text.mp4"))).read(None, CONFIG, 16.0, 99)


def test_a_crop_of_a_newer_host_is_honoured(opened, tmp_path):
    """The host that has crops is not out: a VIDEO of ours that shows the right half, as it would."""
    from comfy_api.v0_0_2 import InputImpl, Types
    from rivulet.nodes.host.incoming import open_source

    path = film(tmp_path / "film.mp4", 1, size="128x64")

    class Cropped(InputImpl.VideoFromFile):
        def get_dimensions(self):
            return 64, 64

        def save_to(self, path, **_):
            images = self.get_components().images[:, :, 64:]
            parts = Types.VideoComponents(images=images, frame_rate=Fraction(16))
            InputImpl.VideoFromComponents(parts).save_to(path)

    with open_source(InputImpl.VideoFromFile(str(path)), 16.0) as video:
        whole = video.take(4)
    with open_source(Cropped(str(path)), 16.0) as video:
        half = video.take(4)
    assert whole.shape == (4, 64, 128, 3) and half.shape == (4, 64, 64, 3)
    # the right half but for a second coding, and not the left one
    off = [(part.float() - half.float()).abs().mean() for part in (whole[:, :, 64:], whole[:, :, :64])]
    assert off[0] < off[1] / 4


def stream(**inputs):
    """The Pocket Model's graph with other inputs of Stream Video."""
    return {**GRAPH, "4": {"class_type": "RivuletStream", "inputs": {**GRAPH["4"]["inputs"], **inputs}}}


def followed(name, **inputs):
    return {
        **stream(start=["8", 0], seconds=9.0, **inputs),
        "7": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "8": {
            "class_type": "RivuletStartFrom",
            "inputs": {"video": ["7", 0], "mode": "follow", "fit": "crop", "strength": 0.85},
        },
    }


def test_the_sound_of_a_followed_video_is_in_the_file(server):
    film(server.base / "input" / "film.mp4", 2)
    assert server.run(followed("film.mp4", filename_prefix="sounds"))["status"]["status_str"] == "success"
    made = server.base / "output" / "sounds_00001_.mp4"
    movie = read_movie(made)
    assert (movie.tracks, movie.sound) == (2, True)
    assert abs(sound_seconds(made) - movie.frames / 16) <= 1024 / 44100  # a packet of AAC


def test_a_silent_video_gives_a_silent_file(server):
    film(server.base / "input" / "silent.mp4", 1, sound=False)
    assert server.run(followed("silent.mp4", filename_prefix="silent"))["status"]["status_str"] == "success"
    assert read_movie(server.base / "output" / "silent_00001_.mp4").tracks == 1


def test_an_encoder_that_this_machine_lacks_is_refused_in_a_sentence(server):
    if torch.cuda.is_available():
        pytest.skip("a card may have one")
    done = server.run(stream(encoder="nvenc", filename_prefix="card"))
    assert done["status"]["status_str"] == "error"
    assert "nvenc does not work here with 256x256 pixels" in str(done["status"]["messages"])
    assert not list((server.base / "output").glob("card*"))


def test_small_pictures_are_enlarged_unless_it_is_off_and_coded_as_asked(server):
    sizes = {}
    for name, more in {"large": {}, "small": {"enlarge_small": False}, "poor": {"quality": 45}}.items():
        done = server.run(stream(seconds=0.5, filename_prefix=name, **more))
        assert done["status"]["status_str"] == "success", done["status"]
        made = server.base / "output" / f"{name}_00001_.mp4"
        sizes[name] = read_movie(made).width, made.stat().st_size
    assert (sizes["large"][0], sizes["small"][0], sizes["poor"][0]) == (256, 64, 256)
    assert sizes["poor"][1] < sizes["large"][1]


def test_an_output_folder_that_is_a_link_is_written_listed_and_gone_on_with(comfyui, tmp_path):
    """A link inside of it that leads out is refused by the host, for every node."""
    elsewhere, base = tmp_path / "elsewhere", tmp_path / "base"
    elsewhere.mkdir()
    base.mkdir()
    (base / "output").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "later").mkdir()
    (elsewhere / "linked").symlink_to(elsewhere / "later", target_is_directory=True)
    with Server(comfyui, base) as server:
        done = server.run(stream(seconds=0.5, filename_prefix="linked/take", snapshot="always"))
        assert done["status"]["status_str"] == "success", done["status"]
        made = elsewhere / "later" / "take_00001_.mp4"
        assert read_movie(made) and made.with_name("take_00001_.take").is_dir()
        resume = {"class_type": "RivuletResume", "inputs": {"snapshot": "linked/take_00001_.mp4"}}
        done = server.run({**stream(start=["9", 0], seconds=2.0), "9": resume})
        assert done["status"]["status_str"] == "success", done["status"]
        assert read_movie(made).frames == 33

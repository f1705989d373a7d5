"""Frames that tell their number, and a decoder to read it back."""

import subprocess

import numpy as np
import pytest
import torch
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg

WIDTH, HEIGHT = 32, 16
GREYS = 50  # numbers that can be told apart after lossy coding: grey levels 5 apart


class Footage:
    """Frames whose grey tells their number, modulo GREYS."""

    width, height = WIDTH, HEIGHT

    def frames(self, first, count):
        greys = 5 * (torch.arange(first, first + count) % GREYS)
        return greys.to(torch.uint8)[:, None, None, None].expand(count, HEIGHT, WIDTH, 3).contiguous()

    def decode(self, path):
        """Returns the frames of a file as uint8 [F, H, W, 3], as many as a player can show."""
        command = [find_ffmpeg(), "-loglevel", "quiet", "-nostdin", "-i", str(path)]
        command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, capture_output=True).stdout
        return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)

    def numbers(self, path):
        """Returns the number, modulo GREYS, that each decoded frame tells."""
        return [round(float(frame.mean()) / 5) for frame in self.decode(path)]


@pytest.fixture
def footage():
    return Footage()


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Returns the bytes of a live file of 40 frames with a key frame every 8."""
    from rivulet.model_patches.writer.parts import part_path
    from rivulet.model_patches.writer.video import Mp4Writer

    path = tmp_path_factory.mktemp("live") / "take.mp4"
    with Mp4Writer(path, width=WIDTH, height=HEIGHT, fps=16, keyframe_frames=8) as writer:
        writer.write(Footage().frames(0, 40))
        writer.seal()
        return part_path(path, 1).read_bytes()

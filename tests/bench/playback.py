"""Plays a finished file as a viewer would: how many frames it has, and the last of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import torch
from torch import Tensor

TAIL_SECONDS = 2


def frame_count(path: Path) -> int:
    """Returns the number of frames that ffmpeg finds when it goes through the whole file."""
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    return frames


def last_frame(path: Path, width: int, height: int) -> Tensor:
    """Returns the last frame [H, W, 3] in uint8, reached by a seek to the end as a player's slider does."""
    seek = ["-sseof", f"-{TAIL_SECONDS}", "-i", str(path)]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *seek, *raw]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    size = width * height * 3
    if done.returncode or len(done.stdout) < size:
        said = done.stderr.decode(errors="replace").strip() or "no frame came out"
        raise RuntimeError(f"Playback: the end of {path} does not play ({said}).")
    return torch.frombuffer(bytearray(done.stdout[-size:]), dtype=torch.uint8).view(height, width, 3)


def psnr_db(one: Tensor, other: Tensor) -> float:
    """Returns how close two uint8 pictures are; 100 dB stands for equal ones."""
    error = (one.double() - other.double()).square().mean().item()
    return 100.0 if error == 0 else min(100.0, float(10 * torch.tensor(255.0**2 / error).log10()))

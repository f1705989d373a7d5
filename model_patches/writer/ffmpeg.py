"""The ffmpeg program: search, decoding, error text."""

import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..reason import reason_of

LOOK_SECONDS = 60.0  # to look at a file
INSTALL = "install it with `pip install imageio-ffmpeg`, or put the path of an ffmpeg into IMAGEIO_FFMPEG_EXE"


def find_ffmpeg() -> str:
    """Returns the path of an ffmpeg with H.264; RuntimeError with the way to install one."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as why:
        raise RuntimeError(f"Video writer: no ffmpeg was found ({why}); {INSTALL}.") from why
    problem = _check_program(program)
    if problem:
        raise RuntimeError(f"Video writer: {problem}; {INSTALL}.")
    return program


@functools.lru_cache(maxsize=8)
def _check_program(program: str) -> str | None:
    try:
        answer = subprocess.run(
            [program, "-hide_banner", "-h", "encoder=libx264"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            **process_options(),
        )
    except (OSError, subprocess.SubprocessError) as why:
        return f"{program} does not start ({reason_of(why)})"
    if "libx264 AVOptions" not in answer.stdout:
        return f"{program} has no libx264, the H.264 encoder"
    return None


def told_by(program: str, *arguments: str) -> str:
    """What ffmpeg says for these arguments, on both outputs; "" where it does not start."""
    command = [program, "-hide_banner", "-nostdin", *arguments]
    try:
        told = subprocess.run(command, capture_output=True, timeout=LOOK_SECONDS, **process_options())
    except (OSError, subprocess.SubprocessError):
        return ""
    return (told.stdout + told.stderr).decode(errors="replace")


def decode_command(
    program: str,
    source: Path,
    *,
    fps: Fraction,
    start_seconds: float = 0.0,
    seconds: float | None = None,
    tones: str = "",
) -> list[str]:
    """Returns the command that turns a video file into RGB pictures, PPM after PPM, on standard output.

    The output has `fps` frames per second, each the nearest one of the file, rotated as the file's metadata
    says, with square pixels. seconds: length from start_seconds on; None: to the end. tones: see
    `hdr.tone_mapping`.
    """
    window = ["-ss", f"{start_seconds:.6f}"] * (start_seconds > 0)
    window += [] if seconds is None else ["-t", f"{seconds:.6f}"]
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", *window, "-i", file_url(source)),
        *("-map", "0:v:0", "-an", "-sn", "-dn"),
        *("-vf", f"fps={fps.numerator}/{fps.denominator},{tones}scale=iw*sar:ih,setsar=1,format=rgb24"),
        *("-fps_mode", "passthrough", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"),
    ]


class Decoder:
    """A running ffmpeg that decodes frame by frame, at the pace of the reader."""

    def __init__(self, command: Sequence[str]) -> None:
        # a file, because a pipe that nobody empties would block ffmpeg
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                **process_options(),
            )
        except OSError as why:
            self._stderr.close()
            raise RuntimeError(f"{command[0]} does not start ({reason_of(why)}); {INSTALL}") from why

    def read(self) -> np.ndarray | None:
        """Returns the next frame, uint8 [H, W, 3], or None after the last."""
        stdout = self.process.stdout
        assert stdout
        header = [stdout.readline() for _ in range(3)]
        if header[0] != b"P6\n" or not header[2]:
            return None
        width, height = map(int, header[1].split())
        pixels = stdout.read(height * width * 3)
        if len(pixels) != height * width * 3:
            return None
        return np.frombuffer(bytearray(pixels), np.uint8).reshape(height, width, 3)

    def close(self) -> tuple[int, str]:
        """Returns (exit code, end of stderr or "") once ffmpeg has exited."""
        assert self.process.stdout
        self.process.stdout.close()
        code = self.process.wait()
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace")
        self._stderr.close()
        return code, error_text(text) if text.strip() else ""

    def kill(self) -> None:
        """Kills ffmpeg at once."""
        self.process.kill()
        self.close()


def error_text(stderr_text: str) -> str:
    """Returns the last three lines of stderr, 400 letters at most."""
    lines = [line.strip() for line in stderr_text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-400:] or "it gave no reason"


def process_options() -> dict[str, Any]:
    """Popen's options that keep Ctrl+C in the terminal from ffmpeg, which would drop queued frames."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def file_url(path: Path) -> str:
    """file: URL of a path, which ffmpeg cannot mistake for an option or a protocol."""
    return "file:" + str(path.absolute())

"""The ffmpeg program: search, command lines, processes and their error text."""

import functools
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

INSTALL = "install it with `pip install imageio-ffmpeg`, or put the path of an ffmpeg into IMAGEIO_FFMPEG_EXE"
BT709 = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
# tags that every MP4 player reads; others need the free-form kind of table
COMMON_TAGS = {"title", "artist", "album", "comment", "description", "date", "genre", "copyright"}


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
            **_process_options(),
        )
    except (OSError, subprocess.SubprocessError) as why:
        return f"{program} does not start ({why})"
    if "libx264 AVOptions" not in answer.stdout:
        return f"{program} has no libx264, the H.264 encoder"
    return None


def encode_command(
    program: str,
    target: Path,
    *,
    width: int,
    height: int,
    fps: Fraction,
    keyframe_frames: int,
    crf: int,
    threads: int,
) -> list[str]:
    """Returns the command that turns raw RGB on its standard input into a fragmented MP4.

    Every frame is a fragment, on disk as soon as the next one arrives; the encoder has no lookahead.
    """
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
        # without these it waits for many frames to detect the format named here
        *("-probesize", "32", "-analyzeduration", "0"),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
        *("-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0"),
        *("-an", "-fps_mode", "passthrough"),
        *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams={BT709}"),
        *("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", str(crf)),
        *("-g", str(keyframe_frames), "-keyint_min", str(keyframe_frames), "-sc_threshold", "0"),
        *("-threads", str(threads), "-flush_packets", "1"),
        *("-movflags", "frag_every_frame+empty_moov+default_base_moof", "-f", "mp4", _file_url(target)),
    ]


class Encoder:
    """A running ffmpeg that encodes; EncoderError, with the end of its stderr, when it stops early."""

    def __init__(self, command: Sequence[str]) -> None:
        # a file, because a pipe that nobody empties would block ffmpeg
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                bufsize=0,
                **_process_options(),
            )
        except OSError as why:
            self._stderr.close()
            raise EncoderError(f"{command[0]} does not start ({why}); {INSTALL}") from why

    def write(self, array: np.ndarray) -> None:
        """Sends the array's bytes; blocks until ffmpeg has read them."""
        assert self.process.stdin
        rest = array.data.cast("B")
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) :]
        except OSError as why:
            self.process.kill()
            raise self._exit_error() from why

    def close(self) -> None:
        """Ends the input and blocks until ffmpeg has written everything and exited."""
        assert self.process.stdin
        self.process.stdin.close()
        if self.process.wait():
            raise self._exit_error()
        self._stderr.close()

    def _exit_error(self) -> "EncoderError":
        code = self.process.wait()
        self._stderr.seek(0)
        reason = error_text(self._stderr.read().decode(errors="replace"))
        self._stderr.close()
        return EncoderError(f"ffmpeg stopped with code {code}: {reason}")


class EncoderError(RuntimeError):
    """ffmpeg ended before its input did."""


def decode_command(
    program: str, source: Path, *, fps: Fraction, start_seconds: float = 0.0, seconds: float | None = None
) -> list[str]:
    """Returns the command that turns a video file into RGB pictures, PPM after PPM, on standard output.

    The output has `fps` frames per second, each the nearest one of the file, rotated as the file's metadata
    says, with square pixels. seconds: length from start_seconds on; None: to the end.
    """
    window = ["-ss", f"{start_seconds:.6f}"] * (start_seconds > 0)
    window += [] if seconds is None else ["-t", f"{seconds:.6f}"]
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", *window, "-i", _file_url(source)),
        *("-map", "0:v:0", "-an", "-sn", "-dn"),
        *("-vf", f"fps={fps.numerator}/{fps.denominator},scale=iw*sar:ih,setsar=1,format=rgb24"),
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
                **_process_options(),
            )
        except OSError as why:
            self._stderr.close()
            raise RuntimeError(f"{command[0]} does not start ({why}); {INSTALL}") from why

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


def join(program: str, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Joins the parts into one MP4 with its header first.

    Frames are copied, not encoded again. RuntimeError with ffmpeg's error text where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="rivulet-") as folder:
        parts_list, tags = Path(folder, "parts.txt"), Path(folder, "tags.txt")
        lines = ["ffconcat version 1.0", *(f"file {_quote(_file_url(path))}" for path in parts)]
        parts_list.write_text("\n".join(lines) + "\n", encoding="utf-8")
        tags.write_text(_tags(metadata), encoding="utf-8")
        flags = "faststart" if COMMON_TAGS.issuperset(metadata) else "faststart+use_metadata_tags"
        result = subprocess.run(
            [
                *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
                *("-f", "concat", "-safe", "0", "-i", _file_url(parts_list)),
                *("-f", "ffmetadata", "-i", _file_url(tags), "-map", "0:v", "-map_metadata", "1"),
                *("-c", "copy", "-movflags", flags, "-f", "mp4", _file_url(target)),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            **_process_options(),
        )
    if result.returncode:
        raise RuntimeError(f"ffmpeg stopped with code {result.returncode}: {error_text(result.stderr)}")


def error_text(stderr_text: str) -> str:
    """Returns the last three lines of stderr, 400 letters at most."""
    lines = [line.strip() for line in stderr_text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-400:] or "it gave no reason"


def _process_options() -> dict[str, Any]:
    """Options that keep Ctrl+C in the terminal from ffmpeg, which would drop the frames still queued."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _file_url(path: Path) -> str:
    """file: URL of a path, which ffmpeg cannot mistake for an option or a protocol."""
    return "file:" + str(path.absolute())


def _quote(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


def _tags(metadata: Mapping[str, str]) -> str:
    """Tags as FFMETADATA text; a command line would limit their length."""
    escaped = str.maketrans({c: "\\" + c for c in "=;#\\\n"})
    return ";FFMETADATA1\n" + "".join(
        f"{key.translate(escaped)}={value.translate(escaped)}\n" for key, value in metadata.items()
    )

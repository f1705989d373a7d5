"""The ffmpeg program: where it is, what it is asked to do, and what it said when it failed."""

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
    """Returns the path of an ffmpeg that can write H.264, or says how to get one."""
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as why:
        raise RuntimeError(f"Video writer: no ffmpeg was found ({why}); {INSTALL}.") from why
    fault = _fault(program)
    if fault:
        raise RuntimeError(f"Video writer: {fault}; {INSTALL}.")
    return program


@functools.lru_cache(maxsize=8)
def _fault(program: str) -> str | None:
    try:
        answer = subprocess.run(
            [program, "-hide_banner", "-h", "encoder=libx264"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            **_apart(),
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

    Every frame is a fragment, on disk as soon as the next one comes; the encoder looks at no frame ahead.
    """
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
        # without these it waits for many frames to learn what it is told here
        *("-probesize", "32", "-analyzeduration", "0"),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
        *("-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0"),
        *("-an", "-fps_mode", "passthrough"),
        *("-vf", f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams={BT709}"),
        *("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", str(crf)),
        *("-g", str(keyframe_frames), "-keyint_min", str(keyframe_frames), "-sc_threshold", "0"),
        *("-threads", str(threads), "-flush_packets", "1"),
        *("-movflags", "frag_every_frame+empty_moov+default_base_moof", "-f", "mp4", _name(target)),
    ]


class Encoder:
    """An ffmpeg that is running; raises EncoderError, with its last words, when it stops before it should."""

    def __init__(self, command: Sequence[str]) -> None:
        # a file, because a pipe that nobody empties would block ffmpeg
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                bufsize=0,
                **_apart(),
            )
        except OSError as why:
            self._complaints.close()
            raise EncoderError(f"{command[0]} does not start ({why}); {INSTALL}") from why

    def write(self, array: np.ndarray) -> None:
        """Returns when ffmpeg has taken all bytes of the array; waits while it is behind."""
        assert self.process.stdin
        left = array.data.cast("B")
        try:
            while left:
                left = left[self.process.stdin.write(left) :]
        except OSError as why:
            self.process.kill()
            raise self._death() from why

    def close(self) -> None:
        """Returns when ffmpeg has written all it was given and ended."""
        assert self.process.stdin
        self.process.stdin.close()
        if self.process.wait():
            raise self._death()
        self._complaints.close()

    def _death(self) -> "EncoderError":
        code = self.process.wait()
        self._complaints.seek(0)
        words = last_words(self._complaints.read().decode(errors="replace"))
        self._complaints.close()
        return EncoderError(f"ffmpeg stopped with code {code}: {words}")


class EncoderError(RuntimeError):
    """ffmpeg ended before it was told to."""


def decode_command(
    program: str, source: Path, *, fps: Fraction, start_seconds: float = 0.0, seconds: float | None = None
) -> list[str]:
    """Returns the command that turns a video file into RGB pictures, PPM after PPM, on standard output.

    Of every moment of the output, at `fps`, the nearest picture of the file is taken. Pictures are turned as
    the file says and have square pixels. seconds: of the file, from start_seconds on; None: to its end.
    """
    window = ["-ss", f"{start_seconds:.6f}"] * (start_seconds > 0)
    window += [] if seconds is None else ["-t", f"{seconds:.6f}"]
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", *window, "-i", _name(source)),
        *("-map", "0:v:0", "-an", "-sn", "-dn"),
        *("-vf", f"fps={fps.numerator}/{fps.denominator},scale=iw*sar:ih,setsar=1,format=rgb24"),
        *("-fps_mode", "passthrough", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"),
    ]


class Decoder:
    """An ffmpeg that gives pictures one by one, and waits while nobody takes them."""

    def __init__(self, command: Sequence[str]) -> None:
        # a file, because a pipe that nobody empties would block ffmpeg
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                **_apart(),
            )
        except OSError as why:
            self._complaints.close()
            raise RuntimeError(f"{command[0]} does not start ({why}); {INSTALL}") from why

    def read(self) -> np.ndarray | None:
        """Returns the next picture, uint8 [H, W, 3], or None after the last."""
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
        """Returns (exit code, last words, empty where there were none) once ffmpeg has ended."""
        assert self.process.stdout
        self.process.stdout.close()
        code = self.process.wait()
        self._complaints.seek(0)
        words = self._complaints.read().decode(errors="replace")
        self._complaints.close()
        return code, last_words(words) if words.strip() else ""

    def kill(self) -> None:
        """Ends ffmpeg, whatever it is doing."""
        self.process.kill()
        self.close()


def join(program: str, parts: Sequence[Path], target: Path, metadata: Mapping[str, str]) -> None:
    """Writes the parts one after the other into one MP4, header first.

    Pictures are copied, not encoded again.
    """
    with tempfile.TemporaryDirectory(prefix="rivulet-") as folder:
        parts_list, tags = Path(folder, "parts.txt"), Path(folder, "tags.txt")
        lines = ["ffconcat version 1.0", *(f"file {_quoted(_name(path))}" for path in parts)]
        parts_list.write_text("\n".join(lines) + "\n", encoding="utf-8")
        tags.write_text(_tags(metadata), encoding="utf-8")
        flags = "faststart" if COMMON_TAGS.issuperset(metadata) else "faststart+use_metadata_tags"
        done = subprocess.run(
            [
                *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
                *("-f", "concat", "-safe", "0", "-i", _name(parts_list)),
                *("-f", "ffmetadata", "-i", _name(tags), "-map", "0:v", "-map_metadata", "1"),
                *("-c", "copy", "-movflags", flags, "-f", "mp4", _name(target)),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            **_apart(),
        )
    if done.returncode:
        raise RuntimeError(f"ffmpeg stopped with code {done.returncode}: {last_words(done.stderr)}")


def last_words(complaints: str) -> str:
    """Returns the end of what ffmpeg complained about, short enough for a sentence."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-400:] or "it said nothing"


def _apart() -> dict[str, Any]:
    """Ctrl+C in the terminal must not reach ffmpeg: it would stop before the frames still on their way."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _name(path: Path) -> str:
    """A file's name that ffmpeg takes neither for an option nor for a protocol."""
    return "file:" + str(path.absolute())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


def _tags(metadata: Mapping[str, str]) -> str:
    """ffmpeg's own text form of tags: a command line would limit their length."""
    escaped = str.maketrans({c: "\\" + c for c in "=;#\\\n"})
    return ";FFMETADATA1\n" + "".join(
        f"{key.translate(escaped)}={value.translate(escaped)}\n" for key, value in metadata.items()
    )

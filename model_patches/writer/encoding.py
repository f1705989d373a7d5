"""How a video is coded: which encoder, how well, and how large a small picture is drawn.

H.264 with 4:2:0 halves the colours' resolution, which makes staircases of the edges of a small picture. 4:4:4
would keep them, but hardware decoders, Apple's players and Windows' own show no H.264 of that kind, so small
pictures are enlarged by an even whole factor instead: every player shows them, and each of their pixels has
colours of its own.
"""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from fractions import Fraction

from .ffmpeg import error_text, process_options
from .movie import Movie
from .text import WHO

X264, NVENC = "x264", "nvenc"
ENCODERS = {
    X264: "the processor codes, on every machine",
    NVENC: "a circuit of an NVIDIA card codes, where it has one, and the processor is free; some of the "
    "card's memory is taken, and its quality numbers are not those of x264",
}
DEFAULT_CRF = 18
SMALL_SIDE = 256  # pixels: pictures of which a side is shorter are enlarged
LONG_SIDE = 4096  # pixels: none is enlarged to more, which is what NVENC and many players' decoders take
X264_MOST = 16384  # pixels: the longest side that x264 takes
NVENC_LEAST = 146, 50  # pixels: the smallest even width and height that NVENC's H.264 takes
PROBE_SECONDS = 60.0
_LABEL = re.compile(r"Rivulet: (\w+), crf (\d+), enlarged (\d+)x")


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a writer codes with; ValueError where there is no such encoder or quality."""

    encoder: str = X264  # one of ENCODERS
    crf: int = DEFAULT_CRF  # quality, no unit: 0 is best and largest, 51 worst; NVENC calls it cq
    enlarge: bool = False  # whether small pictures are drawn larger in the file

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"{WHO}: there is no encoder {self.encoder!r}; choose {' or '.join(ENCODERS)}.")
        if not isinstance(self.crf, int) or isinstance(self.crf, bool) or not 0 <= self.crf <= 51:
            raise ValueError(f"{WHO}: crf must be a whole number from 0 to 51, got {self.crf!r}.")

    def coding(self, width: int, height: int) -> Coding:
        """The coding of pictures of this size in pixels."""
        return Coding(self.encoder, self.crf, factor_for(width, height) if self.enlarge else 1)


USUAL = Encoding()


def factor_for(width: int, height: int) -> int:
    """How many times larger a picture is drawn in its file: 1, or the least even number that makes it big.

    It is less where the longer side would have too many pixels.
    """
    side = min(width, height)
    if side >= SMALL_SIDE:
        return 1
    most = 2 * (LONG_SIDE // (2 * max(width, height)))
    return max(1, min(2 * -(-SMALL_SIDE // (2 * side)), most))


@dataclass(frozen=True, slots=True)
class Coding:
    """How one file is coded."""

    encoder: str = X264
    crf: int = DEFAULT_CRF
    factor: int = 1  # pixels of the file for one of the stream, in either direction

    @property
    def label(self) -> str:
        """What the file's track is called, so that it can be gone on with; "" for the usual coding."""
        if self == Coding():
            return ""
        return f"Rivulet: {self.encoder}, crf {self.crf}, enlarged {self.factor}x"

    @property
    def words(self) -> str:
        """For a sentence."""
        return f"{self.encoder} at quality {self.crf}"

    def filters(self, width: int, height: int) -> str:
        """ffmpeg's filter that enlarges pictures of this size, and a comma; "" where they stay."""
        if self.factor == 1:
            return ""
        return f"scale={width * self.factor}:{height * self.factor}:flags=neighbor,"

    def options(self, keyframe_frames: int, threads: int) -> list[str]:
        """ffmpeg's options of the encoder: no lookahead, a key frame every so many frames."""
        every = ["-g", str(keyframe_frames), "-keyint_min", str(keyframe_frames), "-sc_threshold", "0"]
        if self.encoder == X264:
            quality = ["-preset", "veryfast", "-tune", "zerolatency", "-crf", str(self.crf)]
            return ["-c:v", "libx264", *quality, *every, "-threads", str(threads)]
        # cq 0 would mean that the encoder chooses
        quality = ["-preset", "p4", "-tune", "ll", "-rc", "vbr", "-cq", str(max(1, self.crf)), "-b:v", "0"]
        latency = ["-bf", "0", "-rc-lookahead", "0", "-zerolatency", "1", "-delay", "0", "-no-scenecut", "1"]
        return ["-c:v", "h264_nvenc", *quality, *latency, "-g", str(keyframe_frames), "-forced-idr", "1"]

    def check(self, program: str, width: int, height: int, fps: Fraction) -> None:
        """ValueError where this machine cannot code pictures of this size so; a frame is coded to know."""
        size = width * self.factor, height * self.factor
        if self.encoder == X264:  # without it no ffmpeg is taken at all
            if max(size) > X264_MOST:
                raise ValueError(
                    f"{WHO}: {X264} codes pictures of up to {X264_MOST} pixels a side, and these are "
                    f"{size[0]}x{size[1]}; make the stream smaller, or take a VAE that does not draw twice "
                    f"its size."
                )
            return
        if size[0] < NVENC_LEAST[0] or size[1] < NVENC_LEAST[1]:
            raise ValueError(
                f"{WHO}: {NVENC} codes pictures from {NVENC_LEAST[0]}x{NVENC_LEAST[1]} on, and these are "
                f"{size[0]}x{size[1]}; choose the encoder {X264}, or have small pictures enlarged."
            )
        _try(program, self, *size, fps)


@functools.lru_cache(maxsize=16)
def _try(program: str, coding: Coding, width: int, height: int, fps: Fraction) -> None:
    """Codes two frames into nothing; what has worked once is not tried again."""
    command = [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-f", "rawvideo"),
        *("-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
        *("-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0", "-vf", "format=yuv420p"),
        *(*coding.options(1, 0), "-f", "null", "-"),
    ]
    try:
        told = subprocess.run(
            command,
            input=bytes(2 * width * height * 3),
            capture_output=True,
            timeout=PROBE_SECONDS,
            **process_options(),
        )
        words = error_text(told.stderr.decode(errors="replace")) if told.returncode else ""
    except (OSError, subprocess.SubprocessError) as why:
        words = str(why)
    if words:
        raise ValueError(
            f"{WHO}: the encoder {coding.encoder} does not work here with {width}x{height} pixels ({words}). "
            f"It needs an NVIDIA card that has one, its driver, and an ffmpeg with h264_nvenc; choose the "
            f"encoder {X264}."
        )


def coding_of(movie: Movie) -> Coding:
    """How a file is coded, as its track says; the usual coding where it says nothing."""
    match = _LABEL.fullmatch(movie.name)
    if not match or match[1] not in ENCODERS:
        return Coding()
    return Coding(match[1], int(match[2]), max(1, int(match[3])))

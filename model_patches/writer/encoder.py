"""An ffmpeg that encodes: its command line, and the process, which may die or hang at any time."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..reason import reason_of
from .encoding import Coding
from .ffmpeg import INSTALL, error_text, file_url, process_options
from .lock import hold

BT709 = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
YUV = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
HANG_SECONDS = 60.0
SLICE_BYTES = 1 << 20  # between two looks at whether ffmpeg still takes any
POLL_SECONDS, EXIT_SECONDS = 0.1, 0.005
DEAD_SECONDS = 5.0  # a killed process that does not end for so long waits for its disk
FULL = ("No space left", "Disk quota exceeded", "not enough space on the disk")
FULL_CODES = {228, 134}  # ffmpeg gives the low byte of ENOSPC and EDQUOT, negated


class EncoderError(RuntimeError):
    """ffmpeg ended before its input did, did not start, or hung."""


class DiskFullError(EncoderError):
    """ffmpeg ended because its disk is full."""


def encode_command(
    program: str,
    target: Path,
    coding: Coding,
    *,
    width: int,
    height: int,
    fps: Fraction,
    keyframe_frames: int,
    threads: int,
    tags: Path | None = None,
) -> list[str]:
    """Returns the command that turns raw RGB on its standard input into a fragmented MP4.

    width, height: pixels of what comes in; the file's are `coding.factor` times as many.
    Every frame is a fragment, on disk as soon as the next one arrives; the encoder has no lookahead. tags: a
    file of FFMETADATA, which is read at once and stands in the first box.
    """
    named = ["-metadata:s:v:0", f"handler_name={coding.label}"] if coding.label else []
    # asked for before the pictures, which come when there are any
    tagged = ["-f", "ffmetadata", "-i", file_url(tags)] if tags else []
    chosen = ["-map", "1:v", "-map_metadata", "0"] if tags else []
    flags = "frag_every_frame+empty_moov+default_base_moof" + ("+use_metadata_tags" if tags else "")
    return [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *tagged),
        # without these it waits for many frames to detect the format named here
        *("-probesize", "32", "-analyzeduration", "0"),
        *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
        *("-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0"),
        *(*chosen, "-an", "-fps_mode", "passthrough"),
        *("-vf", f"{coding.filters(width, height)}{YUV},setparams={BT709}"),
        *(*coding.options(keyframe_frames, threads), *named, "-flush_packets", "1"),
        *("-movflags", flags, "-f", "mp4", file_url(target)),
    ]


class Encoder:
    """A running ffmpeg that encodes into one part; EncoderError, with the end of its stderr, when it stops.

    A thread of its own watches that it takes what it is sent, and kills it after `hang_seconds` without.
    """

    def __init__(self, command: Sequence[str], part: Path, hang_seconds: float = HANG_SECONDS) -> None:
        self.hang_seconds = hang_seconds
        self._steps = 0  # grows with what is taken
        self._writing = self._hung = False
        self._over = threading.Event()
        # a file, because a pipe that nobody empties would block ffmpeg
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        try:
            # ffmpeg outlives a program that is killed by what is in its pipe, and holds this as long
            with hold(part) as kept:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    bufsize=0,
                    **process_options(),
                    **kept,
                )
        except OSError as why:
            self._stderr.close()
            raise EncoderError(f"{command[0]} does not start ({reason_of(why)}); {INSTALL}") from why
        threading.Thread(target=self._watch, name=f"watch of {part.name}", daemon=True).start()

    def write(self, array: np.ndarray) -> None:
        """Sends the array's bytes; blocks until ffmpeg has read them."""
        stdin, rest = self.process.stdin, array.data.cast("B")
        assert stdin
        self._steps, self._writing = self._steps + 1, True
        try:
            while rest:
                rest = rest[stdin.write(rest[:SLICE_BYTES]) :]
                self._steps += 1
        except OSError as why:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(DEAD_SECONDS)  # it may still be saying why
            self.kill()
            raise self.exit_error() from why
        finally:
            self._writing = False

    def close(self) -> None:
        """Ends the input and blocks until ffmpeg has written everything and exited."""
        assert self.process.stdin
        self.process.stdin.close()
        since = time.monotonic()
        while (code := self.process.poll()) is None:
            if time.monotonic() - since > self.hang_seconds:
                raise self.hung("did not end")
            time.sleep(EXIT_SECONDS)
        self._over.set()
        if code:
            raise self.exit_error()
        self._stderr.close()

    def kill(self) -> None:
        """Ends ffmpeg at once, if it still runs; what it had written stays. For the thread that writes."""
        if self._over.is_set():
            return
        self._over.set()
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEAD_SECONDS)
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()

    def hung(self, what: str = "took no frame") -> EncoderError:
        """Kills ffmpeg and returns the error of one that does nothing any more."""
        self.kill()
        return EncoderError(
            f"ffmpeg {what} for {self.hang_seconds:g} seconds, so it was stopped; the disk may hang"
        )

    def exit_error(self) -> EncoderError:
        """Returns the error of an ffmpeg that has ended."""
        self._over.set()
        if self._hung:
            return self.hung()
        self._stderr.seek(0)
        reason = error_text(self._stderr.read().decode(errors="replace"))
        self._stderr.close()
        code = self.process.poll()
        if code in FULL_CODES or any(words in reason for words in FULL):
            return DiskFullError("the disk is full")
        return EncoderError(f"ffmpeg stopped with code {code}: {reason}")

    def _watch(self) -> None:
        """The thread: ends an ffmpeg that leaves what it is sent in its pipe."""
        seen, since = -1, 0.0
        while not self._over.wait(min(POLL_SECONDS, self.hang_seconds / 4)):
            if not self._writing or self._steps != seen:
                seen, since = self._steps, time.monotonic()
            elif time.monotonic() - since > self.hang_seconds:
                self._hung = True
                return self.process.kill()

"""An ffmpeg that encodes: its command line, and the process, which may die or hang at any time."""

from __future__ import annotations

import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from .ffmpeg import INSTALL, error_text, file_url, process_options
from .lock import hold

BT709 = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
HANG_SECONDS = 60.0
SLICE_BYTES = 1 << 18  # between two looks at whether ffmpeg still takes any
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
        *("-movflags", "frag_every_frame+empty_moov+default_base_moof", "-f", "mp4", file_url(target)),
    ]


class Encoder:
    """A running ffmpeg that encodes into one part; EncoderError, with the end of its stderr, when it stops.

    A thread of its own sends the bytes, so that neither an ffmpeg nor a disk that hangs holds the caller up
    for longer than `hang_seconds`.
    """

    def __init__(self, command: Sequence[str], part: Path, hang_seconds: float = HANG_SECONDS) -> None:
        self.hang_seconds = hang_seconds
        self._items: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._taken = threading.Semaphore(0)  # one for each array that ffmpeg has read, or that failed
        self._sent, self._broken, self._over = 0, False, False
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
            raise EncoderError(f"{command[0]} does not start ({why}); {INSTALL}") from why
        threading.Thread(target=self._send, name=f"pipe to {part.name}", daemon=True).start()

    def write(self, array: np.ndarray) -> None:
        """Sends the array's bytes; blocks until ffmpeg has read them."""
        self._items.put(array)
        self._wait_for_pipe("took no frame")
        if self._broken:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(DEAD_SECONDS)  # it may still be saying why
            self.kill()
            raise self.exit_error()

    def close(self) -> None:
        """Ends the input and blocks until ffmpeg has written everything and exited."""
        self._items.put(None)
        self._wait_for_pipe("took no end")
        since = time.monotonic()
        while (code := self.process.poll()) is None:
            if time.monotonic() - since > self.hang_seconds:
                raise self.hung("did not end")
            time.sleep(EXIT_SECONDS)
        if code:
            raise self.exit_error()
        self._over = True
        self._stderr.close()

    def kill(self) -> None:
        """Ends ffmpeg at once, if it still runs; what it had written stays."""
        if self._over:
            return
        self._over = True
        self.process.kill()
        self._items.put(None)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEAD_SECONDS)

    def _send(self) -> None:
        """The thread: array after array into the pipe."""
        stdin = self.process.stdin
        assert stdin
        while (array := self._items.get()) is not None:
            rest = array.data.cast("B")
            try:
                while rest:
                    count = stdin.write(rest[:SLICE_BYTES]) or 0
                    rest, self._sent = rest[count:], self._sent + count
            except (OSError, ValueError):
                self._broken = True
            del array, rest
            self._taken.release()
        with suppress(OSError):
            stdin.close()
        self._taken.release()

    def _wait_for_pipe(self, what: str) -> None:
        sent, since = self._sent, time.monotonic()
        while not self._taken.acquire(timeout=min(POLL_SECONDS, self.hang_seconds)):
            if self._sent != sent:
                sent, since = self._sent, time.monotonic()
            elif time.monotonic() - since > self.hang_seconds:
                raise self.hung(what)

    def hung(self, what: str) -> EncoderError:
        """Kills ffmpeg and returns the error of one that does nothing any more."""
        self.kill()
        return EncoderError(
            f"ffmpeg {what} for {self.hang_seconds:g} seconds, so it was stopped; the disk may hang"
        )

    def exit_error(self) -> EncoderError:
        """Returns the error of an ffmpeg that has ended."""
        code = self.process.poll()
        self._over = True
        self._stderr.seek(0)
        reason = error_text(self._stderr.read().decode(errors="replace"))
        self._stderr.close()
        if code in FULL_CODES or any(words in reason for words in FULL):
            return DiskFullError("the disk is full")
        return EncoderError(f"ffmpeg stopped with code {code}: {reason}")

"""A sound that goes along with a video.

It is kept in the folder of the video's take, whole from the video's first frame on, and laid under the frames
whenever they are joined: a part has none, and a video that is gone on with has more of it.
"""

from __future__ import annotations

import logging
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .ffmpeg import error_text, file_url, process_options, told_by
from .movie import read_movie

log = logging.getLogger(__name__)

FOLDER = ".take"  # ending of the folder beside a video, `name.take` for `name.mp4`
AS_IT_IS = ("aac",)  # kinds of sound that every player of MP4 plays; others are coded as AAC
SECONDS = 3600.0  # for coding; an hour of sound takes well under a minute
_AUDIO = re.compile(r"^\s*Stream #\S+ Audio: (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound of a file that any ffmpeg reads, from a moment of it on."""

    path: Path
    start_seconds: float = 0.0  # what of it belongs to the video's first frame
    seconds: float | None = None  # how much; None: to its end


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """What is laid under the frames of a video that is being joined."""

    path: Path
    start_seconds: float
    seconds: float  # no more than the frames are shown

    @property
    def inputs(self) -> list[str]:
        """ffmpeg's input."""
        start = ["-ss", f"{self.start_seconds:.6f}"] if self.start_seconds else []
        return [*start, "-t", f"{self.seconds:.6f}", "-i", file_url(self.path)]


def kept_sound(video: Path) -> Path:
    """Where the sound of a video lies, if it has one."""
    return video.with_name(video.stem + FOLDER) / "sound.m4a"


def kind_of_sound(program: str, path: Path) -> str:
    """The kind of a file's first sound track, as ffmpeg calls it; "" without one."""
    found = _AUDIO.search(told_by(program, "-i", file_url(path)))
    return found[1] if found else ""


def keep(program: str, sound: Sound, target: Path) -> bool:
    """Writes the sound there; False, and no file, where there is none or it cannot be read, which is told."""
    kind = kind_of_sound(program, sound.path)
    if not kind:
        return False
    if kind in AS_IT_IS and not sound.start_seconds:  # else the cut would lie between two packets
        coded = ["-c:a", "copy"] + ([] if sound.seconds is None else ["-t", f"{sound.seconds:.6f}"])
    else:
        # not -ss: where a file's index is coarse, it is off by tenths of a second
        length = "" if sound.seconds is None else f":duration={sound.seconds:.6f}"
        cut = f"atrim=start={sound.start_seconds:.6f}{length},asetpts=PTS-{sound.start_seconds:.6f}/TB"
        coded = ["-af", f"{cut},aresample=async=1:first_pts=0", "-c:a", "aac"]
    new = target.with_name(target.name + ".new")
    command = [
        *(program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
        *("-i", file_url(sound.path), "-map", "0:a:0", "-map_metadata", "-1", *coded),
        *("-f", "mp4", file_url(new)),
    ]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        told = subprocess.run(command, capture_output=True, timeout=SECONDS, **process_options())
        words = error_text(told.stderr.decode(errors="replace")) if told.returncode else ""
        if not words and kind_of_sound(program, new):
            new.replace(target)
            return True
    except (OSError, subprocess.SubprocessError) as why:
        words = str(why)
    with suppress(OSError):
        new.unlink()
    if words:
        log.warning("Video writer: the sound of %s is left out (%s).", sound.path.name, words)
    return False


def prepare(program: str, video: Path, sound: Sound | None, *, go_on: bool) -> None:
    """Keeps what a video is to sound like, as its writer opens: its own sound, where it is gone on with."""
    kept = kept_sound(video)
    if not go_on:
        kept.unlink(missing_ok=True)
    elif video.is_file():
        movie = read_movie(video)
        sound = Sound(video) if movie and movie.sound else None
    if sound is not None and not kept.is_file():
        keep(program, sound, kept)


def forget(video: Path) -> None:
    """Deletes a sound that nobody keeps anything else beside."""
    kept = kept_sound(video)
    with suppress(OSError):
        if {path.name for path in kept.parent.iterdir()} <= {kept.name}:
            kept.unlink(missing_ok=True)
            kept.parent.rmdir()

"""Takes in the host's output folder, by the paths of their videos inside it: the values of nodes' lists."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

import folder_paths
from comfy.cli_args import args

from ...model_patches.takes.folder import ENDING, TakeFolder
from ...model_patches.takes.listing import find_videos
from ...model_patches.takes.standing import EARLIER
from ...model_patches.viewers.live import Address
from ...model_patches.writer.parts import files_of

VIDEO = ".mp4"


def output_folder() -> Path:
    """Where the host puts what it makes."""
    return Path(folder_paths.get_output_directory())


def list_names() -> list[str]:
    """Videos of the takes in the output folder, the newest first."""
    root = output_folder()
    times = {video: _changed(video) for video in find_videos(root)}
    newest_first = sorted(times, key=lambda video: (times[video], video), reverse=True)
    return [video.relative_to(root).as_posix() for video in newest_first]


def _changed(video: Path) -> float:
    """When the newest of its snapshots came, or its video did; seconds since 1970."""
    for path in (TakeFolder(video).path, video):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def video_path(who: str, name: str) -> Path:
    """Where a take's video lies, whatever of the take was named: the video or a snapshot of it.

    who: the node that asks. ValueError for a name that leaves the output folder.
    """
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in "".join(inside.parts[:1]):
        raise ValueError(
            f"{who}: {_short(name)} lies outside ComfyUI's output folder; choose one of the takes listed."
        )
    if inside.parent.name.endswith(ENDING):
        inside = inside.parent.with_suffix(VIDEO)
    elif name.endswith(EARLIER):
        inside = inside.with_name(inside.name.removesuffix(EARLIER) + VIDEO)
    return output_folder() / inside


def find_take(who: str, name: str) -> Path:
    """Where the video of a take lies, or did; ValueError where there is nothing of the take."""
    path = video_path(who, name)
    with suppress(OSError, ValueError):  # a name that no file can have
        if TakeFolder(path).path.is_dir() or files_of(path):
            return path
    raise ValueError(
        f"{who}: there is no take {_short(name)} in ComfyUI's output folder; press R and choose one that is "
        f"there."
    )


class TakeStamps:
    """Texts that stand for takes as they lie on disk: another one when somebody else changed the take.

    What the run changes that a take was asked for is its own result: the host may give that once more.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[str, str]] = {}  # by name: what lies there, and the text for it

    def stamp(self, who: str, name: str) -> str:
        """The text for a take. who: the node that asks."""
        there = _there(video_path(who, name))
        known = self._stamps.get(name)
        if known is None or known[0] != there:
            known = self._stamps[name] = there, there
        return f"{name} {known[1]}"

    def settle(self, video: Path) -> None:
        """A take as it lies there now is what was made of the one before."""
        if (name := name_of(video)) in self._stamps:
            self._stamps[name] = _there(video), self._stamps[name][1]


RESUMED = TakeStamps()  # of takes that are gone on with
BEGUN_WITH = TakeStamps()  # of takes that new streams begin with


def _there(video: Path) -> str:
    times = []
    for path in (video, TakeFolder(video).path):
        with suppress(OSError, ValueError):
            times.append(str(path.stat().st_mtime_ns))
    return " ".join(times)


def name_of(video: Path) -> str:
    """The value that lists have for a take; its file's name where it lies outside the output folder."""
    root = output_folder()
    return video.relative_to(root).as_posix() if video.is_relative_to(root) else video.name


def view_of(path: Path) -> dict[str, str]:
    """A file of the output folder as the host's `/view`, its history and its lists of media name it."""
    inside = PurePosixPath(name_of(path))
    subfolder = "" if inside.parent == PurePosixPath() else str(inside.parent)
    return {"filename": inside.name, "subfolder": subfolder, "type": "output"}


def address_of(path: Path) -> Address:
    """Under which names pages find a file of the output folder: one of several users learns no more of it."""
    return Address(name_of(path) if args.multi_user else str(path), view_of(path))


def _short(name: str) -> str:
    return ascii(name) if len(name) <= 100 else f"{name[:100]!a}..."

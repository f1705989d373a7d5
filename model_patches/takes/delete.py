"""Deleting a take: its video, its parts and the folder beside it, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..reason import reason_of
from ..viewers.takes import ALL, BusyError
from ..writer.copying import working_files
from ..writer.lock import FileLock, LockedError
from ..writer.parts import find_parts, joined_path
from ..writer.sound import kept_sound
from .folder import LEFTOVERS, TakeFolder
from .standing import EARLIER


def delete_take(folder: TakeFolder, what: str) -> None:
    """Deletes all of a take, or its folder alone. what: of DELETED.

    A folder that holds anything else stays with that in it; parts that stay keep their sound there, which
    joining lays under them. BusyError while a run writes the take; ValueError
    with a sentence where something cannot be deleted: what was deleted by then is gone.
    """
    video = folder.video
    lock = FileLock(video)
    try:
        lock.acquire()
    except LockedError as why:
        raise BusyError(f"{video.name} is being made now; stop it first.") from why
    except OSError as why:
        raise ValueError(
            f"{video.parent} cannot be written ({reason_of(why)}), so nothing is deleted."
        ) from why
    try:
        if folder.video.exists() and not _is_take(folder):
            raise ValueError(
                f"{folder.path.name} holds nothing of a take, so {video.name} may be another's: nothing is "
                f"deleted."
            )
        # the folder first: what a kill leaves is a video that plays, not snapshots of none
        left = _delete_folder(folder, parts_stay=what != ALL and bool(find_parts(video)))
        for path in _videos(video) if what == ALL else ():
            path.unlink(missing_ok=True)
    except OSError as why:
        raise ValueError(f"{why.filename or video.name} cannot be deleted ({reason_of(why)}).") from why
    finally:
        lock.release()
    if left:
        raise ValueError(
            f"{folder.path.name} is kept: it holds {left}, which is not of the take. The rest is deleted."
        )


def _is_take(folder: TakeFolder) -> bool:
    """Whether more than the name of a folder says so."""
    kept = (*_own(folder), folder.video.with_name(folder.video.stem + EARLIER))
    return any(path.exists() for path in kept) or bool(find_parts(folder.video))


def _own(folder: TakeFolder) -> set[Path]:
    """What lies in a take's folder and is its own, but for what a kill left of writing it."""
    named = {folder.about, folder.timeline, folder.watch, folder.picture, kept_sound(folder.video)}
    return named | {each.path for each in folder.snapshots()}


def _videos(video: Path) -> list[Path]:
    earlier = video.with_name(video.stem + EARLIER)
    files = [*(part.path for part in find_parts(video)), video]
    # what a kill left of joining or cutting
    working = [each for file in files for each in working_files(file)]
    return [earlier, *working, *files[:-1], joined_path(video), video]


def _delete_folder(folder: TakeFolder, *, parts_stay: bool) -> str:
    """Deletes what is a take's own, except the sound of parts that stay; the name of what is not, or ""."""
    sound = kept_sound(folder.video)
    own = _own(folder) - ({sound} if parts_stay else set())
    if folder.path.is_symlink() or not folder.path.is_dir():
        return ""
    for path in folder.path.iterdir():
        if path in own or path.name.endswith(LEFTOVERS):
            path.unlink()
    left = list(folder.path.iterdir())
    if not left:
        with suppress(FileNotFoundError):
            folder.path.rmdir()
    return next((path.name for path in left if path != sound), "")

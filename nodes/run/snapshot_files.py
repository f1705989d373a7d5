"""Snapshots of earlier takes in the host's output folder, for the nodes that begin with one."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .take import ENDING


def list_snapshots() -> list[str]:
    """Snapshots in the output folder, newest first, as paths inside it."""
    folder = Path(folder_paths.get_output_directory())
    if not folder.is_dir():
        return []
    paths = sorted(folder.rglob(f"*{ENDING}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.relative_to(folder).as_posix() for path in paths]


def snapshot_path(who: str, snapshot: str) -> Path:
    """Where a snapshot lies; refused outside the output folder. who: the node that asks."""
    folder = Path(folder_paths.get_output_directory()).resolve()
    path = (folder / snapshot).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(
            f"{who}: {snapshot!r} lies outside ComfyUI's output folder; choose one of those listed."
        )
    return path


def find_snapshot(who: str, snapshot: str) -> Path:
    """Where a snapshot lies; refused if it is not there."""
    path = snapshot_path(who, snapshot)
    if not path.is_file():
        raise ValueError(
            f"{who}: there is no {snapshot} in ComfyUI's output folder; press R and choose a snapshot that "
            f"is there."
        )
    return path


def snapshot_stamp(who: str, snapshot: str) -> str:
    """A text that changes when the file does."""
    path = snapshot_path(who, snapshot)
    return f"{snapshot} {path.stat().st_mtime_ns if path.is_file() else ''}"

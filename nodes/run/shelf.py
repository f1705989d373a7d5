"""The takes in the output folder as pages see them: under ids that cannot be guessed."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from comfy.cli_args import args

from ...model_patches.takes.delete import delete_take
from ...model_patches.takes.directed import timeline_of
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.listing import Take, describe, list_takes
from ...model_patches.takes.standing import RUNNING
from ...model_patches.viewers.takes import ALL, BusyError, GoOn
from .next_run import NEXT_RUNS, NextRun
from .take_files import name_of, output_folder

MOST_LISTED = 500  # newest takes that a page is told
MAX_PICTURE_BYTES = 1 << 20


class Shelf:
    """What the routes of docs/preview.md are answered from. Thread-safe."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._known: dict[str, Path] = {}  # videos by id
        self._deleted = Counter[Path]()
        self._lock = threading.Lock()

    def id_of(self, video: Path) -> str:
        """The id of a take, for as long as the server runs."""
        with self._lock:
            # a page that still lists a deleted take means no later one of its name
            named = f"{self._deleted[video]} {video}".encode(errors="surrogateescape")
            take = hmac.new(self._secret, named, hashlib.sha256).hexdigest()[:32]
            self._known[take] = video
        return take

    def listed(self) -> list[dict[str, Any]]:
        return [self._told(take) for take in list_takes(output_folder())[:MOST_LISTED]]

    def picture(self, take: str) -> bytes | None:
        try:
            with TakeFolder(self._video(take)).picture.open("rb") as file:
                return file.read(MAX_PICTURE_BYTES)
        except OSError:
            return None

    def timeline(self, take: str) -> str:
        return timeline_of(TakeFolder(self._video(take)))

    def delete(self, take: str, what: str) -> None:
        video = self._video(take)
        if args.multi_user:
            raise ValueError(
                f"This ComfyUI has several users (--multi-user), whose takes lie in one folder, and does not "
                f"know whose {video.name} is; delete its files there."
            )
        delete_take(TakeFolder(video), what)
        if what == ALL:
            with self._lock:
                self._known.pop(take, None)
                self._deleted[video] += 1

    def go_on(self, take: str, wish: GoOn) -> None:
        video = self._video(take)
        found = describe(video)
        if found.standing == RUNNING:
            raise BusyError(f"{video.name} is being made now; redo it with the controls of its stream.")
        if not found.can_go_on:
            raise ValueError(found.reason)
        if wish.redo.frame is not None and wish.redo.frame >= found.frames:
            raise ValueError(
                f"{video.name} has {found.frames} pictures, so none of them is number {wish.redo.frame}; "
                f"choose an earlier one."
            )
        NEXT_RUNS.wish(wish.client, wish.workflow, wish.node, NextRun(name_of(video), wish.redo))

    def _video(self, take: str) -> Path:
        with self._lock:
            return self._known[take]

    def _told(self, take: Take) -> dict[str, Any]:
        return {
            "id": self.id_of(take.path),
            "name": name_of(take.path),
            "seconds": take.seconds,
            "frames": take.frames,
            "fps": take.fps,
            "width": take.width,
            "height": take.height,
            "changed": take.changed,
            "standing": take.standing,
            "reason": take.reason,
            "prompt": take.text or "",
            "recoverable": take.can_go_on,
            "deletable": take.standing != RUNNING and not args.multi_user,
        }


SHELF = Shelf()

"""A soak in several goes: the stream and what was seen of it lie in a folder; a kill costs minutes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...model_patches.stream.caller import Caller
from ...model_patches.stream.snapshot import load, read_header, save
from ...model_patches.stream.state import StreamState
from ...pocket.defaults import Names
from .playback import frame_count
from .subject import Subject

STREAM, SEEN = "stream.safetensors", "seen.json"


@dataclass
class Go:
    """One process's share of a soak, up to where the folder was written last."""

    file: str  # name of its video
    first_block: int
    blocks: int = 0  # of the whole stream by then
    frames: int = 0  # in its video by then
    growth_bytes: float = 0.0
    seconds: float = 0.0

    def is_playable(self, folder: Path) -> bool:
        """Whether its video, finished or killed, shows all frames that it had by then."""
        found = sorted(folder.glob(f"{Path(self.file).stem}*.mp4"))
        return bool(found) and sum(frame_count(path) for path in found) >= self.frames


@dataclass
class Kept:
    """This go, and earlier ones."""

    go: Go
    earlier: list[Go] = field(default_factory=list)

    def write(self, folder: Path, caller: Caller, state: StreamState, seen: Mapping[str, object]) -> None:
        """Writes where the stream stands and what was seen of it, of one moment, whole or not at all."""
        about = {"goes": [asdict(go) for go in (*self.earlier, self.go)], **seen}
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{state.block}-{STREAM}"
        save(caller, state, folder / name)
        partial = folder / f"{SEEN}.partial"
        partial.write_text(json.dumps(about | {"stream": name}), encoding="utf-8")
        os.replace(partial, folder / SEEN)
        for old in folder.glob(f"*-{STREAM}"):
            if old.name != name:
                old.unlink()


def names_in(folder: Path | None) -> Names | None:
    """Cache and memory of the stream in the folder; None where there is none."""
    if folder is None or not (folder / SEEN).exists():
        return None
    header = read_header(folder / json.loads((folder / SEEN).read_text(encoding="utf-8"))["stream"])
    return Names(header.cache, header.memory)


def taken_up(folder: Path | None, given: Subject, file: str) -> tuple[Kept, StreamState, dict[str, Any]]:
    """(goes, stream, what was seen) of the folder; a new stream where it holds nothing, or there is none.

    Ends the program where the stream was made in another way.
    """
    if folder is None or not (folder / SEEN).exists():
        return Kept(Go(file, 0)), given.start(), {}
    about = json.loads((folder / SEEN).read_text(encoding="utf-8"))
    kept = {"cache": given.cache, "memory": given.memory}
    try:
        state = load(folder / about.pop("stream"), given.caller, given.config, **kept)
    except ValueError as why:
        raise SystemExit(f"soak: {why}") from why
    goes = [Go(**go) for go in about.pop("goes")]
    return Kept(Go(file, state.block), goes), state, about

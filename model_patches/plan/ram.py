"""How much RAM this process may still take: what is free, and what its control groups leave it.

A container sees the whole machine's memory and is killed at its own limit. Groups are nested, and every one
on the way up counts. Files of the kernel: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMINFO, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# limits, use, and what of the use are files that the kernel gives up
V2 = ("memory.max", "memory.high"), "memory.current", "inactive_file"
V1 = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"


def free_ram_bytes(meminfo: Path = MEMINFO, groups: Path = GROUPS, own: Path = OWN) -> int | None:
    """Bytes of RAM that this process may take; None where the system does not tell."""
    return within_groups(_available(meminfo), groups, own)


def within_groups(free_bytes: int | None, groups: Path = GROUPS, own: Path = OWN) -> int | None:
    """No more than the control groups leave of what is free; None where neither is known."""
    known = [free_bytes, *_rooms(groups, own)]
    return min((each for each in known if each is not None), default=None)


def _available(meminfo: Path) -> int | None:
    with suppress(OSError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def _rooms(groups: Path, own: Path) -> Iterator[int]:
    """What each group on the way up leaves, of those that have a limit."""
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield from _up(groups, path, V2)
        elif "memory" in controllers.split(","):
            yield from _up(groups / "memory", path, V1)


def _up(root: Path, path: str, names: tuple[tuple[str, ...], str, str]) -> Iterator[int]:
    """From the group at `path` to the root; what a container does not see of the path is left out."""
    limits, used, given_up = names
    inside = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(inside), -1, -1):
        folder = root.joinpath(*inside[:depth])
        limit = min((each for name in limits if (each := _number(folder / name)) is not None), default=None)
        taken = _number(folder / used)
        if limit is not None and taken is not None:
            yield max(0, limit - max(0, taken - _listed(folder / "memory.stat", given_up)))


def _number(path: Path) -> int | None:
    """A number in a file; None where there is none, or "max"."""
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _listed(path: Path, name: str) -> int:
    """A number in a file of names and numbers; 0 where it is not there."""
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    return 0

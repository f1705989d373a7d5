"""Which snapshots of a take go when there are too many bytes of them: the further back, the fewer."""

from __future__ import annotations

from collections.abc import Sequence

from .folder import SnapshotFile

NEWEST = 3  # that stay in any case: one of them is good, whatever happened to the others


def to_drop(snapshots: Sequence[SnapshotFile], budget_bytes: int) -> list[SnapshotFile]:
    """Those to delete so that the rest holds at most so many bytes, in the order in which to delete them.

    snapshots: oldest first. The first one stays, from which any second can be made again, and so do the
    newest few, even if they alone are more. Of the rest the one goes whose neighbours are nearest to each
    other, measured by its age, so that the gaps grow with it; marked ones go after all others.
    """
    kept, dropped = list(snapshots), []
    while sum(each.bytes for each in kept) > budget_bytes:
        middle = range(1, len(kept) - NEWEST)
        if not middle:
            break
        unmarked = [at for at in middle if not kept[at].marked]
        dropped.append(kept.pop(min(unmarked or middle, key=lambda at: _worth(kept, at))))
    return dropped


def _worth(kept: Sequence[SnapshotFile], at: int) -> float:
    """How far apart its neighbours are, for its age in frames."""
    gap = kept[at + 1].frame - kept[at - 1].frame
    return gap / max(1, kept[-1].frame - kept[at].frame)

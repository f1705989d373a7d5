"""The engine beside each family's released inference code, on a small random model: docs/families.md.

The code is not part of the project: --peers names a folder with a checkout for each.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..peers.families import DTYPES, PEERS, compared
from ..peers.peer import Peer
from .records import Rows

QUICK = ("self_forcing",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    named = os.environ.get("RIVULET_PEERS")
    parser.add_argument(
        "--peers", type=Path, default=named and Path(named), help="the folder; default $RIVULET_PEERS"
    )
    parser.add_argument("--recipe", action="append", help="of one family; default all, quick one")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0: a row for each family and set of positions; 2 without the folder."""
    wanted = chosen.recipe or (QUICK if chosen.quick else [peer.recipe_name for peer in PEERS])
    found = [peer for peer in PEERS if peer.recipe_name in wanted]
    if problem := why_not(chosen.peers, found, wanted):
        print(f"Bench families: {problem}", file=sys.stderr)
        return 2
    for peer in found:
        with tempfile.TemporaryDirectory() as folder:
            both = compared(peer, (chosen.peers / peer.name).resolve(), Path(folder))
        exact, calls = both.theirs[torch.float64].flow, len(both.theirs[torch.float64].flow)
        ours, theirs = ([apart(side[t].flow, exact) for t in DTYPES] for side in (both.ours, both.theirs))
        rows(
            "family",
            model=peer.recipe_name,
            preset=peer.preset,
            prompt=" | ".join(peer.words),
            compared_blocks=peer.blocks,
            compared_steps=calls,
            float64_error=ours[0],
            float32_error=ours[1],
            their_float32_error=theirs[1],
            bfloat16_error=ours[2],
            their_bfloat16_error=theirs[2],
        )
    return 0


def why_not(peers: Path | None, found: Sequence[Peer], wanted: Sequence[str]) -> str | None:
    """Returns a sentence if there is nothing to run, else None."""
    unknown = sorted(set(wanted) - {peer.recipe_name for peer in found})
    if unknown:
        there = sorted({peer.recipe_name for peer in PEERS})
        return f"there is no released code known for {', '.join(unknown)}; there is for {', '.join(there)}."
    if peers is None:
        return "give --peers FOLDER with a checkout of each family's code; docs/families.md says which."
    missing = sorted({peer.name for peer in found if not (peers / peer.name).is_dir()})
    return f"{peers} has no checkout named {', '.join(missing)}; see docs/families.md." if missing else None


def apart(flow: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm of the exact flow."""
    return float((flow - exact).norm() / exact.norm())

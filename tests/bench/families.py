"""The engine beside each family's released inference code, on a small random model: docs/families.md.

The code is not part of the project: --peers names a folder with a checkout for each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..peers.families import PEERS, compared
from .records import Rows

QUICK = ("self_forcing",)
DTYPES = (torch.float64, torch.float32)


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
    if chosen.peers is None:
        print("bench families: give --peers, a folder with the families' released code; see docs/families.md")
        return 2
    for peer in (peer for peer in PEERS if peer.recipe_name in wanted):
        with tempfile.TemporaryDirectory() as folder:
            both = compared(peer, (chosen.peers / peer.name).resolve(), Path(folder))
        exact, calls = both.theirs[torch.float64].flow, len(both.theirs[torch.float64].flow)
        ours64, ours32 = (apart(both.ours[dtype].flow, exact) for dtype in DTYPES)
        rows(
            "family",
            model=peer.recipe_name,
            preset=peer.preset,
            prompt=" | ".join(peer.words),
            compared_blocks=peer.blocks,
            compared_steps=calls,
            float64_error=ours64,
            float32_error=ours32,
            their_float32_error=apart(both.theirs[torch.float32].flow, exact),
        )
    return 0


def apart(flow: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm of the exact flow."""
    return float((flow - exact).norm() / exact.norm())

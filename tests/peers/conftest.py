"""Checkouts of the families' released code, found through RIVULET_PEERS: a folder with one for each.

Without it these tests are skipped; with RIVULET_REQUIRE_PEERS=1 they fail. docs/families.md says which
commits, and what was found.
"""

import os
from pathlib import Path

import pytest


def _no_peer(reason: str) -> None:
    refuse = pytest.fail if os.environ.get("RIVULET_REQUIRE_PEERS") == "1" else pytest.skip
    refuse(f"needs the families' released code: {reason}; see docs/families.md")


@pytest.fixture(scope="session")
def checkout():
    """Returns a function that gives a family's checkout."""

    def of(name: str) -> Path:
        named = os.environ.get("RIVULET_PEERS")
        if not named:
            _no_peer("RIVULET_PEERS is not set")
        folder = (Path(named) / name).resolve()
        if not folder.is_dir():
            _no_peer(f"{folder} is no folder")
        return folder

    return of

"""What a pocket stream keeps and remembers with where nobody says otherwise; read without torch."""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """A cache and a memory, by their names in the tables."""

    cache: str
    memory: str


DEFAULT = Names("latent", "learned")  # the small cache and the evolving memory
PLAIN = Names("dense", "off")  # sink and window as they are, which every measurement is shown beside
LIT, FLAT = "lit", "plain"  # looks: soft light at twice the size, and flat colours, which figures are of
LOOKS = (LIT, FLAT)  # the first is shown where nobody says otherwise

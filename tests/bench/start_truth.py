"""Scenes whose truth is known, and how much of it a stream that begins with them shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...pocket import detector, world


@dataclass(frozen=True)
class Truth:
    """Rendered streams: what is shown [B, F, H, W, 3], uint8, and where the objects are [B, F, N, 2]."""

    scenes: world.Scenes
    pixels_BFHWC: Tensor
    places_BFN2: Tensor


def share_at(seen: Sequence[Sequence[detector.Frame]], truth: Truth, away: int = 0) -> float:
    """Share of a truth's objects and frames at whose place, within a radius, a stream shows an object.

    away: compare each stream with the truth of so many scenes further, to see what chance gives.
    """
    hits = total = 0
    for stream, frames in enumerate(seen):
        other = (stream + away) % len(seen)
        there, radii = truth.scenes.colour_BN[other] >= 0, truth.scenes.radius_BN[other]
        for frame, places_N2 in zip(frames, truth.places_BFN2[other], strict=False):
            for place, radius in zip(places_N2[there].tolist(), radii[there].tolist(), strict=True):
                total += 1
                hits += any(
                    (thing.x - place[0]) ** 2 + (thing.y - place[1]) ** 2 <= radius**2
                    for thing in frame.objects
                )
    return hits / total


def adherence(pixels_BFHWC: Tensor, prompts: Sequence[str]) -> float:
    """Share of frames of all streams that show what their prompt says."""
    shares = [detector.adherence(clip, prompt) for clip, prompt in zip(pixels_BFHWC, prompts, strict=True)]
    return sum(shares) / len(shares)

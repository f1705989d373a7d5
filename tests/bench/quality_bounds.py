"""Where the stricter verdict's bounds come from: what rendered truth keeps of itself after the VAE.

F pixel frames, N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...pocket import motion, verdict, world
from ...pocket.models import Pocket
from ...pocket.verdict import Judged
from .quality_figures import Span, judged_streams, strictness
from .quality_truth import rendered, through_vae
from .records import Rows

SCENES, QUICK_SCENES, FRAMES = 200, 4, 29
DRAWN_SEED, CHECKED_SEED = 201, 202  # the bounds are drawn from one and tried on the other; none is reported
RARE = (0.01, 0.001)  # shares of objects or frames that lie farther out than the values printed


@dataclass(frozen=True)
class Bound:
    """One bound, and all values that it is to hold; a floor is one that values must not be under."""

    name: str
    unit: str
    limit: float
    is_floor: bool
    values: Tensor

    def figures(self) -> dict[str, float]:
        """The bound, the values that few lie beyond, and how many lie beyond the bound."""
        known = self.values[~self.values.isnan()]
        beyond = known < self.limit if self.is_floor else known > self.limit
        rare = [torch.quantile(known, share if self.is_floor else 1 - share) for share in RARE]
        names = (f"one_in_{round(1 / share)}_{self.unit}" for share in RARE)
        return {
            f"bound_{self.unit}": self.limit,
            **{name: float(value) for name, value in zip(names, rare, strict=True)},
            "beyond_share": float(beyond.float().mean()),
        }


def bounds(rows: Rows, pocket: Pocket, quick: bool) -> None:
    """A row for each bound with what it is taken from, then how much of that truth passes, and of other."""
    count = QUICK_SCENES if quick else SCENES
    drawn = _judged(pocket, count, DRAWN_SEED)
    for bound in _bounds(drawn, pocket.recipe.fps):
        rows("bound", case=bound.name, **bound.figures())
    for case, streams in (("drawn_from", drawn), ("others", _judged(pocket, count // 2, CHECKED_SEED))):
        rows("quality", case=case, streams_samples=len(streams), **strictness(streams))


def _judged(pocket: Pocket, count: int, seed: int) -> list[Judged]:
    scenes = world.sample_scenes(count, torch.Generator().manual_seed(1_000_000 + seed), band_share=0.0)
    pixels = through_vae(pocket, rendered(scenes, FRAMES, pocket.recipe.size))
    return judged_streams(Span(pixels, ()), scenes.prompts(), pocket.recipe.fps)


def _bounds(streams: Sequence[Judged], fps: int) -> Iterator[Bound]:
    found = [one.outlines for one in streams]
    radius = torch.cat([one.radius_FN.flatten() for one in found])
    yield Bound("smallest_radius", "share", verdict.SMALLEST, True, radius)
    yield Bound("largest_radius", "share", verdict.LARGEST, False, radius)
    for shape, least, most in zip(world.SHAPES, verdict.LEAST_OVERLAP, verdict.MOST_MISTAKEN, strict=True):
        overlap, mistaken = (
            torch.cat([getattr(one.outlines, name)[:, _of(one, shape)].flatten() for one in streams])
            for name in ("overlap_FN", "mistaken_FN")
        )
        if len(overlap):
            yield Bound(f"{shape}_overlap", "share", least, True, overlap)
            yield Bound(f"{shape}_mistaken", "share", most, False, mistaken)
    strangers = torch.cat([one.strangers_F for one in found])
    yield Bound("strangers", "share", verdict.MOST_STRANGERS, False, strangers)
    speeds = torch.cat([motion.around(one.speed_EN, fps).flatten() for one in streams])
    yield Bound("slowest", "sides_per_picture", verdict.SLOWEST, True, speeds)
    yield Bound("fastest", "sides_per_picture", verdict.FASTEST, False, speeds)


def _of(one: Judged, shape: str) -> list[int]:
    """Which of a stream's objects are of a shape."""
    return [index for index, (_, its) in enumerate(one.objects) if its == shape]

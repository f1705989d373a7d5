"""Did it come out as it went in? What was seen before the band came down, and the picture after it is lifted.

B trials, C latent channels, T latent frames, H/W pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model_patches.vae.wan import LayerBuffers, WanVAE
from ...pocket import detector, verdict, world
from ...pocket.half_products import product_dtype
from ...pocket.verdict import Judged

FPS = 16  # of the pocket's world; one picture alone has no speed, whatever this is
GROWN = 1.15  # times the radius that was seen before, or that much smaller
BESIDE = 1.5 / 64  # of the side, by which a centre read from pixels may miss the column the object flies in
COLUMN_ROWS = 0.9  # share of a column's pixels that are the band's, where the band is
HIDES = 1.9  # radii: a band narrower than that does not hide its object


@dataclass(frozen=True, slots=True)
class Sight:
    """What a trial showed before its band was lifted: one object, then a band over it."""

    object: tuple[str, str]  # colour, shape
    ground: str
    radius: float  # of the picture's side
    column: tuple[float, float]  # the band's edges, left and right


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is right about the picture after the band is lifted."""

    colour: bool  # of the largest object: the old verdict, with the shape
    shape: bool
    placed: bool = False  # in the column that the band covered
    sized: bool = False  # as large as before, in its own outline
    alone: bool = False  # no other object, no band left, the ground as it was, no stranger pixels

    @property
    def recalled(self) -> bool:
        """Colour and shape."""
        return self.colour and self.shape

    @property
    def strict(self) -> bool:
        """All of it."""
        return self.recalled and self.placed and self.sized and self.alone


class Eyes:
    """Decodes latents to pictures and reads them."""

    def __init__(self, vae: WanVAE) -> None:
        """vae: a copy of it decodes, in bfloat16 where that takes half the time."""
        self.dtype = product_dtype(next(vae.parameters()).device)
        self.decoder = copy.deepcopy(vae).to(self.dtype)

    @torch.inference_mode()
    def look(self, latents_BCTHW: Tensor, past: LayerBuffers | None = None) -> tuple[Tensor, LayerBuffers]:
        """(pictures [B, F, H, W, 3], uint8, of latents; the decoder's past after them)."""
        pixels, buffers = self.decoder.decode(latents_BCTHW.to(self.dtype), past)
        shown = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return shown.permute(0, 2, 3, 4, 1), buffers


def sights(
    before_BHWC: Tensor, behind_BHWC: Tensor, look_B3: Tensor, own: bool = False
) -> list[Sight | None]:
    """What each trial's last picture before the band, and one behind it, tell.

    look_B3: colour, shape and ground that were shown. own: the stream was asked for them, and what it drew
    counts; None where that is not one clear object on its ground, then a band that hides it. What cannot be
    read of a past that was shown is NaN, which no strict verdict passes.
    """
    rows = zip(
        before_BHWC,
        behind_BHWC,
        detector.detect(before_BHWC),
        detector.detect(behind_BHWC),
        look_B3.tolist(),
        strict=True,
    )
    found: list[Sight | None] = []
    for before, behind, shown, hidden, (colour, shape, on) in rows:
        thing, ground = (detector.COLOURS[colour], world.SHAPES[shape]), detector.COLOURS[on]
        if own and len(shown.objects) == 1 and (drawn := shown.objects[0].shape) is not None:
            thing = shown.objects[0].colour, drawn
        column, judged = _column(behind), _judged(before, thing, ground)
        radius = float(judged.outlines.radius_FN) or math.nan
        hides = column is not None and not hidden.objects and column[1] - column[0] >= HIDES * radius
        if own and not (judged.frames[0].adheres and hides):
            found.append(None)
        else:
            found.append(Sight(thing, ground, radius, column or (math.nan, math.nan)))
    return found


def _column(picture_HWC: Tensor) -> tuple[float, float] | None:
    """Left and right edge, of the side, of the band in a picture; None where there is none in one piece."""
    away = (picture_HWC.float() - torch.tensor(world.BAND_COLOUR)).norm(dim=-1)
    full = (away <= detector.FARTHEST).float().mean(0) >= COLUMN_ROWS
    places = full.nonzero().flatten().tolist()
    if not places or places[-1] - places[0] + 1 != len(places):
        return None
    return places[0] / len(full), (places[-1] + 1) / len(full)


def judge(pixels_BHWC: Tensor, seen: Sequence[Sight]) -> list[Remembered]:
    """What is right about each trial's picture after the band was lifted."""
    return [
        _remembered(picture, frame, sight)
        for picture, frame, sight in zip(pixels_BHWC, detector.detect(pixels_BHWC), seen, strict=True)
    ]


def _remembered(picture_HWC: Tensor, frame: detector.Frame, sight: Sight) -> Remembered:
    largest = max(frame.objects, key=lambda each: each.area, default=None)
    if largest is None:
        return Remembered(False, False)
    colour, shape = largest.colour == sight.object[0], largest.shape == sight.object[1]
    if not colour:
        return Remembered(False, shape)
    judged = _judged(picture_HWC, sight.object, sight.ground)
    told, outlines = judged.frames[0], judged.outlines
    centre, radius = float(outlines.place_FN2[0, 0, 0]), float(outlines.radius_FN)
    left, right = (edge + side for edge, side in zip(sight.column, (-BESIDE, BESIDE), strict=True))
    ratio = radius / sight.radius
    alone = len(frame.objects) == 1 and frame.ground == sight.ground and not frame.band and told.clean
    return Remembered(
        True,
        shape,
        left + radius <= centre <= right - radius,
        told.edges and 1 / GROWN <= ratio <= GROWN,
        alone,
    )


def _judged(picture_HWC: Tensor, thing: tuple[str, str], ground: str) -> Judged:
    return verdict.judge_objects(picture_HWC[None], [thing], ground, FPS)


def figures(found: Sequence[Remembered | None]) -> dict[str, float]:
    """Shares of the trials that told a story, which `None` did not, and the strict one's standard error."""
    told = [each for each in found if each is not None]
    if not told:
        return {"trials": 0, "told_share": 0.0}

    def share(right: Callable[[Remembered], bool]) -> float:
        return sum(map(right, told)) / len(told)

    strict = share(lambda each: each.strict)
    error = (strict * (1 - strict) / (len(told) - 1)) ** 0.5 if len(told) > 1 else None
    return {
        "recall": share(lambda each: each.recalled),
        "colour_recall": share(lambda each: each.colour),
        "shape_recall": share(lambda each: each.shape),
        "strict_recall": strict,
        **({} if error is None else {"strict_standard_error_share": error}),
        "placed_share": share(lambda each: each.placed),
        "sized_share": share(lambda each: each.sized),
        "alone_share": share(lambda each: each.alone),
        "trials": len(told),
        "told_share": len(told) / len(found),
    }

"""Reads the pocket world back from pixels: ground, band, and the shape, colour and place of every object.

F frames, H/W pixels, K colours. Every pixel goes to the nearest of the world's plain colours, or to none
where two of them blend at an edge; the pixels of one colour are compared with each shape drawn at their
centre and area.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import world
from .text import UNKNOWN_OBJECT, tokenize

LEAST_AREA = 0.35  # of the smallest circle: smaller patches are not objects
FARTHEST = 70.0  # distance in RGB, 0..255, up to which a pixel has a colour
LEAST_OVERLAP = 0.72  # intersection over union with the best shape: below, the shape is unclear
COLOURS = tuple(world.COLOURS)


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a frame; place is its centre as fractions of the picture, shape None where unclear."""

    colour: str
    shape: str | None
    x: float
    y: float
    area: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Frame:
    """What one frame shows; the ground is named by its colour."""

    ground: str
    band: bool
    objects: tuple[Object, ...]

    def shows(self, objects: set[tuple[str, str]], ground: str) -> bool:
        """These objects and no others, on this ground."""
        return self.ground == ground and {(o.colour, o.shape) for o in self.objects} == objects


def detect(pixels_FHWC: Tensor) -> list[Frame]:
    """What each uint8 frame shows."""
    F, H, W = pixels_FHWC.shape[:3]
    plain = torch.cat([world.PALETTE, world.GROUNDS, torch.tensor([world.BAND_COLOUR], dtype=torch.float32)])
    distance, label = torch.cdist(pixels_FHWC.reshape(-1, 3).float(), plain).min(1)
    label = label.masked_fill(distance > FARTHEST, len(plain)).view(F, H, W)
    K = len(COLOURS)
    share = torch.stack([(label == k).flatten(1).float().mean(1) for k in range(len(plain))], 1)
    objects_by_frame: list[list[Object]] = [[] for _ in range(F)]
    least = LEAST_AREA * torch.pi * world.RADIUS[0] ** 2
    for f, k in (share[:, :K] > least).nonzero().tolist():
        objects_by_frame[f].append(_describe(label[f] == k, COLOURS[k]))
    grounds = share[:, K : 2 * K].argmax(1).tolist()
    band = (share[:, 2 * K] > world.BAND_WIDTH[0] / 2).tolist()
    return [Frame(COLOURS[g], b, tuple(o)) for g, b, o in zip(grounds, band, objects_by_frame, strict=True)]


def _describe(mask_HW: Tensor, colour: str) -> Object:
    H, W = mask_HW.shape
    y, x = ((torch.arange(size) + 0.5) / size for size in (H, W))
    mask = mask_HW.float()
    area = float(mask.mean())
    cx, cy = float((mask * x).sum() / mask.sum()), float((mask * y[:, None]).sum() / mask.sum())
    overlaps = []
    for shape in range(len(world.SHAPES)):
        radius = torch.tensor((area / UNIT_AREA[shape]) ** 0.5)
        template = world.signed_distance(shape, x - cx, (y - cy)[:, None], radius) <= 0
        overlaps.append(float((template & mask_HW).sum() / (template | mask_HW).sum()))
    best = max(range(len(overlaps)), key=overlaps.__getitem__)
    shape = world.SHAPES[best] if overlaps[best] >= LEAST_OVERLAP else None
    return Object(colour, shape, cx, cy, area, overlaps[best])


# Area of each shape of radius 1; the triangle's centre of gravity is its origin, so are the others'.
UNIT_AREA = (torch.pi, 3.24, 3 * 3**0.5 / 4 * 1.25**2)


def parse_prompt(prompt: str) -> tuple[set[tuple[str, str]], str]:
    """Objects and ground a prompt asks for.

    Raises ValueError if it leaves colours, shapes or the ground open.
    """
    phrases = [phrase.split() for phrase in tokenize(prompt)]
    if [UNKNOWN_OBJECT] in phrases or not any(words[-1] == "ground" for words in phrases):
        raise ValueError(
            f"Detector: {prompt!r} leaves an object or the ground open, so no frame can be judged by it."
        )
    objects = {(words[0], words[1]) for words in phrases if words[1] in world.SHAPES}
    return objects, next(words[0] for words in phrases if words[-1] == "ground")


def adherence(pixels_FHWC: Tensor, prompt: str) -> float:
    """Share of frames that show what the prompt asks for, and nothing else."""
    objects, ground = parse_prompt(prompt)
    frames = detect(pixels_FHWC)
    return sum(frame.shows(objects, ground) for frame in frames) / len(frames)

"""Explains frames by their prompt: which pixels are ground, which are an object's, which are nothing's.

F frames, H/W pixels, N prompted objects, K = 1 + N plain colours, the ground's first. Every pixel is taken
for the nearest blend of two of those colours. An object's share of the pixels gives its centre and size, and
the prompted shape is drawn there again. Off the drawn edges a pixel must have its one plain colour; on them
any blend will do. Places and radii are fractions of the picture's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import world
from .detector import COLOURS, UNIT_AREA

FARTHEST = 45.0  # distance in RGB, 0..255, from a blend or a plain colour: beyond, a pixel belongs to nothing
FAINTEST = 0.1  # share of an object's colour in a pixel: below, it is the VAE's noise
EDGE = 2.5 / 64  # of the side, to both sides of a drawn edge: where the VAE blends colours
SOFTNESS = 2 / 64  # of the side, over which a drawn shape's edge goes from full to nothing, as the VAE's does
PATCHES = 8  # along the side: strangers are counted in every window of this size


@dataclass(frozen=True, slots=True)
class Outlines:
    """What each frame shows of the prompted objects, in the prompt's order."""

    place_FN2: Tensor  # centre (x, y); nan where nothing has the object's colour
    radius_FN: Tensor  # of the prompted shape with the area that is there
    overlap_FN: Tensor  # with that shape drawn there: intersection over union of soft edges, 0..1
    mistaken_FN: Tensor  # how far towards the likest other shape of that area: 0 its own, 1 the other
    strangers_F: Tensor  # pixels that belong to nothing prompted, as the fullest window's share of them


def outline(pixels_FHWC: Tensor, objects: Sequence[tuple[str, str]], ground: str) -> Outlines:
    """Measure the (colour, shape) pairs on uint8 frames whose ground has this colour."""
    pixels = pixels_FHWC.float()
    plain_K3 = torch.stack(
        [world.GROUNDS[COLOURS.index(ground)], *(world.PALETTE[COLOURS.index(c)] for c, _ in objects)]
    )
    share_FHWK, gap_FHW = _blend(pixels, plain_K3)
    there_FHWK = share_FHWK * ((share_FHWK > FAINTEST) & (gap_FHW <= FARTHEST)[..., None])
    things = [
        _Thing(there_FHWK[..., 1 + n], world.SHAPES.index(shape)) for n, (_, shape) in enumerate(objects)
    ]
    edge_FNHW = torch.stack([thing.edge for thing in things], 1)
    return Outlines(
        torch.stack([thing.place_F2 for thing in things], 1),
        torch.stack([thing.radius_F for thing in things], 1),
        torch.stack([thing.overlap() for thing in things], 1),
        torch.stack([thing.mistaken() for thing in things], 1),
        _strangers(pixels, plain_K3, gap_FHW, edge_FNHW),
    )


class _Thing:
    """One object's share of every pixel [F, H, W], and the shape it should have drawn over it."""

    def __init__(self, there_FHW: Tensor, shape: int) -> None:
        self.there, self.shape = there_FHW, shape
        H, W = there_FHW.shape[1:]
        y, x = ((torch.arange(side) + 0.5) / side for side in (H, W))
        total = there_FHW.sum((1, 2))
        self.area_F = there_FHW.mean((1, 2))
        self.place_F2 = (
            torch.stack([(there_FHW.sum(1) * x).sum(1), (there_FHW.sum(2) * y).sum(1)], 1) / total[:, None]
        )
        self._x, self._y = (x - self.place_F2[:, :1])[:, None], (y - self.place_F2[:, 1:])[:, :, None]
        self.radius_F = self._radius(shape)
        self.edge = self._edge(shape)

    def _radius(self, shape: int) -> Tensor:
        return (self.area_F / UNIT_AREA[shape]).sqrt()

    def _edge(self, shape: int) -> Tensor:
        """Distance to the edge, negative inside; infinite where there is nothing of the object."""
        edge = world.signed_distance(shape, self._x, self._y, self._radius(shape)[:, None, None])
        return edge.nan_to_num(nan=torch.inf)

    def _drawn(self, shape: int) -> Tensor:
        edge = self.edge if shape == self.shape else self._edge(shape)
        return (0.5 - edge / SOFTNESS).clamp(0, 1)

    def overlap(self) -> Tensor:
        """Intersection over union [F], 0 where there is nothing."""
        drawn = self._drawn(self.shape)
        both, either = torch.minimum(drawn, self.there), torch.maximum(drawn, self.there)
        return both.sum((1, 2)) / either.sum((1, 2)).clamp_min(1e-6)

    def mistaken(self) -> Tensor:
        """Where the object lies on the line from its own shape to each other one: the farthest [F]."""
        own, found = self._drawn(self.shape), []
        for shape in range(len(world.SHAPES)):
            if shape != self.shape:
                way = self._drawn(shape) - own
                along = ((self.there - own) * way).sum((1, 2))
                found.append(along / way.square().sum((1, 2)).clamp_min(1e-6))
        return torch.stack(found).amax(0)


def _blend(pixels: Tensor, plain_K3: Tensor) -> tuple[Tensor, Tensor]:
    """(share of each colour in the nearest blend of two [..., K], distance to that blend [...])."""
    K = len(plain_K3)
    nearest = torch.full(pixels.shape[:-1], torch.inf)
    share = torch.zeros(*pixels.shape[:-1], K)
    for one in range(K):
        for other in range(one + 1, K):
            way = plain_K3[other] - plain_K3[one]
            along = ((pixels - plain_K3[one]) @ way / way.square().sum()).clamp(0, 1)
            gap = (pixels - plain_K3[one] - along[..., None] * way).norm(dim=-1)
            blended = torch.zeros_like(share)
            blended[..., one], blended[..., other] = 1 - along, along
            nearer = gap < nearest
            share = torch.where(nearer[..., None], blended, share)
            nearest = torch.where(nearer, gap, nearest)
    return share, nearest


def _strangers(pixels: Tensor, plain_K3: Tensor, gap_FHW: Tensor, edge_FNHW: Tensor) -> Tensor:
    """The largest share of a window, anywhere in the frame, that has neither its colour nor a blend [F]."""
    nearest, thing = edge_FNHW.min(1)
    owner = torch.where(nearest <= 0, thing + 1, 0)
    off = (pixels - plain_K3[owner]).norm(dim=-1)
    strange = torch.where(edge_FNHW.abs().amin(1) <= EDGE, gap_FHW, off) > FARTHEST
    window = pixels.shape[2] // PATCHES
    return torch.nn.functional.avg_pool2d(strange[:, None].float(), window, stride=1).amax((1, 2, 3))

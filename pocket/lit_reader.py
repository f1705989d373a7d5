"""Turns pictures in soft light back into flat ones of half the size, for the detector and the verdict.

Light and shade change how bright a colour is and how much white lies over it, not its hue. So every pixel
gets the hue it is nearest to, in whatever light; dark pixels of the hue that most of the dark ones have are
the ground. Where a region has some width its pixels become the world's plain colour. On the edge between two
regions a pixel becomes a blend of both plain colours, by how much of either is in it; what nothing explains
keeps its own colour, so that the verdict finds it. F frames, H/W pixels.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from . import world
from .detector import FARTHEST
from .lit_weights import UPSCALE

LEVELS = 64  # of each channel, in the table of hues
DIM_LIGHT = tuple(0.26 + 0.06 * i for i in range(10))  # times a plain colour; in it there is no highlight
BRIGHT_LIGHT = (0.8, 0.88, 0.96, 1.05, 1.15)
WHITE = (0.0, 0.15, 0.3, 0.45, 0.6)  # shares of it in highlights
NEAR_GROUND = 22.0  # distance in RGB from the ground in some light: what is nearer is the ground
OBJECT_LIGHT = 0.6  # times a plain colour: an object of the ground's hue is brighter, the ground is not
NEAR = 5  # side of the square in which an edge's two regions are looked for, pixels
AT_ONCE = 32 * 128 * 128  # pixels of pictures read together
NONE = len(world.PALETTE) + 1  # the label of what has no hue; before it the band's grey
GROUND = NONE + 1


def flatten(pixels_FHWC: Tensor) -> Tensor:
    """Plain pictures [F, H / 2, W / 2, 3], uint8, of uint8 pictures in soft light."""
    return _levels(avg_pool2d(_flat(pixels_FHWC), UPSCALE))


def flatten_in_place(pixels_FHWC: Tensor) -> Tensor:
    """Plain pictures of the same size, uint8, of uint8 pictures in soft light, or of plain ones."""
    return _levels(_flat(pixels_FHWC))


def _levels(pixels_F3HW: Tensor) -> Tensor:
    return pixels_F3HW.permute(0, 2, 3, 1).round().to(torch.uint8)


def _flat(pixels_FHWC: Tensor) -> Tensor:
    height, width = pixels_FHWC.shape[1:3]
    pictures = max(1, AT_ONCE // (height * width))
    return torch.cat([_part(part) for part in pixels_FHWC.split(pictures)])


def _part(pixels_FHWC: Tensor) -> Tensor:
    """Flat pictures [F, 3, H, W], 0..255, of the same size."""
    label, ground_F = _labels(pixels_FHWC)
    pixels = pixels_FHWC.permute(0, 3, 1, 2).float()
    flat, edge, inners = pixels.clone(), torch.ones_like(label, dtype=torch.bool), {}
    for k in label.unique().tolist():
        if k == NONE:
            continue
        solid = _opened(label == k)
        inner = -max_pool2d(-solid, 3, 1, 1) > 0
        if inner.any():
            flat = torch.where(solid[:, None] > 0, _plain(k, ground_F)[:, :, None, None], flat)
            edge &= ~inner
            inners[k] = inner
    at = edge.nonzero(as_tuple=True)
    here = pixels.permute(0, 2, 3, 1)[at]
    regions = [
        (k, _plain(k, ground_F)[at[0]], *_around(pixels, inners[k], at))
        for k in sorted(inners, reverse=True)  # the ground first
    ]
    flat.permute(0, 2, 3, 1)[at] = _edges(here, flat.permute(0, 2, 3, 1)[at], regions)
    return flat


def _labels(pixels_FHWC: Tensor) -> tuple[Tensor, Tensor]:
    """(what every pixel is [F, H, W]: a hue, none, or the ground, and the ground's hue [F])."""
    r, g, b = (pixels_FHWC.long() * LEVELS // 256).unbind(-1)
    label = _table()[(r * LEVELS + g) * LEVELS + b]
    pixels = pixels_FHWC.float()
    light = (pixels * _hues()[label]).sum(-1) / _hues()[label].square().sum(-1).clamp_min(1)
    dim = (light < OBJECT_LIGHT) & (label < len(world.PALETTE))
    counts = torch.stack([(dim & (label == k)).sum((1, 2)) for k in range(len(world.PALETTE))], 1)
    ground_F = counts.argmax(1)
    return torch.where(_is_ground(pixels, world.PALETTE[ground_F]), GROUND, label), ground_F


def _is_ground(pixels_FHWC: Tensor, plain_F3: Tensor) -> Tensor:
    """Whether a pixel is this colour in dim light [F, H, W]."""
    plain = plain_F3[:, None, None]
    light = (pixels_FHWC * plain).sum(-1) / plain.square().sum(-1)
    off = (pixels_FHWC - light[..., None] * plain).norm(dim=-1)
    return (light < OBJECT_LIGHT) & (off < NEAR_GROUND)


def _hues() -> Tensor:
    """The plain colour of each label up to none's, which has zeros [K + 2, 3]."""
    grey = torch.tensor([world.BAND_COLOUR], dtype=torch.float32)
    return torch.cat([world.PALETTE, grey, torch.zeros(1, 3)])


def _plain(label: int, ground_F: Tensor) -> Tensor:
    """The plain colour of a label in each frame [F, 3]."""
    return world.GROUNDS[ground_F] if label == GROUND else _hues()[label].expand(len(ground_F), 3)


@cache
def _table() -> Tensor:
    """The label of every colour [LEVELS ** 3], by the nearest colour that a hue may have in some light."""
    axis = (torch.arange(LEVELS) + 0.5) * (256 / LEVELS)
    colours = torch.cartesian_prod(axis, axis, axis)
    found = torch.full((len(colours),), FARTHEST)
    label = torch.full((len(colours),), NONE)
    for k, plain in enumerate(_hues()[:NONE]):
        dim = [light * plain for light in DIM_LIGHT]
        bright = [(light * plain).clamp(max=255) for light in BRIGHT_LIGHT]
        glossy = [
            it + white * (255 - it) for it in bright for white in (WHITE if k < NONE - 1 else WHITE[:1])
        ]
        distance = torch.cdist(colours, torch.stack(dim + glossy)).amin(1)
        label = torch.where(distance < found, k, label)
        found = torch.minimum(found, distance)
    return label


def _opened(mask_FHW: Tensor) -> Tensor:
    """The mask, 0 or 1, without what is less than three pixels wide."""
    mask = mask_FHW.float()
    return max_pool2d(-max_pool2d(-mask, 3, 1, 1), 3, 1, 1)


def _around(pixels_F3HW: Tensor, mask_FHW: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(mean colour of the mask's pixels near each of P places [P, 3], the share of them there [P])."""
    mask = mask_FHW[:, None].float()
    near = avg_pool2d(torch.cat([pixels_F3HW * mask, mask], 1), NEAR, 1, NEAR // 2)
    found = near.permute(0, 2, 3, 1)[at]
    return found[:, :3] / found[:, 3:].clamp_min(1e-6), found[:, 3]


def _edges(pixels_P3: Tensor, flat_P3: Tensor, regions: list[tuple[int, Tensor, Tensor, Tensor]]) -> Tensor:
    """Plain colours of P pixels [P, 3]: blends of the two regions near each that explain it best, else
    flat_P3."""
    nearest = torch.full_like(pixels_P3[:, 0], FARTHEST)
    blended = flat_P3
    for i, (first, colour, here, share) in enumerate(regions):
        for _, other_colour, there, other_share in regions[i + 1 :]:
            part, gap = _mixture(pixels_P3, here, there, first == GROUND)
            better = (share > 0) & (other_share > 0) & (gap < nearest)
            mixed = colour + part[:, None] * (other_colour - colour)
            blended = torch.where(better[:, None], mixed, blended)
            nearest = torch.where(better, gap, nearest)
    return blended


def _mixture(pixels: Tensor, one: Tensor, other: Tensor, on_ground: bool) -> tuple[Tensor, Tensor]:
    """(how much of the other colour is in every pixel, 0..1, and what the mixture leaves unexplained).

    Before the ground both may be darker at the edge than they are near it, one in a shadow, the other at its
    rim: what counts is how much of either is there.
    """
    if not on_ground:
        way = other - one
        part = ((pixels - one) * way).sum(1) / way.square().sum(1).clamp_min(1)
        part = part.clamp(0, 1)
        return part, (pixels - one - part[:, None] * way).norm(dim=1)
    aa, bb, ab = one.square().sum(1), other.square().sum(1), (one * other).sum(1)
    pa, pb = (pixels * one).sum(1), (pixels * other).sum(1)
    ground = ((pa * bb - pb * ab) / (aa * bb - ab.square()).clamp_min(1)).clamp(0, 1)
    thing = ((pb - ground * ab) / bb.clamp_min(1)).clamp_min(0)
    gap = (pixels - ground[:, None] * one - thing[:, None] * other).norm(dim=1)
    return thing / (thing + ground).clamp_min(1e-6), gap

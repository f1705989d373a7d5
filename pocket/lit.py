"""The pocket world in soft light: the scenes that `world.render` draws flat, with shaded objects and shadows.

The light comes from the upper left. Objects are cushions: a rounded edge, a highlight, a shadow on the
ground; the ground falls off towards the picture's border; the band stands in front and throws a shadow on
what is behind it. What a pixel shows hangs on what is near it, and on the border, so that a decoder's last
stages can learn it. B clips, N objects a clip, F pixel frames, H/W pixels. Lengths are fractions of the side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import world
from .looks import SHAPES

LIGHT = (-0.46, -0.62, 0.64)  # towards the light: x to the right, y down, z towards the viewer
BRIGHTEST = 1.28  # the ground's light in the middle of the picture, times its plain colour
BORDER = 0.46  # how far from the border the light falls off
FALL = {"near": 0.14, "far": 0.44}  # share that is lost at the border on the light's side, and across
SHADOW_SHIFT = (0.026, 0.04)  # of an object's shadow
SHADOW_SOFT = 0.022
SHADOW_DEPTH = 0.68  # share of the ground's light that is lost under it
BAND_SHADOW = (0.42, 0.045)  # the same of the band, and how far it reaches
ROUND = {"circle": 0.95, "square": 0.8, "triangle": 0.6}  # width of an object's rounded edge, in radii
CORNER = 0.14  # radii over which the shading of two sides blends
DIMMEST, DIFFUSE = 0.56, 0.52  # an object's light: where none falls, and what is added where it falls full
GLOSS, GLOSS_POWER = 0.55, 22.0  # the highlight: share of white at its brightest, and how narrow it is
RIM = 0.2  # share of light lost where the surface is seen from the side


def render(scenes: world.Scenes, places_BFN2: Tensor, size: int) -> Tensor:
    """Pictures [B, F, H, W, 3], uint8, edges softened over one pixel."""
    axis = (torch.arange(size) + 0.5) / size
    light_HW = ground_light(axis, axis)
    return torch.stack(
        [_clip(scenes, b, places_BFN2[b], axis, light_HW).round().to(torch.uint8) for b in range(len(scenes))]
    )


def ground_light(x_W: Tensor, y_H: Tensor) -> Tensor:
    """The light on bare ground [H, W], times its plain colour."""
    return BRIGHTEST * _fall_off(y_H)[:, None] * _fall_off(x_W)[None]


def _fall_off(axis: Tensor) -> Tensor:
    near, far = ((1 - edge / BORDER).clamp(0, 1).square() for edge in (axis, 1 - axis))
    return (1 - FALL["near"] * near) * (1 - FALL["far"] * far)


def _clip(scenes: world.Scenes, b: int, places_FN2: Tensor, axis: Tensor, light_HW: Tensor) -> Tensor:
    """One scene's pictures [F, H, W, 3], 0..255."""
    size, F = len(axis), len(places_FN2)
    ground = world.GROUNDS[scenes.ground_B[b]]
    picture = (ground * light_HW[..., None]).expand(F, size, size, 3)
    there = [n for n in range(world.MAX_OBJECTS) if scenes.colour_BN[b, n] >= 0]
    things = [
        _Thing(SHAPES[int(scenes.shape_BN[b, n])], places_FN2[:, n], scenes.radius_BN[b, n], axis)
        for n in there
    ]
    for thing in things:
        picture = picture * (1 - SHADOW_DEPTH * thing.shadow())[..., None]
    picture = picture.contiguous()
    for n, thing in zip(there, things, strict=True):
        thing.draw(picture, world.PALETTE[scenes.colour_BN[b, n]])
    left, right = scenes.band_B2[b]
    return picture if left < 0 else _behind_band(picture, axis, float(left), float(right), light_HW)


@dataclass(frozen=True, slots=True)
class _Thing:
    """One object of a clip."""

    shape: str
    place_F2: Tensor
    radius: Tensor
    axis: Tensor

    def shadow(self) -> Tensor:
        """How much of the light it takes from the ground [F, H, W], 0..1."""
        x, y = (self.axis - self.place_F2[:, i, None] - SHADOW_SHIFT[i] for i in range(2))
        distance, _, _ = _soft_distance(self.shape, x[:, None], y[:, :, None], self.radius)
        return torch.sigmoid(-distance / SHADOW_SOFT)

    def draw(self, picture_FHW3: Tensor, colour_3: Tensor) -> None:
        """Draw it over the pictures, 0..255."""
        size, F = len(self.axis), len(self.place_F2)
        reach = float(self.radius) * max(world.EXTENT) + 1 / size
        span = torch.arange(math.ceil(2 * reach * size) + 1)
        # the window it lies in, whose pixels beyond the picture are those of its border once more
        first_F2 = ((self.place_F2 - reach) * size).floor().long()
        columns, rows = ((first_F2[:, i, None] + span).clamp(0, size - 1) for i in range(2))
        window = (torch.arange(F)[:, None, None], rows[:, :, None], columns[:, None])
        x = (self.axis[columns] - self.place_F2[:, 0, None])[:, None]
        y = (self.axis[rows] - self.place_F2[:, 1, None])[:, :, None]
        edge = world.signed_distance(SHAPES.index(self.shape), x, y, self.radius)
        cover = (0.5 - edge * size).clamp(0, 1)[..., None]
        before = picture_FHW3[window]
        picture_FHW3[window] = before + cover * (self._lit(x, y, colour_3) - before)

    def _lit(self, x: Tensor, y: Tensor, colour_3: Tensor) -> Tensor:
        """Its colour in the light at these ways from its centre [..., 3], right inside its outline."""
        distance, nx, ny = _soft_distance(self.shape, x, y, self.radius)
        steep = 0.96 * (1 + distance / (ROUND[self.shape] * self.radius)).clamp(0, 1)  # 0 on the flat top
        nz = (1 - steep.square()).sqrt()
        halfway = _unit(LIGHT[0], LIGHT[1], LIGHT[2] + 1)  # between the light and the viewer
        facing, gloss = (
            (steep * (nx * to[0] + ny * to[1]) + nz * to[2]).clamp_min(0) for to in (LIGHT, halfway)
        )
        light = (DIMMEST + DIFFUSE * facing / LIGHT[2] ** 0.5) * (1 - RIM * (1 - nz))
        shaded = (colour_3 * light[..., None]).clamp(0, 255)
        return shaded + GLOSS * (gloss**GLOSS_POWER)[..., None] * (255 - shaded)


def _unit(*way: float) -> tuple[float, ...]:
    return tuple(part / math.hypot(*way) for part in way)


def _soft_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to an outline with round corners, negative inside, and the way out: x and y, at most 1."""
    if shape == "circle":
        length = (x.square() + y.square()).sqrt().clamp_min(1e-6)
        return length - radius, x / length, y / length
    if shape == "square":
        sides = ((1.0, 0.0, 0.9), (-1.0, 0.0, 0.9), (0.0, 1.0, 0.9), (0.0, -1.0, 0.9))
    else:
        side = math.sqrt(3) / 2
        sides = ((side, -0.5, 0.625), (-side, -0.5, 0.625), (0.0, 1.0, 0.625))
    soft = CORNER * radius
    distances = torch.stack([nx * x + ny * y - far * radius for nx, ny, far in sides])
    share = (distances / soft).softmax(0)
    distance = soft * (distances / soft).logsumexp(0)
    nx, ny = (sum(s * side[i] for s, side in zip(share, sides, strict=True)) for i in range(2))
    return distance, nx, ny


def _behind_band(picture: Tensor, axis: Tensor, left: float, right: float, light_HW: Tensor) -> Tensor:
    """The pictures with the band before them, and its shadow on what it stands before."""
    size = len(axis)
    depth, reach = BAND_SHADOW
    beside = torch.where(axis < left, left - axis, (axis - right).clamp_min(0) * 0.6)
    picture = picture * (1 - depth * (-beside / reach).exp())[:, None]
    across = ((axis - left) / (right - left)).clamp(0, 1)
    round_W = 0.80 + 0.34 * (1 - (2 * across - 0.7).square() / 2.0)
    grey = torch.tensor(world.BAND_COLOUR, dtype=torch.float32)
    light = round_W * (light_HW / BRIGHTEST) * 0.96
    band = grey * light[..., None]
    cover_W = (torch.minimum(axis - left, right - axis) * size + 0.5).clamp(0, 1)
    return picture + cover_W[:, None] * (band - picture)

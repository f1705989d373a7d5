"""A small world with exact ground truth: coloured shapes that move, bounce and pass behind a band.

B clips, N objects a clip, F pixel frames, H/W pixels. Lengths are fractions of the picture's side, times are
frames.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import held_out
from .looks import COLOURS, SHAPES

GROUND_SHADE = 0.38  # a ground is its colour, darkened: an object never hides on it
BAND_COLOUR = (150, 150, 150)
BAND_NAME = "grey"
MAX_OBJECTS = 2
RADIUS = (0.12, 0.15)  # of the picture's side
SPEED = (0.008, 0.016)  # of the picture's side per frame
BAND_WIDTH = (0.32, 0.42)
CONTENTS = len(SHAPES) + 2 * len(COLOURS)  # kinds of thing a cell may show
EXTENT = (1.0, 0.9 * math.sqrt(2), 1.25)  # farthest point of each shape, in radii

PALETTE = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
GROUNDS = PALETTE * GROUND_SHADE

Looks = tuple[Tensor, Tensor, Tensor]  # colours and shapes [B, N], grounds [B], see `Scenes`


@dataclass(frozen=True, slots=True)
class Scenes:
    """B scenes at frame 0. Object slots that are not used have colour -1; a clip without band has band -1."""

    colour_BN: Tensor  # int64, index into COLOURS
    shape_BN: Tensor  # int64, index into SHAPES
    radius_BN: Tensor
    place_BN2: Tensor  # centre (x, y), 0..1 from the left top
    velocity_BN2: Tensor  # per frame
    ground_B: Tensor  # int64, index into COLOURS
    band_B2: Tensor  # left and right edge, or -1

    def __len__(self) -> int:
        return len(self.ground_B)

    def select(self, rows: Tensor) -> "Scenes":
        """The scenes of these rows, numbers or a mask."""
        return Scenes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def extent_BN(self) -> Tensor:
        return self.radius_BN * torch.tensor(EXTENT)[self.shape_BN]

    def unseen_B(self) -> Tensor:
        """Whether each scene's combination is held out of all training: bool [B]."""
        return held_out.is_unseen(self.colour_BN, self.shape_BN, self.ground_B)

    def prompts(self) -> list[str]:
        """One sentence a scene, as a person would type it."""
        rows = zip(
            self.colour_BN.tolist(), self.shape_BN.tolist(), self.ground_B.tolist(), self.band_B2, strict=True
        )
        return [
            prompt(
                [(c, s) for c, s in zip(colours, shapes, strict=True) if c >= 0], ground, bool(band[0] >= 0)
            )
            for colours, shapes, ground, band in rows
        ]


def prompt(objects: list[tuple[int, int]], ground: int, band: bool = False) -> str:
    """The sentence for (colour, shape) pairs on a ground."""
    names = list(COLOURS)
    things = " and ".join(f"a {names[colour]} {SHAPES[shape]}" for colour, shape in objects)
    behind = f" behind a {BAND_NAME} band" if band else ""
    return f"{things} on a {names[ground]} ground{behind}"


def hide_names(sentence: str) -> str:
    """The same prompt with every object called "object": what it looks like must be remembered, not read."""
    things, rest = sentence.split(" on a ", 1)
    return " and ".join(["an object"] * len(things.split(" and "))) + " on a " + rest


def sample_scenes(
    count: int,
    generator: torch.Generator,
    band_share: float = 0.15,
    combinations: str = "all",
    speeds: tuple[float, float] = SPEED,
) -> Scenes:
    """Random scenes: one or two objects of different colours, apart, none of the ground's colour.

    combinations: "all", or those that are "seen" or "unseen" in training, see `held_out`. speeds: lowest and
    highest, sides of the picture per frame.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    colour_BN, shape_BN, ground_B = _admitted(_looks(count, generator), generator, combinations)
    radius_BN = uniform(*RADIUS, count, MAX_OBJECTS)
    angle, speed = uniform(0, 2 * math.pi, count, MAX_OBJECTS), uniform(*speeds, count, MAX_OBJECTS)
    left, width = uniform(0.15, 0.45, count), uniform(*BAND_WIDTH, count)
    banded = torch.rand(count, generator=generator) < band_share
    band_B2 = torch.where(banded[:, None], torch.stack([left, left + width], 1), torch.tensor(-1.0))
    scenes = Scenes(
        colour_BN,
        shape_BN,
        radius_BN,
        torch.full((count, MAX_OBJECTS, 2), 0.5),
        torch.stack([angle.cos(), angle.sin()], -1) * speed[..., None],
        ground_B,
        band_B2,
    )
    _place_apart(scenes, generator)
    return scenes


def redraw_looks(scenes: Scenes, generator: torch.Generator, combinations: str) -> Scenes:
    """The same flights, with other looks where a scene's is not of these combinations; as many objects."""
    looks = (scenes.colour_BN.clone(), scenes.shape_BN.clone(), scenes.ground_B.clone())
    colour_BN, shape_BN, ground_B = _admitted(looks, generator, combinations)
    return replace(scenes, colour_BN=colour_BN, shape_BN=shape_BN, ground_B=ground_B)


def _looks(count: int, generator: torch.Generator, alone_B: Tensor | None = None) -> Looks:
    """Colours and shapes [B, N], grounds [B]: all colours of a scene differ, about a third has one object."""
    order = torch.rand(count, len(COLOURS), generator=generator).argsort(1)
    colour_BN, ground_B = order[:, :MAX_OBJECTS].clone(), order[:, MAX_OBJECTS]
    if alone_B is None:
        alone_B = torch.rand(count, generator=generator) < 0.35
    colour_BN[alone_B, 1:] = -1
    return colour_BN, torch.randint(len(SHAPES), (count, MAX_OBJECTS), generator=generator), ground_B


def _admitted(looks: Looks, generator: torch.Generator, combinations: str) -> Looks:
    """The looks, written over where they are not of these combinations, until all are."""
    while (wrong_B := ~held_out.admits(combinations, *looks)).any():
        alone_B = looks[0][wrong_B, 1] < 0
        for part, fresh in zip(looks, _looks(len(alone_B), generator, alone_B), strict=True):
            part[wrong_B] = fresh
    return looks


def _place_apart(scenes: Scenes, generator: torch.Generator) -> None:
    """Draw all centres until no two objects of a scene touch."""
    extent = scenes.extent_BN()
    todo = torch.ones(len(scenes), dtype=torch.bool)
    while todo.any():
        free = (1 - 2 * extent[todo])[..., None]
        drawn = torch.rand((int(todo.sum()), MAX_OBJECTS, 2), generator=generator)
        scenes.place_BN2[todo] = extent[todo][..., None] + free * drawn
        gap = (scenes.place_BN2[:, 0] - scenes.place_BN2[:, 1]).norm(dim=-1)
        todo = gap < extent.sum(1)


def simulate(scenes: Scenes, frames: int) -> Tensor:
    """Centres [B, F, N, 2]: straight flight, elastic bounces off walls and each other (equal masses)."""
    return fly(scenes, frames)[0]


def fly(scenes: Scenes, frames: int) -> tuple[Tensor, Scenes]:
    """Centres [B, F, N, 2], and the scenes as they stand one frame after the last."""
    place, velocity = scenes.place_BN2.clone(), scenes.velocity_BN2.clone()
    extent, both, track = scenes.extent_BN(), (scenes.colour_BN >= 0).all(1), []
    for _ in range(frames):
        track.append(place)
        place = place + velocity
        low, high = extent[..., None], 1 - extent[..., None]
        velocity = torch.where(
            (place < low) & (velocity < 0) | (place > high) & (velocity > 0), -velocity, velocity
        )
        place = torch.where(place < low, 2 * low - place, torch.where(place > high, 2 * high - place, place))
        between = place[:, 1] - place[:, 0]
        distance = between.norm(dim=-1)
        normal = between / distance.clamp_min(1e-6)[:, None]
        closing = ((velocity[:, 1] - velocity[:, 0]) * normal).sum(-1)
        hit = both & (distance < extent.sum(1)) & (closing < 0)
        push = torch.where(hit, closing, torch.zeros(()))[:, None] * normal
        velocity = torch.stack([velocity[:, 0] + push, velocity[:, 1] - push], 1)
    return torch.stack(track, 1), replace(scenes, place_BN2=place, velocity_BN2=velocity)


def change_looks(scenes: Scenes, generator: torch.Generator, combinations: str = "all") -> Scenes:
    """The same flights in other colours, shapes and grounds, now and then with one object more or less.

    That is what a new prompt asks for. combinations: see `sample_scenes`.
    """
    alone = scenes.colour_BN[:, 1] < 0
    changes = torch.rand(len(scenes), generator=generator) < 0.25
    looks = _looks(len(scenes), generator, alone ^ changes)
    colour_BN, shape_BN, ground_B = _admitted(looks, generator, combinations)
    return replace(scenes, colour_BN=colour_BN, shape_BN=shape_BN, ground_B=ground_B)


def signed_distance(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to the edge of a shape centred at 0, negative inside; units of x, y and radius."""
    if SHAPES[shape] == "circle":
        return (x.square() + y.square()).sqrt() - radius
    if SHAPES[shape] == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    side = math.sqrt(3) / 2  # upright, equilateral, tip at -1.25 radii
    return torch.maximum(side * x.abs() - 0.5 * y, y) - 0.625 * radius


def covers(scenes: Scenes, places_BFN2: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How much of each pixel an object covers [B, F, N, H, W], and the band [B, W]; 0..1, edges soft."""
    B, F, N = places_BFN2.shape[:3]
    axis = (torch.arange(size) + 0.5) / size
    y, x = axis[:, None], axis[None, :]
    objects, band = torch.zeros(B, F, N, size, size), torch.zeros(B, size)
    for b in range(B):
        for n in range(N):
            if scenes.colour_BN[b, n] < 0:
                continue
            cx, cy = places_BFN2[b, :, n, 0, None, None], places_BFN2[b, :, n, 1, None, None]
            edge = signed_distance(int(scenes.shape_BN[b, n]), x - cx, y - cy, scenes.radius_BN[b, n])
            objects[b, :, n] = (0.5 - edge * size).clamp(0, 1)
        if scenes.band_B2[b, 0] >= 0:
            left, right = scenes.band_B2[b] * size
            band[b] = (torch.minimum(axis * size - left, right - axis * size) + 0.5).clamp(0, 1)
    return objects, band


def render(scenes: Scenes, places_BFN2: Tensor, size: int) -> Tensor:
    """Pictures [B, F, H, W, 3], uint8, edges softened over one pixel."""
    B, F = places_BFN2.shape[:2]
    objects, band = covers(scenes, places_BFN2, size)
    picture = GROUNDS[scenes.ground_B][:, None, None, None].expand(B, F, size, size, 3).clone()
    for n in range(MAX_OBJECTS):
        colour = PALETTE[scenes.colour_BN[:, n]][:, None, None, None]
        picture += objects[:, :, n, ..., None] * (colour - picture)
    picture += band[:, None, None, :, None] * (torch.tensor(BAND_COLOUR) - picture)
    return picture.round().to(torch.uint8)


def contents(scenes: Scenes, places_BFN2: Tensor, size: int, cell: int) -> Tensor:
    """What is to be seen in each cell of `cell` pixels: [B, shapes + colours + grounds, F, H, W], 0..1.

    Shares of the cell under each shape, under an object of each colour, and bare ground of each colour.
    """
    objects, band = covers(scenes, places_BFN2, size)
    visible = objects * (1 - band)[:, None, None, None]
    bare = (1 - objects).prod(2, keepdim=True) * (1 - band)[:, None, None, None]
    shares = torch.nn.functional.avg_pool2d(torch.cat([visible, bare], 2).flatten(0, 2)[:, None], cell)
    shares = shares[:, 0].unflatten(0, (*visible.shape[:2], MAX_OBJECTS + 1))
    kinds = torch.zeros(len(scenes), MAX_OBJECTS + 1, CONTENTS)
    rows = torch.arange(len(scenes))
    for n in range(MAX_OBJECTS):
        kinds[rows, n, scenes.shape_BN[:, n]] = 1
        kinds[rows, n, len(SHAPES) + scenes.colour_BN[:, n].clamp_min(0)] = 1
    kinds[rows, MAX_OBJECTS, len(SHAPES) + len(COLOURS) + scenes.ground_B] = 1
    return torch.einsum("bfnhw,bnk->bkfhw", shares, kinds)

"""Stories of hiding: a band comes down over an object and is lifted again, so that it must be remembered.

A story is made of blocks: the bare ground (the sink must not hold the object), the object in sight, the band
over it, the band lifted. When the band is lifted the prompt says "an object": colour and shape must come from
the past. Scenes are encoded once; a hidden block shows nothing that moves, so a longer wait repeats the last
one. B clips, C latent channels, T latent frames, L text tokens, E text width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model_patches.vae.wan import TIME_STRIDE, WanVAE
from . import text, world
from .train_pocket.clips import encode_pictures
from .train_pocket.pool import Pool

BARE, VISIBLE, HIDDEN, LIFTED = range(4)  # the parts of a story
ENCODED = (1, 2, 3, 2)  # blocks of each part in an encoded clip
RADIUS = (0.12, 0.13)  # of the picture's side: small enough for the band to cover
BAND_WIDTH = (0.40, 0.44)
LONGEST = 300  # frames that objects fly on unseen beside those that are encoded
MARGIN = 1.5 / 64  # of the picture's side between object and edge of the band, whose edges are soft


@dataclass(frozen=True, slots=True)
class Story:
    """Blocks of each part; the bare ground is always one."""

    visible: int
    hidden: int
    lifted: int

    def __post_init__(self) -> None:
        if not (1 <= self.visible <= ENCODED[VISIBLE] and 1 <= self.lifted <= ENCODED[LIFTED]):
            raise ValueError(
                f"Story: {self.visible} visible and {self.lifted} lifted blocks; clips have 1 to "
                f"{ENCODED[VISIBLE]} and 1 to {ENCODED[LIFTED]}."
            )
        if self.hidden < 0:
            raise ValueError(f"Story: {self.hidden} hidden blocks; it must be 0 or more.")

    @property
    def parts(self) -> tuple[int, ...]:
        """The part each block belongs to."""
        counts = (1, self.visible, self.hidden, self.lifted)
        return tuple(part for part, count in enumerate(counts) for _ in range(count))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Which encoded block each block of the story is."""
        _, hidden, lifted = (sum(ENCODED[:part]) for part in (VISIBLE, HIDDEN, LIFTED))
        return (
            0,
            *range(hidden - self.visible, hidden),
            *(hidden + min(i, ENCODED[HIDDEN] - 1) for i in range(self.hidden)),
            *range(lifted, lifted + self.lifted),
        )


@dataclass(slots=True)
class HidingClips(Pool):
    """B encoded clips with `sum(ENCODED)` blocks each."""

    latents_BCTHW: Tensor  # float16, in the diffusion model's units
    texts_BPLE: Tensor  # of each part
    look_B3: Tensor  # int64: colour, shape and ground, as indices of the world's tables

    def assemble(self, story: Story, block_frames: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(latents [B, C, T, H, W], float32, and the text [B, L, E] of each block) of a story."""
        blocks = self.latents_BCTHW.unflatten(2, (-1, block_frames))
        latents = blocks[:, :, list(story.blocks)].flatten(2, 3).float()
        return latents, tuple(self.texts_BPLE[:, part] for part in story.parts)


def sample(count: int, generator: torch.Generator, combinations: str = "all") -> world.Scenes:
    """Scenes of one object each that stays inside the column of a band.

    combinations: of the object alone and its ground, see `world.sample_scenes`.
    """
    scenes = world.sample_scenes(count, generator, band_share=1.0)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    width = uniform(*BAND_WIDTH)
    left = 0.1 + (0.8 - width) * torch.rand(count, generator=generator)
    colour_BN, radius_BN = scenes.colour_BN.clone(), scenes.radius_BN.clone()
    colour_BN[:, 1:] = -1
    radius_BN[:, 0] = uniform(*RADIUS)
    scenes = replace(
        scenes, colour_BN=colour_BN, radius_BN=radius_BN, band_B2=torch.stack([left, left + width], 1)
    )
    scenes = world.redraw_looks(scenes, generator, combinations)
    low_B2, high_B2 = _centre_range(scenes)
    places = low_B2 + (high_B2 - low_B2) * torch.rand(count, 2, generator=generator)
    return replace(scenes, place_BN2=torch.stack([places, torch.full_like(places, 0.5)], 1))


def fly(scenes: world.Scenes, times_BF: Tensor) -> Tensor:
    """Centres [B, F, N, 2], at these frames, of objects that bounce inside the column of the band.

    Straight flight, folded at the column's walls; unused objects stay in the middle.
    """
    low_B2, high_B2 = _centre_range(scenes)
    straight = scenes.place_BN2[:, 0, None] + times_BF[..., None] * scenes.velocity_BN2[:, 0, None]
    low, width = low_B2[:, None], (high_B2 - low_B2)[:, None]
    folded = low + width - ((straight - low) % (2 * width) - width).abs()
    return torch.stack([folded, torch.full_like(folded, 0.5)], 2)


def render(scenes: world.Scenes, block_frames: int, size: int, longer_B: Tensor | None = None) -> Tensor:
    """Pictures [B, F, H, W, 3], uint8, of all encoded blocks.

    longer_B: frames that each object flies on behind the band beside those that are shown, as it does where
    a story hides it for longer.
    """
    ends = [TIME_STRIDE * block_frames * sum(ENCODED[: part + 1]) - TIME_STRIDE + 1 for part in range(4)]
    times = torch.arange(ends[-1]).expand(len(scenes), -1).clone()
    if longer_B is not None:
        times[:, ends[HIDDEN] :] += longer_B[:, None]
    places, open_air = fly(scenes, times), torch.full_like(scenes.band_B2, -1)
    sights = (
        replace(scenes, colour_BN=torch.full_like(scenes.colour_BN, -1), band_B2=open_air),
        replace(scenes, band_B2=open_air),
        scenes,
        replace(scenes, band_B2=open_air),
    )
    starts = [0, *ends[:-1]]
    return torch.cat(
        [
            world.render(sight, places[:, start:end], size)
            for sight, start, end in zip(sights, starts, ends, strict=True)
        ],
        1,
    )


def prompts(colour: int, shape: int, ground: int) -> tuple[str, ...]:
    """What each part of a story is asked for with."""
    named, hidden = ((world.prompt([(colour, shape)], ground, band)) for band in (False, True))
    bare = named.split(" on ", 1)[1]
    return bare, named, world.hide_names(hidden), world.hide_names(named)


def draw(
    vae: WanVAE,
    count: int,
    block_frames: int,
    size: int,
    generator: torch.Generator,
    combinations: str = "all",
) -> HidingClips:
    """New clips, encoded."""
    scenes = sample(count, generator, combinations)
    look = torch.stack([scenes.colour_BN[:, 0], scenes.shape_BN[:, 0], scenes.ground_B], 1)
    texts = [torch.cat([text.encode(p) for p in prompts(*row)]) for row in look.tolist()]
    longer = torch.randint(LONGEST, (count,), generator=generator)
    latents = encode_pictures(vae, render(scenes, block_frames, size, longer))
    return HidingClips(latents.half(), torch.stack(texts), look)


def _centre_range(scenes: world.Scenes) -> tuple[Tensor, Tensor]:
    """Lowest and highest centre [B, 2] of the first object."""
    extent = scenes.extent_BN()[:, 0]
    side = extent + MARGIN
    left, right = scenes.band_B2.unbind(1)
    low, high = torch.stack([left + side, extent], 1), torch.stack([right - side, 1 - extent], 1)
    if not bool((high > low).all()):
        narrow = math.floor(100 * float((right - left).min())) / 100
        raise ValueError(
            f"Hiding: a band of {narrow} of the picture does not cover an object of radius "
            f"{float(scenes.radius_BN[:, 0].max()):.2f}; draw scenes with `hiding.sample`."
        )
    return low, high

"""Judges frames as a person would: what was prompted, in its size and shape, moving, and nothing else.

`Verdict.adheres` is the detector's own verdict, which looks at colours, shapes and ground alone. The bounds
are those that rendered truth keeps after the VAE: `python run.py bench quality --bounds` prints what they are
taken from, and that 99 % of such frames are right in every part. F frames, N prompted objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import detector, motion
from .outlines import Outlines, outline
from .text import tokenize
from .world import BAND_NAME, SHAPES

SMALLEST, LARGEST = 0.116, 0.154  # radius, of the picture's side
LEAST_TRACKED = SMALLEST / 2  # radius: what is smaller is a trace of an object, and has no speed
LEAST_OVERLAP = (0.86, 0.86, 0.82)  # of each shape of the world
MOST_MISTAKEN = (0.36, 0.46, 0.25)
MOST_STRANGERS = 0.08  # of a window
SLOWEST, FASTEST = 0.001, 0.025  # sides per picture


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is right about one frame; `moves` is None where too few pictures tell."""

    adheres: bool  # the prompted colours, shapes and ground, and no other object
    size: bool  # every object as large as the world's are
    edges: bool  # every object has the outline of its shape, and not half of another's
    clean: bool  # no pixels that belong to nothing prompted
    moves: bool | None  # every object moves, and none jumps

    @property
    def strict(self) -> bool:
        """All of it."""
        return self.adheres and self.size and self.edges and self.clean and self.moves is not False


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts of all frames, and what was measured for them."""

    frames: tuple[Verdict, ...]
    seen: tuple[detector.Frame, ...]  # what the detector reads
    objects: tuple[tuple[str, str], ...]  # (colour, shape), the order of N
    outlines: Outlines
    speed_EN: Tensor  # sides per picture over each quarter of a second, see `motion.speeds`


def judge(pixels_FHWC: Tensor, prompt: str, fps: int) -> Judged:
    """Judge uint8 frames by a prompt.

    Raises ValueError for one that leaves something open, that lets a band hide what would be judged, or
    whose objects colours do not tell apart.
    """
    objects, ground = detector.parse_prompt(prompt)
    phrases = tokenize(prompt)
    if f"{BAND_NAME} band" in phrases:
        raise ValueError(f"Verdict: {prompt!r} has a band, which may hide objects; give one without.")
    colours = {colour for colour, _ in objects}
    if not objects or len(colours) + 1 < len(phrases):
        raise ValueError(
            f"Verdict: {prompt!r} must name one ground, and at least one object, each of another colour: "
            f"which pixels are whose is told by colours."
        )
    return judge_objects(pixels_FHWC, sorted(objects), ground, fps)


def judge_objects(pixels_FHWC: Tensor, objects: Sequence[tuple[str, str]], ground: str, fps: int) -> Judged:
    """Judge uint8 frames that should show these (colour, shape) pairs and no others; their colours differ."""
    wanted = set(objects)
    seen = detector.detect(pixels_FHWC)
    found = outline(pixels_FHWC, objects, ground)
    there = (found.radius_FN >= LEAST_TRACKED)[..., None]
    speed_EN = motion.speeds(found.place_FN2.where(there, torch.nan), fps)
    around_FN = motion.around(speed_EN, fps)[: len(seen)]
    known = ~around_FN.isnan()
    kinds = [SHAPES.index(shape) for _, shape in objects]
    least, most = torch.tensor(LEAST_OVERLAP)[kinds], torch.tensor(MOST_MISTAKEN)[kinds]
    parts = [
        torch.tensor([frame.shows(wanted, ground) for frame in seen]),
        ((found.radius_FN >= SMALLEST) & (found.radius_FN <= LARGEST)).all(1),
        ((found.overlap_FN >= least) & (found.mistaken_FN <= most)).all(1),
        found.strangers_F <= MOST_STRANGERS,
        ((around_FN >= SLOWEST) & (around_FN <= FASTEST) | ~known).all(1),
    ]
    rows = zip(*(part.tolist() for part in parts), known.any(1).tolist(), strict=True)
    frames = tuple(
        Verdict(adheres, size, edges, clean, moves if told else None)
        for adheres, size, edges, clean, moves, told in rows
    )
    return Judged(frames, tuple(seen), tuple(objects), found, speed_EN)

"""Contact sheets: streams as rows, moments as columns, and below each picture what is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...pocket.verdict import Judged, Verdict
from .quality_figures import PARTS, Span, strict_shares

SHOWN = 6  # streams of a sheet
BAR = 3  # pixels below a picture, a piece for each part of the verdict
RIGHT, WRONG, OPEN = (60, 170, 80), (220, 50, 40), (120, 120, 120)


def sheets(folder: Path, name: str, span: Span, prompts: Sequence[str], judged: Sequence[Judged]) -> None:
    """The worst, the middle and the best streams of a span: by the stricter verdict, then by the detector's.

    Prints their prompts and their shares of strictly right frames.
    """
    shares = strict_shares(judged)
    adheres = [sum(frame.adheres for frame in one.frames) for one in judged]
    order = sorted(range(len(shares)), key=lambda stream: (shares[stream], adheres[stream]))
    middle = max(0, len(order) // 2 - SHOWN // 2)
    few = {"worst": order[:SHOWN], "median": order[middle : middle + SHOWN], "best": order[-SHOWN:]}
    for kind, some in few.items():
        shown_BFHWC = span.pixels_BFHWC if span.shown_BFHWC is None else span.shown_BFHWC
        pixels, frames = [shown_BFHWC[i] for i in some], [judged[i].frames for i in some]
        sheet(pixels, folder / f"{kind}_{name}.png", frames)
        told = {"sheet": f"{kind}_{name}", "streams": [[prompts[i], round(shares[i], 3)] for i in some]}
        print(json.dumps(told), file=sys.stderr)


def sheet(
    streams: Sequence[Tensor],
    path: Path,
    frames: Sequence[Sequence[Verdict]] = (),
    columns: int = 8,
    scale: int = 2,
) -> None:
    """Streams as rows, moments as columns, in one PNG; with verdicts, a bar for them below each picture.

    Its pieces are the parts of the verdict, in the order of `PARTS`: green is right, red wrong, grey open.
    """
    rows = []
    for index, pixels in enumerate(streams):
        moments = torch.linspace(0, len(pixels) - 1, columns).long()
        shown = pixels[moments]
        if frames:
            bars = torch.stack([_bar(frames[index][moment], pixels.shape[2]) for moment in moments.tolist()])
            shown = torch.cat([shown, bars], 1)
        rows.append(shown.permute(1, 0, 2, 3).flatten(1, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = torch.cat(rows)
    picture = picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    Image.fromarray(picture.numpy()).save(path)


def _bar(frame: Verdict, width: int) -> Tensor:
    """[BAR, W, 3]: a piece for each part, a dark gap between two."""
    bar = torch.zeros(BAR, width, 3, dtype=torch.uint8)
    piece = width // len(PARTS)
    for index, part in enumerate(PARTS):
        colour = {True: RIGHT, False: WRONG, None: OPEN}[getattr(frame, part)]
        bar[1:, index * piece : (index + 1) * piece - 1] = torch.tensor(colour, dtype=torch.uint8)
    return bar

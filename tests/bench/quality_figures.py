"""Figures of judged streams: the detector's verdict and the stricter one side by side, with standard errors.

B streams, F pixel frames, H/W pixels, E quarter seconds, N objects. Speeds are sides of the picture per
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from ...model_patches.takes.measures import border_ratio
from ...pocket import detector, motion, world
from ...pocket.verdict import FASTEST, Judged, Verdict
from ...pocket.verdict import judge as judge_frames

PARTS = ("adheres", "size", "edges", "clean", "moves")


@dataclass(frozen=True)
class Span:
    """Plain pictures of all streams [B, F, H, W, 3], the pixel frames at which blocks begin, and when."""

    pixels_BFHWC: Tensor
    borders: tuple[int, ...]
    start: int = 0  # seconds of the streams before it
    shown_BFHWC: Tensor | None = None  # as they were decoded, of any look and size; None: the plain ones


def judged_streams(span: Span, prompts: Sequence[str], fps: int) -> list[Judged]:
    """Every stream's frames, judged by its prompt."""
    return [judge_frames(clip, one, fps) for clip, one in zip(span.pixels_BFHWC, prompts, strict=True)]


def judge(
    span: Span, prompts: Sequence[str], fps: int, truth: Sequence[float] = ()
) -> tuple[dict[str, float], list[float]]:
    """(figures over all streams of one span by both verdicts, adherence of each stream).

    truth: speed of each stream's own scene in the world, to which speeds are compared.
    """
    streams = judged_streams(span, prompts, fps)
    figures, shares = adherence(span, prompts, streams)
    return figures | strictness(streams, span.borders) | pace(streams, truth), shares


def adherence(
    span: Span, prompts: Sequence[str], streams: Sequence[Judged]
) -> tuple[dict[str, float], list[float]]:
    """(the detector's figures, adherence of each stream).

    The standard error is that of a mean over streams: differences of few of them say nothing. The first
    stretch reaches to the span's first block border; of a stream's first seconds it is the first block.
    """
    shown = [[frame.adheres for frame in stream.frames] for stream in streams]
    grounds = [detector.parse_prompt(prompt)[1] for prompt in prompts]
    things = sum(
        frame.ground == ground
        for stream, ground in zip(streams, grounds, strict=True)
        for frame in stream.seen
    )
    errors = [float((pixels.float() - _plain(pixels)).abs().mean()) for pixels in span.pixels_BFHWC]
    moves = (span.pixels_BFHWC[:, 1:].float() - span.pixels_BFHWC[:, :-1].float()).abs().mean((0, 2, 3, 4))
    shares = [sum(frames) / len(frames) for frames in shown]
    figures = {
        "adherence_share": sum(shares) / len(shares),
        "worst_stream_share": min(shares),
        "perfect_streams_share": sum(share == 1 for share in shares) / len(shares),
        "ground_share": things / (len(prompts) * span.pixels_BFHWC.shape[1]),
        "colour_error_levels": sum(errors) / len(errors),
        "sharpness_levels": float(
            (span.pixels_BFHWC[:, :, 1:].float() - span.pixels_BFHWC[:, :, :-1].float()).abs().mean()
        ),
    }
    if len(shares) > 1:
        figures["adherence_standard_error_share"] = stdev(shares) / len(shares) ** 0.5
    if span.borders:
        figures["discontinuity_ratio"] = border_ratio(moves.numpy(), [b - 1 for b in span.borders])
        first = [share for frames in shown for share in frames[: span.borders[0]]]
        figures["first_stretch_share"] = sum(first) / len(first)
    return figures, shares


def strict_shares(streams: Sequence[Judged]) -> list[float]:
    """Share of each stream's frames that are right in every part."""
    return [fmean(frame.strict for frame in stream.frames) for stream in streams]


def strictness(streams: Sequence[Judged], borders: Sequence[int] = ()) -> dict[str, float]:
    """Share of frames right in every part; of each part, how often it fails and how often it alone does."""
    shares, frames = strict_shares(streams), [frame for stream in streams for frame in stream.frames]
    figures: dict[str, float] = {
        "strict_share": fmean(shares),
        "worst_stream_strict_share": min(shares),
        "perfect_streams_strict_share": fmean(share == 1 for share in shares),
    }
    if len(shares) > 1:
        figures["strict_standard_error_share"] = stdev(shares) / len(shares) ** 0.5
    if borders:
        figures["first_stretch_strict_share"] = fmean(
            frame.strict for stream in streams for frame in stream.frames[: borders[0]]
        )
    wrong = [failing(frame) for frame in frames]
    for part in PARTS:
        figures[f"{part}_fails_share"] = fmean(part in parts for parts in wrong)
        figures[f"{part}_alone_fails_share"] = fmean(parts == [part] for parts in wrong)
    return figures


def failing(frame: Verdict) -> list[str]:
    """The parts of a frame's verdict that are wrong."""
    return [part for part in PARTS if getattr(frame, part) is False]


def pace(streams: Sequence[Judged], truth: Sequence[float] = ()) -> dict[str, float]:
    """Mean speed, share of objects that stand still, share of quarter seconds in which an object jumps.

    truth: of each stream, see `speed_figures`.
    """
    speeds = [stream.speed_EN for stream in streams]
    known = torch.cat([one[~one.isnan()] for one in speeds])
    if not len(known):
        return {}
    objects = [moving(thing).mean() for one in speeds for thing in one.T if len(moving(thing))]
    figures = speed_figures([stream_speed(one) for one in speeds], truth)
    if objects:
        figures["still_share"] = fmean(float(one < motion.STILL) for one in objects)
    return figures | {"jumps_share": float((known > FASTEST).float().mean())}


def speed_figures(speeds: Sequence[float | None], truth: Sequence[float | None] = ()) -> dict[str, float]:
    """Mean over streams, and with the truth's the ratio of both means, with standard errors over streams.

    Streams in which no object was found are left out, of both; `found_streams` says how many were not.
    """
    beside = truth or [0.0] * len(speeds)
    pairs = [
        (one, other)
        for one, other in zip(speeds, beside, strict=True)
        if one is not None and other is not None
    ]
    if not pairs:
        return {}
    found, world_speeds = zip(*pairs, strict=True)
    figures: dict[str, float] = {"speed_sides_per_picture": fmean(found), "found_streams": len(pairs)}
    many = len(pairs) > 1
    if many:
        figures["speed_standard_error_sides_per_picture"] = stdev(found) / len(found) ** 0.5
    if truth:
        figures["truth_sides_per_picture"] = fmean(world_speeds)
        ratio = figures["speed_ratio"] = fmean(found) / fmean(world_speeds)
        if many:
            off = [one - ratio * other for one, other in pairs]
            figures["speed_standard_error_ratio"] = stdev(off) / len(off) ** 0.5 / fmean(world_speeds)
    return figures


def between(speed_EN: Tensor, fps: int, start: float, end: float) -> Tensor:
    """The quarter seconds whose middle lies between two times, seconds from the first picture."""
    middle = (torch.arange(len(speed_EN)) + fps / motion.SPANS_PER_SECOND / 2) / fps
    return speed_EN[(middle >= start) & (middle < end)]


def moving(speeds: Tensor) -> Tensor:
    """Speeds that are known and no jump from one place to another."""
    return speeds[speeds <= FASTEST]


def stream_speed(speed_EN: Tensor) -> float | None:
    """Mean speed of a stream's objects; None where none was found."""
    known = moving(speed_EN)
    return float(known.mean()) if len(known) else None


def _plain(pixels: Tensor) -> Tensor:
    """Every pixel's nearest plain colour of the world."""
    plain = torch.cat([world.PALETTE, world.GROUNDS])
    return plain[torch.cdist(pixels.reshape(-1, 3).float(), plain).argmin(1)].view(pixels.shape)

"""The drift watch on streams whose state is known: what tells good ones from those that stand still or burn
out, how often it is wrong, and what it costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ...model_patches.stream.step import step
from ...model_patches.takes.curve import Point
from ...model_patches.takes.measures import Frames, Seconds
from ...model_patches.takes.verdict import REFERENCE_SECONDS, WINDOW_SECONDS, Verdict
from ...model_patches.vae.decoder import decode_stream
from ...model_patches.vae.wan import TIME_STRIDE
from ...model_patches.writer.ffmpeg import Decoder, decode_command, find_ffmpeg
from ...pocket import world
from ...pocket.choices import choose
from ...pocket.defaults import PLAIN
from .records import Rows

FIRST_SEED, REPORTED_SEED = 6_000_000, 7_000_000  # thresholds were set on the first, the others are reported
COST_SIZES = ((64, 64), (832, 480), (1280, 720))
COST_FRAMES, COST_TIMES = 12, 20
FPS = 16
NEARLY = 0.1  # share of its motion that a stream keeps that stands nearly still
NEARLY_STILL, COLOUR_GROWS = "nearly still", "colour grows"
BAR = 1 / 8  # of the height, at either end
STRONGEST = 4.0  # contrast and colour at the end of a stream that burns out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--streams", type=int, help="of each kind; default 8, quick 1")
    parser.add_argument("--seconds", type=int, help="length of a stream; default 60, quick 24")
    parser.add_argument("--seed", type=int, default=0, help="other streams")
    parser.add_argument("--set-thresholds", action="store_true", help="the streams that they were set on")
    parser.add_argument("--videos", type=Path, help="folder of real videos, which are good ones, too")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when no good stream was warned of, and every one that surely is none."""
    streams, seconds = (
        (1 if chosen.quick else 8) if chosen.streams is None else chosen.streams,
        chosen.seconds or (24 if chosen.quick else 60),
    )
    seed = chosen.seed + (FIRST_SEED if chosen.set_thresholds else REPORTED_SEED)
    clips = list(pocket_clips(streams, seconds, seed, rows))
    for path in sorted(chosen.videos.iterdir()) if chosen.videos else ():
        if path.suffix == ".mp4":
            clips.append(("video", video_clip(path, seconds)))
    right = True
    for kind, is_good, frames in kinds(clips):
        found = judge(points(frames))
        # a tenth of much motion is motion, and a grey picture of four times the colour is none that burns
        is_sure = not kind.endswith((NEARLY_STILL, COLOUR_GROWS))
        right &= found["warnings_samples"] == 0 if is_good else found["warnings_samples"] > 0 or not is_sure
        rows("watch", case=kind, is_good=is_good, video_seconds=len(frames) / FPS, **found)
    for size in COST_SIZES:
        cost(rows, *size)
    return 0 if right else 1


def pocket_clips(streams: int, seconds: int, seed: int, rows: Rows) -> Iterator[tuple[str, Frames]]:
    """Streams of the built-in model, without a band and with one, and what making them took."""
    pocket = choose(*PLAIN).pocket
    assert pocket.recipe.fps == FPS
    for kind, band_share in (("moving", 0.0), ("behind a band", 1.0)):
        scenes = world.sample_scenes(streams, torch.Generator().manual_seed(seed), band_share=band_share)
        seed += 1
        for n, prompt in enumerate(scenes.prompts()):
            state, made, past, worked, looked = None, [], None, 0.0, 0.0
            state = pocket.begin(pocket.encode(prompt), pocket.config(seed + 1000 * n))
            watching = Seconds(FPS, TIME_STRIDE)
            while sum(map(len, made)) < seconds * FPS:
                began = time.process_time()
                latents, state = step(pocket.caller, state)
                pixels, past = decode_stream(pocket.vae, latents.float(), past)
                ready = time.process_time()
                list(watching.take(sum(map(len, made)), pixels.numpy()))
                worked, looked = worked + ready - began, looked + time.process_time() - ready
                made.append(pixels.numpy())
            rows(
                "watch_cost",
                case=kind,
                made_seconds=worked,
                watch_seconds=looked,
                watch_share=looked / worked,
            )
            yield kind, np.concatenate(made)


def video_clip(path: Path, seconds: int) -> Frames:
    """The pictures of a file, from the start again where it is shorter; cuts between them are part of it."""
    decoder, found = Decoder(decode_command(find_ffmpeg(), path, fps=Fraction(FPS), seconds=seconds)), []
    while (frame := decoder.read()) is not None:
        found.append(frame)
    decoder.close()
    clip = np.stack(found)
    return np.concatenate([clip] * -(-seconds * FPS // len(clip)))[: seconds * FPS]


def kinds(clips: list[tuple[str, Frames]]) -> Iterator[tuple[str, bool, Frames]]:
    """(what it is, whether it is good, pictures) of every clip as it is, and with every fault."""
    for n, (kind, clip) in enumerate(clips):
        half, other = len(clip) // 2, clips[n - 1][1]
        yield kind, True, clip
        if other.shape == clip.shape:
            yield f"{kind}, another from its middle", True, np.concatenate([clip[:half], other[half:]])
        barred = clip.copy()
        bar = round(BAR * clip.shape[1])
        barred[:, :bar] = barred[:, -bar:] = 0
        yield f"{kind}, letterboxed", True, barred
        yield from ((f"{kind}, {fault}", False, frames) for fault, frames in faults(clip))


def faults(clip: Frames) -> Iterator[tuple[str, Frames]]:
    """The clip with a fault in its last two thirds."""
    sound = len(clip) // 3 // TIME_STRIDE * TIME_STRIDE + 1
    head, rest = clip[:sound], clip[sound:].astype(np.float32)
    # one latent, again and again
    one = clip[sound - TIME_STRIDE : sound].astype(np.float32)
    again = np.concatenate([one] * (len(rest) // TIME_STRIDE + 1))[: len(rest)]
    grey = rest.mean(-1, keepdims=True)
    grows = np.linspace(0, 1, len(rest), dtype=np.float32)[:, None, None, None]
    strength = 1 + (STRONGEST - 1) * grows
    changed = {
        "standing still": again,
        NEARLY_STILL: again + NEARLY * (rest - again),
        "contrast grows": 128 + (rest - 128) * strength,
        COLOUR_GROWS: grey + (rest - grey) * strength,
        "bleached": rest + 255 * grows,
    }
    for name, frames in changed.items():
        yield name, np.concatenate([head, frames.round().clip(0, 255).astype(np.uint8)])


def points(frames: Frames) -> list[Point]:
    """What the watch sees of them, in blocks of three latents."""
    seconds, found = Seconds(FPS, TIME_STRIDE), []
    for first in range(0, len(frames), 3 * TIME_STRIDE):
        found += seconds.take(first, frames[first : first + 3 * TIME_STRIDE])
    return found


def judge(seen: list[Point]) -> dict[str, float]:
    """How near it came to both warnings, and how often one came."""
    verdict, size = Verdict(FPS, FPS), round(WINDOW_SECONDS)
    warned = [verdict.take(point) for point in seen]
    windows = [seen[n : n + size] for n in range(len(seen) - size + 1)]
    clipped = [sum(point.clipped for point in window) / size for window in windows]
    reference = max(clipped[: round(REFERENCE_SECONDS)])
    return {
        "least_change_levels": min(max(point.change for point in window) for window in windows),
        "clipped_rise_share": max(clipped) - reference,
        "saturation_first_share": seen[0].saturation,
        "saturation_last_share": seen[-1].saturation,
        "warnings_samples": sum(warned),
    }


def cost(rows: Rows, width: int, height: int) -> None:
    """Processor time of looking at one block of noise at this size."""
    frames = np.random.default_rng(0).integers(0, 256, (COST_FRAMES, height, width, 3), np.uint8)
    seconds, spent = Seconds(FPS, TIME_STRIDE), []
    for n in range(COST_TIMES):
        began = time.process_time()
        list(seconds.take(n * COST_FRAMES, frames))
        spent.append(time.process_time() - began)
    middle = sorted(spent)[COST_TIMES // 2]
    rows(
        "watch_cost", case=f"{width}x{height}", block_frames=COST_FRAMES, block_ms=1000 * middle,
        video_share=middle * FPS / COST_FRAMES,
    )  # fmt: skip

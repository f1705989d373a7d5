"""Pictures a second, memory and quality of each decoder: Wan's VAE, the same with a head that draws twice the
height and width, a tiny decoder, the pocket's own VAE.

Random weights of the published sizes stand in where no file is given; they are as fast as the real ones and
show nothing, so they have no row of quality.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ...model_patches.geometry import Geometry
from ...model_patches.vae.cost import DecoderCost, WanCost
from ...model_patches.vae.decoder import MAX_LATENTS, VideoDecoder, decode_stream, encode_stream
from ...model_patches.vae.load import load_tiny, load_vae
from ...model_patches.vae.tiny import TinyDecoder
from ...model_patches.vae.tiny_cost import TinyCost
from ...model_patches.vae.wan import WanVAE
from ...pocket import world
from ...pocket.models import VAE_FILE, WEIGHTS
from .playback import psnr_db
from .records import Rows
from .subject import RANDOM

FPS = 16
Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True)
class Contender:
    """A decoder, what it costs, and the clip it decodes."""

    name: str
    decoder: VideoDecoder
    cost: DecoderCost
    weights: str  # the file's name, or RANDOM
    latents_BCTHW: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--vae", type=Path, help="Wan 2.1's VAE, .safetensors; default random weights")
    parser.add_argument("--tiny", type=Path, help="taew2_1 or lighttaew2_1, .safetensors; default random")
    parser.add_argument("--size", type=int, help="pixels, width and height; default 128, quick 64")
    parser.add_argument("--latents", type=int, help="of the clip; default 7, quick 3")
    parser.add_argument("--repeats", type=int, help="timed runs, the best counts; default 3, quick 1")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0: a row of speed for each decoder, a row of quality where its weights mean something."""
    size = chosen.size or (64 if chosen.quick else 128)
    count, repeats = (
        chosen.latents or (3 if chosen.quick else 7),
        chosen.repeats or (1 if chosen.quick else 3),
    )
    clip_FHWC = clip(size, count)
    found = contenders(chosen, clip_FHWC)
    for each in found:
        speed(rows, each, repeats, chosen.dtype)
    for each in found:
        quality(rows, each, found, clip_FHWC)
    return 0


def clip(size: int, latents: int) -> Tensor:
    """Returns uint8 pictures [F, H, W, 3] of the pocket world that are so many latents."""
    scenes = world.sample_scenes(1, torch.Generator().manual_seed(7), band_share=0.0)
    frames = Geometry(size, size).pixel_frames(latents)
    return world.render(scenes, world.simulate(scenes, frames), size)[0]


def contenders(chosen: argparse.Namespace, clip_FHWC: Tensor) -> list[Contender]:
    """Returns Wan's VAE at either size, a tiny decoder and the pocket's VAE, where its weights are there."""
    dtype, device = getattr(torch, chosen.dtype), torch.device(chosen.device)
    torch.manual_seed(0)
    wan = load_vae(chosen.vae, dtype, device) if chosen.vae else ready(WanVAE(), dtype, device)
    tiny = load_tiny(chosen.tiny, dtype, device) if chosen.tiny else ready(TinyDecoder(), dtype, device)
    latents_BCTHW = encode_stream(wan, clip_FHWC.to(device))[0]
    twice = ready(WanVAE(upscale=2), dtype, device)
    widths = tuple(layer.out_channels for layer in (tiny.decoder[i] for i in (1, 8, 14, 20)))
    found = [
        Contender("wan", wan, cost_of(wan), name(chosen.vae), latents_BCTHW),
        Contender("wan, twice the size", twice, cost_of(twice), RANDOM, latents_BCTHW),
        Contender("tiny", tiny, TinyCost(widths), name(chosen.tiny), latents_BCTHW),
    ]
    if (WEIGHTS / VAE_FILE).exists():
        own = load_vae(WEIGHTS / VAE_FILE, dtype, device)
        latents_BCTHW = encode_stream(own, clip_FHWC.to(device))[0]
        found.append(Contender("pocket", own, cost_of(own), VAE_FILE, latents_BCTHW))
    return found


def cost_of(vae: WanVAE) -> WanCost:
    """Returns what decoding with it costs."""
    return WanCost(vae.decoder.conv1.out_channels // 4, upscale=vae.upscale)


def ready(model: Model, dtype: torch.dtype, device: torch.device) -> Model:
    """Returns the fresh model with its random weights."""
    return model.to(device, dtype).eval().requires_grad_(False)


def name(path: Path | None) -> str:
    """Returns what rows call the weights."""
    return RANDOM if path is None else path.name


def speed(rows: Rows, each: Contender, repeats: int, dtype: str) -> None:
    """Prints how fast a clip is decoded, and what decoding holds by formula."""
    best = min(timed(each) for _ in range(1 + repeats))
    count, height, width = each.latents_BCTHW.shape[2:]
    places, itemsize, piece = height * width, each.latents_BCTHW.dtype.itemsize, min(MAX_LATENTS, count)
    stride, frames = 8 * each.decoder.upscale, Geometry(8 * width, 8 * height).pixel_frames(count)
    rows(
        "speed",
        decoder=each.name,
        weights=each.weights,
        dtype=dtype,
        width_pixels=stride * width,
        height_pixels=stride * height,
        clip_frames=frames,
        pictures_fps=frames / best,
        of_play_speed_ratio=frames / best / FPS,
        piece_latents=piece,
        weight_bytes=each.cost.parameters * itemsize,
        past_bytes=each.cost.buffers(places) * itemsize,
        computed_peak_bytes=each.cost.peak(piece, places) * itemsize,
        latent_tflop=each.cost.flops(1, places) / 1e12,
    )


def timed(each: Contender) -> float:
    """Returns the seconds that one decode of the clip takes."""
    start = time.perf_counter()
    pixels_FHWC, _ = decode_stream(each.decoder, each.latents_BCTHW)
    pixels_FHWC.cpu()  # waits for a GPU
    return time.perf_counter() - start


def quality(rows: Rows, each: Contender, found: list[Contender], clip_FHWC: Tensor) -> None:
    """Prints how near a decoder's pictures come to the clip, and a tiny one's to those of Wan's VAE."""
    wan = found[0]
    known = {"decoder": each.name, "weights": each.weights}
    if RANDOM in (each.weights, wan.weights if each.name == "tiny" else each.weights):
        rows("no_quality", **known, why="random weights show nothing; give --vae and --tiny")
        return
    made_FHWC = decoded(each)
    rows("quality", **known, truth_psnr_db=psnr_db(clip_FHWC, made_FHWC))
    if each.name == "tiny":
        rows("quality", **known, model=wan.weights, vae_psnr_db=psnr_db(decoded(wan), made_FHWC))


def decoded(each: Contender) -> Tensor:
    """Returns its pictures of the clip at the clip's size; of larger ones each pixel is a square's mean."""
    pixels_FHWC = decode_stream(each.decoder, each.latents_BCTHW)[0].cpu()
    if each.decoder.upscale == 1:
        return pixels_FHWC
    return avg_pool2d(pixels_FHWC.movedim(-1, 1).float(), each.decoder.upscale).movedim(1, -1)

"""What a stream makes of the picture, video or earlier take that it begins with, judged by the detector."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.sampler.denoise import InitLatents
from ...model_patches.stream.follow import Follow, encoder_of
from ...model_patches.stream.incoming import Fitted, Pictures
from ...model_patches.stream.join import blend_frames, missing_detail
from ...model_patches.stream.motion import PUBLISHED_LESS
from ...model_patches.stream.start import context_latents
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import prefill, step
from ...model_patches.vae.decoder import decode_stream, encode_stream
from ...pocket import detector, world
from ...pocket.models import Pocket, load_pocket
from .records import Rows
from .start_motion import MEANS, motion_rows
from .start_truth import Truth, adherence, share_at

BLOCKS = 4  # made after what is given: three seconds
STRANGERS = 7  # other scenes whose places tell what chance gives
SETTLED_SECONDS = 0.5  # of pictures on either side of a join whose mean colours are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--streams", type=int, help="scenes, each with noise of its own; default 24, quick 2")
    parser.add_argument("--blocks", type=int, help=f"made after what is given; default {BLOCKS}, quick 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument(
        "--strengths", type=float, nargs="+", help="default: each of the model's noise levels"
    )
    parser.add_argument(
        "--motion", type=float, default=PUBLISHED_LESS, help="part motion: off the strength at full motion"
    )
    parser.add_argument("--only", choices=("image", "extend", "follow", "motion"), help="this part alone")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the streams could be made and judged."""
    pocket = load_pocket(chosen.weights)
    streams = chosen.streams or (2 if chosen.quick else 24)
    blocks = chosen.blocks or (2 if chosen.quick else BLOCKS)
    given = context_latents(pocket.config().positions, pocket.recipe.block_frames)
    latents = given + blocks * pocket.recipe.block_frames
    truth = rendered(streams, chosen.seed, 1 + 4 * (latents - 1), pocket.recipe.size)
    sizes = {"streams_samples": streams, "weights": pocket.recipe.trained}
    if chosen.only in (None, "image"):
        rows("start", case="image", **sizes, **from_image(pocket, truth, blocks, chosen.seed))
    if chosen.only in (None, "extend"):
        for case, figures in from_video(pocket, truth, given, blocks, chosen.seed):
            rows("start", case=case, **sizes, **figures)
        figures = from_take(pocket, truth, given, blocks, chosen.seed)
        rows("start", case="extend_earlier_take", **sizes, **figures)
    if chosen.only in (None, "follow"):
        for strength in chosen.strengths or pocket.recipe.sigmas:
            figures = followed(pocket, truth, strength, blocks, chosen.seed)
            rows("start", case="follow", **sizes, strength_share=strength, **figures)
    if chosen.only in (None, "motion"):
        asked = (streams, blocks, chosen.strengths or MEANS, chosen.motion, chosen.seed)
        for figures in motion_rows(pocket, *asked):
            rows("motion", **sizes, motion_share=chosen.motion, **figures)
    return 0


def rendered(streams: int, seed: int, frames: int, size: int) -> Truth:
    """Scenes without band, as the world moves them."""
    scenes = world.sample_scenes(streams, torch.Generator().manual_seed(2_000_000 + seed), band_share=0.0)
    places = world.simulate(scenes, frames)
    return Truth(scenes, world.render(scenes, places, size), places)


def from_image(pocket: Pocket, truth: Truth, blocks: int, seed: int) -> dict[str, float]:
    """A picture is the first of the video: do the next ones join it, and do its objects stay?

    As it is shown its error is none; what the VAE alone makes of it stands beside.
    """
    pictures = truth.pixels_BFHWC[:, :1]
    latents = encoded(pocket, pictures)
    decoded = shown(pocket, torch.cat([latents, went_on(pocket, truth.scenes, latents, blocks, seed)], 2))
    made = put_back(decoded, pictures[:, 0], decoded[:, 0])
    prompts = truth.scenes.prompts()
    return {
        "first_picture_error_levels": float((made[:, 0].float() - pictures[:, 0].float()).abs().mean()),
        "first_picture_adherence": adherence(made[:, :1], prompts),
        "vae_alone_picture_db": psnr(decoded[:, 0], pictures[:, 0]),
        "vae_alone_picture_adherence": adherence(decoded[:, :1], prompts),
        "following_pictures_adherence": adherence(made[:, 1:], prompts),
        "place_error_pixels": place_error(made[:, 1:], truth.pixels_BFHWC[:, 1:], pocket.recipe.size),
    }


def put_back(made: Tensor, given: Tensor, decoded: Tensor) -> Tensor:
    """Streams' pictures [B, F, H, W, 3] with what the VAE lost of the last given ones [B, H, W, 3]."""
    rows = zip(made, given, decoded, strict=True)
    return torch.stack([blend_frames(one, missing_detail(last, was), 0) for one, last, was in rows])


def from_video(
    pocket: Pocket, truth: Truth, given: int, blocks: int, seed: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """The end of a video is the past, with and without what the VAE lost put back; then its last picture.

    The last case is what is left to someone who cannot give more than a picture.
    """
    frames = 1 + 4 * (given - 1)
    before, after = truth.pixels_BFHWC[:, :frames], truth.pixels_BFHWC[:, frames:]
    for case, part in (("extend", before), ("extend_from_last_picture", before[:, -1:])):
        latents = encoded(pocket, part)
        made = went_on(pocket, truth.scenes, latents, blocks, seed)
        pixels = shown(pocket, torch.cat([latents, made], 2))
        decoded, new = pixels[:, part.shape[1] - 1], pixels[:, part.shape[1] :]
        if part is before:
            smooth = put_back(new, before[:, -1], decoded)
            yield case, judged(pocket, truth.scenes, before, smooth, after)
            case += "_nothing_put_back"
        yield case, judged(pocket, truth.scenes, before, new, after)


def from_take(pocket: Pocket, truth: Truth, given: int, blocks: int, seed: int) -> dict[str, float]:
    """A new stream, with noise of its own, begins where an earlier stream ended."""
    state, parts = start(pocket, truth.scenes, seed), []
    while state.start_frame < 2 * given:
        latents, state = step(pocket.caller, state)
        parts.append(latents)
    before = torch.cat(parts, 2)
    tail = before[:, :, -given:]
    made = went_on(pocket, truth.scenes, tail, blocks, seed + 1)
    frames = 1 + 4 * (given - 1)
    pixels = shown(pocket, torch.cat([tail, made], 2))[:, frames:]
    earlier = shown(pocket, before)
    return judged(pocket, truth.scenes, earlier, pixels, None)


def judged(
    pocket: Pocket, scenes: world.Scenes, before: Tensor, made: Tensor, truth: Tensor | None
) -> dict[str, float]:
    """How the made pictures follow on the given ones. All tensors [B, F, H, W, 3], uint8.

    truth: as the world itself goes on, where it is known.
    """
    both = torch.cat([before, made], 1).float()
    moves_BF = (both[:, 1:] - both[:, :-1]).abs().mean((2, 3, 4))
    join, block = before.shape[1] - 1, pocket.recipe.block_frames * 4
    borders = range(join, moves_BF.shape[1], block)
    inside = [index for index in range(join, moves_BF.shape[1]) if index not in borders]
    settled = round(SETTLED_SECONDS * pocket.recipe.fps)
    colour = made[:, :settled].float().mean((1, 2, 3)) - before[:, -settled:].float().mean((1, 2, 3))
    step_BC = made[:, 0].float().mean((1, 2)) - before[:, -1].float().mean((1, 2))
    figures = {
        "join_jump_levels": float(moves_BF[:, join].mean()),
        "block_border_jump_levels": float(moves_BF[:, list(borders)[1:]].mean()),
        "inside_jump_levels": float(moves_BF[:, inside].mean()),
        "given_jump_levels": float(moves_BF[:, :join].mean()),
        "colour_step_levels": float(step_BC.mean(0).abs().max()),
        "colour_step_each_stream_levels": float(step_BC.abs().mean()),
        "colour_shift_levels": float(colour.mean(0).abs().max()),
        "colour_shift_each_stream_levels": float(colour.abs().mean()),
        "following_pictures_adherence": adherence(made, scenes.prompts()),
    }
    if truth is not None:
        figures["place_error_pixels"] = place_error(made, truth, pocket.recipe.size)
    return figures


def followed(pocket: Pocket, truth: Truth, strength: float, blocks: int, seed: int) -> dict[str, float]:
    """A video in other colours and shapes is followed: are the objects where it has them?"""
    frames = 1 + 4 * (blocks * pocket.recipe.block_frames - 1)
    scenes = world.change_looks(truth.scenes, torch.Generator().manual_seed(3_000_000 + seed))
    config = pocket.config(seed)
    size = pocket.recipe.size
    follows = [
        Follow(Fitted(Pictures(clip[:frames]), size, size), encoder_of(pocket.vae), config, strength)
        for clip in truth.pixels_BFHWC
    ]
    state, parts = start(pocket, scenes, seed), []
    for _ in range(blocks):
        given = [follow.block(state.block, state.start_frame) for follow in follows]
        begins = [each.begin for each in given if each is not None]
        begin = InitLatents(torch.cat([each.clean_BCTHW for each in begins]), begins[0].call)
        latents, state = step(pocket.caller, state, begin=begin)
        parts.append(latents)
    made = shown(pocket, torch.cat(parts, 2))
    seen = [detector.detect(clip) for clip in made]
    strangers = range(1, min(len(seen), STRANGERS + 1))
    return {
        "noise_share": config.sigmas[follows[0].call],
        "followed_share": share_at(seen, truth),
        "chance_share": sum(share_at(seen, truth, away) for away in strangers) / max(1, len(strangers)),
        "asked_adherence": adherence(made, scenes.prompts()),
        "incoming_adherence": adherence(made, truth.scenes.prompts()),
    }


def place_error(made_BFHWC: Tensor, truth_BFHWC: Tensor, size: int) -> float:
    """Mean distance, in the second after a join, of objects of a colour from where the world has them."""
    found: list[float] = []
    for made, truth in zip(made_BFHWC[:, :16], truth_BFHWC[:, :16], strict=True):
        for one, other in zip(detector.detect(made), detector.detect(truth), strict=True):
            wanted = {thing.colour: thing for thing in other.objects}
            found += [
                size * ((thing.x - at.x) ** 2 + (thing.y - at.y) ** 2) ** 0.5
                for thing in one.objects
                if (at := wanted.get(thing.colour)) is not None
            ]
    return sum(found) / max(1, len(found))


def psnr(made: Tensor, truth: Tensor) -> float:
    """Of all pictures together, peak 255."""
    error = (made.float() - truth.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def start(pocket: Pocket, scenes: world.Scenes, seed: int) -> StreamState:
    """Streams of the scenes' prompts side by side."""
    text = torch.cat([pocket.encode(prompt) for prompt in scenes.prompts()])
    return pocket.begin(text, pocket.config(seed))


def went_on(pocket: Pocket, scenes: world.Scenes, latents: Tensor, blocks: int, seed: int) -> Tensor:
    """Latents made after the given ones."""
    state = prefill(pocket.caller, start(pocket, scenes, seed), latents)
    parts = []
    for _ in range(blocks):
        made, state = step(pocket.caller, state)
        parts.append(made)
    return torch.cat(parts, 2)


def encoded(pocket: Pocket, pixels_BFHWC: Tensor) -> Tensor:
    """Latents of each stream's pictures."""
    return torch.cat([encode_stream(pocket.vae, clip)[0] for clip in pixels_BFHWC])


def shown(pocket: Pocket, latents_BCTHW: Tensor) -> Tensor:
    """Pictures of each stream's latents [B, F, H, W, 3], uint8."""
    return torch.stack([decode_stream(pocket.vae, one[None])[0] for one in latents_BCTHW])

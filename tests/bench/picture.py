"""The moving picture of the README: pocket streams side by side, prompts changed while they run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...model_patches.stream.step import step
from ...model_patches.stream.switch import switch
from ...model_patches.vae.decoder import VaeBuffers, decode_stream
from ...pocket.choices import Choice, choose
from ...pocket.defaults import DEFAULT, LIT, LOOKS
from .records import Rows

# the prompts of each stream, in turn
JOURNEYS = (
    (
        "a red circle and a blue square on a green ground",
        "a yellow triangle and a cyan circle on a magenta ground",
    ),
    ("a magenta triangle on a cyan ground", "a magenta triangle and a green circle on a blue ground"),
    (
        "a yellow square and a red triangle on a blue ground",
        "a yellow square and a red triangle on a red ground",
    ),
)
CAPTION_PIXELS = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--out", type=Path, default=Path("out/stream.webp"), help="animated WebP or GIF")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per prompt")
    parser.add_argument("--scale", type=int, default=4, help="times the size of the stream")
    parser.add_argument("--look", choices=LOOKS, default=LIT, help=f"as the demo knows them; default {LIT}")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    for name, usual in DEFAULT._asdict().items():
        parser.add_argument(f"--{name}", metavar="NAME", help=f"as the demo knows them; default {usual}")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the picture is written."""
    given = choose(chosen.cache, chosen.memory, chosen.weights, look=chosen.look)
    blocks = 2 if chosen.quick else chosen.blocks
    streams = [journey(given, prompts, blocks, chosen.seed + i) for i, prompts in enumerate(JOURNEYS)]
    scale = max(1, chosen.scale // given.pocket.vae.upscale)
    frames = [
        _frame([(pixels[f], captions[f]) for pixels, captions in streams], scale)
        for f in range(len(streams[0][1]))
    ]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        chosen.out,
        save_all=True,
        append_images=frames[1:],
        duration=1000 // given.pocket.recipe.fps,
        loop=0,
        quality=80,
    )
    rows(
        "picture",
        format=given.cache.name,
        memory=given.memory.name,
        file=str(chosen.out),
        frames=len(frames),
        file_bytes=chosen.out.stat().st_size,
    )
    return 0


def journey(given: Choice, prompts: tuple[str, ...], blocks: int, seed: int) -> tuple[Tensor, list[str]]:
    """(pixels [F, H, W, 3], the prompt of each frame) of one stream that goes through all prompts."""
    pocket = given.pocket
    kept = {"cache": given.cache, "memory": given.memory}
    state = pocket.begin(pocket.encode(prompts[0]), pocket.config(seed), **kept)
    past: VaeBuffers | None = None
    pixels, captions = [], []
    for prompt in prompts:
        state = switch(pocket.caller, state, pocket.prompt(pocket.encode(prompt), state.config), "smooth")
        for _ in range(blocks):
            latents, state = step(pocket.caller, state)
            frames, past = decode_stream(pocket.vae, latents, past)
            pixels.append(frames)
            captions += [prompt] * len(frames)
    return torch.cat(pixels), captions


def _frame(parts: list[tuple[Tensor, str]], scale: int) -> Image.Image:
    side, gap = parts[0][0].shape[0] * scale, 12
    canvas = Image.new("RGB", (len(parts) * (side + gap) + gap, side + gap + CAPTION_PIXELS), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, (pixels, caption) in enumerate(parts):
        left = gap + i * (side + gap)
        canvas.paste(
            Image.fromarray(pixels.numpy()).resize((side, side), Image.Resampling.NEAREST), (left, gap)
        )
        draw.multiline_text(
            (left, side + gap + 6), caption.replace(" on ", "\non "), fill="#333333", font=font
        )
    return canvas

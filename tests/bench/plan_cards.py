"""What fits a card of 12 to 32 GB: Wan 1.3B and 14B by picture, cache format, weights and decoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...model_patches.arch.mla import MlaModel, MlaSizes
from ...model_patches.arch.wan import WanConfig, WanModel
from ...model_patches.geometry import Geometry
from ...model_patches.plan.cards import WEIGHTS, Choice, choices, usable_formats
from ...model_patches.plan.plan import Request
from ...model_patches.stream.config import StreamConfig
from ...model_patches.vae.cost import WanCost
from ...model_patches.vae.tiny_cost import TinyCost
from .records import Rows

MODELS = {
    "1.3B": WanConfig(dim=1536, ffn_dim=8960, num_layers=30),
    "14B": WanConfig(dim=5120, ffn_dim=13824, num_layers=40),
}
PICTURES = ((832, 480), (1280, 720))
PRESET = "longlive_infinity"  # 3 frames of sink, a window of 9
# as ComfyUI runs them: Wan's VAE two latents at a time, pair by pair
IN_COMFYUI = WanCost(in_pairs=True)
DECODERS = ((IN_COMFYUI, 2), (TinyCost(), 4))
CALLS = 5  # of the model in a block: four steps, and the call at timestep 0


def ways() -> Iterator[tuple[str, Request, Choice]]:
    """Yields (model, request, choice) in the order of the table."""
    for decoder, piece in DECODERS:
        for name, model in MODELS.items():
            for width, height in PICTURES:
                stream = StreamConfig(Geometry(width, height), PRESET, dtype=torch.bfloat16)
                request = Request(model, stream, fps=16, decoder=decoder, piece_latents=piece)
                with torch.device("meta"):
                    formats = usable_formats(WanModel(model))
                    # VideoMLA has been published for 1.3B alone
                    formats += usable_formats(MlaModel(model, MlaSizes())) if name == "1.3B" else ()
                for cache in formats:
                    yield from ((name, request, choice) for choice in choices(request, [cache]))


def cards(rows: Rows) -> None:
    """Prints a row for each way."""
    for name, request, choice in ways():
        card = {} if choice.card is None else {"card_bytes": choice.card * 2**30}
        rows(
            "card",
            is_computed=True,
            is_for_a_card=choice.card is not None,
            model=name,
            decoder=request.decoder.name,
            width_pixels=request.geometry.width,
            height_pixels=request.geometry.height,
            format=choice.cache.name,
            weights=choice.weights.name,
            device_bytes=choice.plan.device_bytes,
            bus_bytes=choice.weights.bus_bytes(request.model, 2, CALLS),
            **card,
        )


def table() -> str:
    """Returns the tables of docs/plan.md: one a decoder, and how weights are kept."""
    parts: list[str] = []
    for decoder, _ in DECODERS:
        title = "Wan's VAE" if decoder is IN_COMFYUI else "a tiny decoder"
        names = " | ".join(weights.name for weights in WEIGHTS)
        parts += ["", f"With {title}:", "", f"| model, picture, cache | {names} |", "|---" * 7 + "|"]
        found = [way for way in ways() if way[1].decoder is decoder]
        for start in range(0, len(found), len(WEIGHTS)):
            row = found[start : start + len(WEIGHTS)]
            name, request, choice = row[0]
            place = f"{name}, {request.geometry.height}p, `{choice.cache.name}`"
            parts.append(f"| {place} | " + " | ".join(_cell(way[2]) for way in row) + " |")
    return "\n".join([*parts[1:], "", *_weights()])


def _cell(choice: Choice) -> str:
    needed = f"{choice.plan.device_bytes / 1e9:.1f}"
    return f"{needed} → **{choice.card}**" if choice.card else f"{needed} → no"


def _weights() -> list[str]:
    lines = [
        "| weights | 1.3B: kept, on the card, over the bus for a block | 14B: the same |",
        "|---|---|---|",
    ]
    for weights in WEIGHTS:
        cells = (
            f"{weights.stored_bytes(model, 2) / 1e9:.1f}, {weights.card_bytes(model, 2) / 1e9:.1f}, "
            f"{weights.bus_bytes(model, 2, CALLS) / 1e9:.0f}"
            for model in MODELS.values()
        )
        lines.append(f"| {weights.name} | {' | '.join(cells)} |")
    return lines

"""Whether a VAE of the host gives the same piece by piece as at once, as far as its dtype can tell."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TENSOR_CORE_EPS = 2.0**-10  # to which a card's tensor cores round the factors of float32


def refuse_other(streamed: Tensor, whole: Tensor, vae: Any, part: str, what: str) -> None:
    """RuntimeError unless both are numbers and the same but for rounding; each [frames, ...], on any device.

    part: the attribute of the VAE that made them; what: what they are, in the plural.
    """
    streamed, whole = streamed.float().cpu(), whole.float().cpu()
    if not bool(whole.isfinite().all()):
        raise RuntimeError(_no_numbers(vae.vae_dtype, part))
    layers = [each for each in getattr(vae.first_stage_model, part).modules() if each._parameters]
    allowed = rounding(vae.vae_dtype, len(layers)) * whole.std().item()
    worst = float("inf")
    if streamed.shape == whole.shape:
        worst = (streamed - whole).abs().flatten(1).mean(1).max().item()
    if not worst <= allowed:
        raise RuntimeError(
            f"Rivulet: this VAE gives other {what} piece by piece than at once (mean difference {worst:.3g}, "
            f"where rounding to {vae.vae_dtype} explains {allowed:.3g}; {list(streamed.shape)} against "
            f"{list(whole.shape)}); ComfyUI's {part} has changed. Update Rivulet, or take another VAE."
        )


def _no_numbers(dtype: torch.dtype, part: str) -> str:
    why, way = "is damaged", "copy or download the file again"
    if dtype != torch.float32:
        why += f", or {dtype} is too narrow for it"
        way += ", or start ComfyUI with --fp32-vae"
    return (
        f"Rivulet: this VAE's {part} gives NaN or infinite numbers, in ComfyUI's own nodes, too, where they "
        f"show nothing. Its file {why}: {way}."
    )


def rounding(dtype: torch.dtype, layers: int) -> float:
    """Share of the spread of a result by which two runs in another order may differ on the average.

    Either run rounds what each of its layers gives to the dtype, by at most half an eps of it; errors that do
    not know of each other add up as their squares do: eps / 2 * sqrt(2 layers), and as much again for layers
    that make more of them than of what is right.
    """
    return max(torch.finfo(dtype).eps, TENSOR_CORE_EPS) * math.sqrt(2 * layers)

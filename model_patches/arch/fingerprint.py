"""A few numbers that tell one model's weights from another's, found by calling its layers.

C channels of the model, R rows of a probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..transfer import to_device
from .parts import plain_tensor
from .tree import DiTTree, Layer

ROWS = 4
# Relative differences of weights: bfloat16 moves them by 0.2 %, int4 by about 10 %, an adapter by as much as
# it is strong. Weights that have nothing in common are 1 apart or more, however small they are, and their
# sketches more than 0.85, even those of three layers (millions of random ones).
SAME, KEPT_OTHERWISE, ADAPTED = 0.005, 0.15, 0.8


@torch.no_grad()
def sketch(dit: DiTTree, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Fingerprint of all blocks, float32 [layers, 5, 4] on the CPU; the same however the weights are kept.

    A few fixed rows of signs are run through q, k, v, o and the feed-forward of every block, and each result
    is summed up under signs again: such random projections keep distances (Johnson and Lindenstrauss 1984),
    so that rounding moves a sketch little and other weights move it much.
    """
    rows_RC = to_device(signs(ROWS, channels), device, dtype)
    back_C = to_device(signs(1, channels, first=ROWS)[0], device, torch.promote_types(dtype, torch.float32))
    sketches = []
    for block in dit.blocks:
        attention = block.self_attn
        layers = (attention.q, attention.k, attention.v, attention.o, block.ffn)
        sketches.append(torch.stack([layer(rows_RC[None])[0].to(back_C) @ back_C for layer in layers]))
    return torch.stack(sketches).float().cpu()


def difference(one: Tensor, other: Tensor) -> float:
    """Relative distance of two sketches: 0 for equal weights, about 1.4 for unrelated ones.

    Each kind of layer counts alike, whatever its size. Sketches of other sizes are infinitely far apart.
    """
    if one.shape != other.shape:
        return float("inf")
    off, whole = ((each.double().square().sum((0, 2))) for each in (one - other, one))
    return float((off / whole.clamp_min(torch.finfo(torch.float64).tiny)).mean().sqrt())


@torch.no_grad()
def fingerprint(
    dit: DiTTree, latent_channels: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Numbers of every kind of weight in the model, float32 [layers, 1, 4] each on the CPU, by its name.

    As `sketch`, but of all there is: embeddings, norms, modulations and both attentions too. The layers are
    called with values of `dtype` on `device`; call it where they are loaded.
    """

    def numbers(layer: Layer, like: Tensor) -> Tensor:
        out = plain_tensor(layer(to_device(like, device, dtype)))
        rows_RN = out.to(torch.promote_types(dtype, torch.float32)).reshape(ROWS, -1)
        signs_N = to_device(signs(1, rows_RN.shape[1], first=ROWS)[0], rows_RN.device, rows_RN.dtype)
        return (rows_RN @ signs_N).float().cpu()

    width = plain_tensor(dit.head.modulation).shape[-1]
    rows_1RC = signs(ROWS, width)[None]
    patch = (latent_channels, *dit.patch_size)
    found = {
        "patch_embedding": [numbers(dit.patch_embedding, signs(ROWS, math.prod(patch)).unflatten(1, patch))],
        "text_embedding": [numbers(dit.text_embedding, signs(ROWS, dit.text_dim)[None])],
        "time_embedding": [numbers(dit.time_embedding, signs(ROWS, dit.freq_dim)[None])],
        "time_projection": [numbers(dit.time_projection, rows_1RC)],
        "head": [numbers(dit.head.head, rows_1RC)],
        "head.modulation": [_of_parameter(dit.head.modulation)],
    }
    for block in dit.blocks:
        found.setdefault("modulation", []).append(_of_parameter(block.modulation))
        for name in ("norm3", "ffn"):
            found.setdefault(name, []).append(numbers(getattr(block, name), rows_1RC))
        for part in ("self_attn", "cross_attn"):
            for name in ("q", "k", "v", "o", "norm_q", "norm_k"):
                layer = getattr(getattr(block, part), name)
                found.setdefault(f"{part}.{name}", []).append(numbers(layer, rows_1RC))
    return {name: torch.stack(layers)[:, None] for name, layers in found.items()}


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[float, str]:
    """(largest relative difference of two fingerprints over the kinds of weights, the name of that kind)."""
    if one.keys() != other.keys():
        return float("inf"), ", ".join(sorted(one.keys() ^ other.keys()))
    return max((difference(one[name], other[name]), name) for name in one)


def _of_parameter(parameter: Tensor) -> Tensor:
    """Four sums of a parameter under signs; it is no layer, and hosts keep it unpacked."""
    flat_N = plain_tensor(parameter).detach().cpu().double().flatten()
    return (signs(ROWS, len(flat_N)) @ flat_N).float()


def written(weights_LKR: Tensor) -> list[list[float]]:
    """A sketch as a file's metadata can say it, to six digits."""
    return [[float(f"{number:.6g}") for number in layer] for layer in weights_LKR.flatten(1).tolist()]


def read_back(numbers: Any) -> Tensor:
    """The sketch that was written; OverflowError, TypeError or ValueError for anything else."""
    layers = [[float(number) for number in layer] for layer in numbers]
    if not layers or any(len(layer) % ROWS or len(layer) != len(layers[0]) for layer in layers):
        raise ValueError("a fingerprint has rows of other lengths")
    return torch.tensor(layers, dtype=torch.float32).unflatten(1, (-1, ROWS))


def signs(rows: int, width: int, first: int = 0) -> Tensor:
    """Rows of +1 and -1, the same on every machine: bits of a counter (Philox, Salmon et al. 2011)."""
    keys = [np.array([width, first + row], dtype=np.uint64) for row in range(rows)]
    bits = np.stack([np.random.Philox(key=key).random_raw(width) for key in keys]) >> np.uint64(63)
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float64))

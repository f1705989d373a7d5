"""The start of a conversion: VideoMLA's projections from the moments of a dense attention, without training.

C channels of the model, N heads, D head width. Keys and queries after Wan's norm are taken as what they are
nearest to, a linear map of the tokens (least squares over real activations); values are one. Keys without
their turned channels and values share one basis of the tokens, the leading singular directions of what both
lose (VideoMLA, arXiv 2605.30351, starts its stage 1 from a spectral decomposition of the same stack; its
exact recipe is not published).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...model_patches.arch.mla import MlaAttention
from ...model_patches.arch.parts import project_qkv
from ...model_patches.arch.rotary import rotary_channels
from ...model_patches.arch.tree import AttentionTree

RIDGE = 1e-5  # of the mean variance: directions that hardly occur are not divided by


class Moments:
    """Sums over tokens that a start needs of one attention, in float64 on the CPU."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, attention: AttentionTree, x_BLC: Tensor) -> None:
        """Count tokens, and the queries, keys and values made of them."""
        heads = project_qkv(attention, x_BLC)
        rows = (x_BLC, *(each.flatten(2) for each in heads))
        x, q, k, v = (each.reshape(-1, x_BLC.shape[-1]).float() for each in rows)
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        self.count += len(x)
        for name, value in (("xx", x.mT @ x), ("qx", q.mT @ x), ("kx", k.mT @ x), ("vx", v.mT @ x)):
            self._sum(name, value)
        heads = q.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
        self._sum("qq", heads.mT @ heads)

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.double().cpu()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def mean(self, name: str) -> Tensor:
        """Per token; x is followed by a constant 1."""
        return self.sums[name] / self.count


class TokenMoments:
    """Moments of the tokens as a start needs them; `affine`: whether layers may have biases.

    With biases a map is [out, C + 1], for (x, 1), and a basis is of what tokens have beside their mean.
    """

    def __init__(self, moments: Moments, affine: bool) -> None:
        second = moments.mean("xx")
        self.affine, self.width = affine, len(second) - (0 if affine else 1)
        mean = second[:-1, -1]
        self.rows = _ridged(second[: self.width, : self.width])
        self.mean = mean if affine else torch.zeros_like(mean)
        self.root, self.inverse = _roots(self.rows)
        spread = second[:-1, :-1] - torch.outer(self.mean, self.mean)
        self.spread_root, self.spread_inverse = _roots(_ridged(spread))

    def fit(self, cross: Tensor) -> Tensor:
        """The map [out, width] that is nearest to what has these cross moments [out, C + 1] with tokens."""
        return torch.linalg.solve(self.rows, cross[:, : self.width].mT).mT

    def basis(self, stack: Tensor, size: int) -> Tensor:
        """Map [size, width] to the leading singular directions of `stack` over the tokens, each of size 1."""
        _, _, right = torch.linalg.svd(stack[:, : len(self.mean)] @ self.spread_root, full_matrices=False)
        if size > len(right):
            raise ValueError(
                f"convert: a latent of {size} channels is wider than the {len(right)} it stands for; "
                f"give a smaller one."
            )
        directions = right[:size] @ self.spread_inverse
        shift = -(directions @ self.mean)[:, None]
        return torch.cat([directions, shift], 1) if self.affine else directions

    def refit(self, wanted: Tensor, down: Tensor) -> Tensor:
        """Map [out, size (+ 1)] from the latent that is nearest to `wanted` [out, width] over the tokens."""
        if self.affine:
            constant = torch.zeros(1, self.width, dtype=down.dtype)
            constant[0, -1] = 1
            down = torch.cat([down, constant])
        gram = _ridged(down @ self.rows @ down.mT)
        return torch.linalg.solve(gram, down @ self.rows @ wanted.mT).mT


@torch.no_grad()
def initialize_attention(
    student: MlaAttention, dense: AttentionTree, moments: Moments, key_weight: float = 1.0
) -> None:
    """Set the student's projections.

    key_weight: how much a loss of scores counts beside one of values; 0 leaves activations' needs out and
    takes the plain stack of both.
    """
    heads, head_dim = student.num_heads, student.sizes.rope.head_dim
    tokens = TokenMoments(moments, "kv_down" in student.sizes.biases)
    q, k, v = (tokens.fit(moments.mean(name)).unflatten(0, (heads, head_dim)) for name in ("qx", "kx", "vx"))
    turns = rotary_channels(student.sizes.rope, head_dim)
    stays = [channel for channel in range(head_dim) if channel not in turns]
    query_moments, still = moments.mean("qq"), heads * len(stays)
    shared, q_turned = _share_rotary_key(
        q[:, turns], k[:, turns], query_moments[:, turns][:, :, turns], tokens
    )
    _set_rows(student.k_rope, shared)
    needs = _sensitivity(dense, query_moments[:, stays][:, :, stays], v, key_weight)
    down = tokens.basis((needs @ torch.cat([k[:, stays], v], 1)).flatten(0, 1), student.sizes.kv_latent)
    up = tokens.refit(torch.cat([k[:, stays].flatten(0, 1), v.flatten(0, 1)]), down)
    for layer, rows in ((student.kv_down, down), (student.k_up, up[:still]), (student.v_up, up[still:])):
        _set_rows(layer, rows)
    queries = torch.cat([q[:, stays].flatten(0, 1), q_turned.flatten(0, 1)])
    down = tokens.basis(queries, student.sizes.query_latent)
    up = tokens.refit(queries, down)
    for layer, rows in ((student.q_down, down), (student.q_up, up[:still]), (student.q_rope, up[still:])):
        _set_rows(layer, rows)
    nn.init.ones_(student.norm_q_latent.weight)
    nn.init.ones_(student.norm_kv_latent.weight)
    student.o.load_state_dict(dense.o.state_dict())


def _ridged(matrix: Tensor) -> Tensor:
    return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square root of a positive matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(values.max() * 1e-12).sqrt()
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT


def _share_rotary_key(
    q: Tensor, k: Tensor, query_moments: Tensor, tokens: TokenMoments
) -> tuple[Tensor, Tensor]:
    """(one key for all heads [turned, width], queries [N, turned, width] that fit it).

    A pair of channels is a complex number and turning multiplies it, so heads may differ by a factor: of each
    pair the heads' keys [N, width] are made one by their first singular direction, weighed by how large the
    queries are, and the factors' conjugates go into the queries.
    """
    keys, queries = (torch.complex(t[:, 0::2], t[:, 1::2]) for t in (k, q))
    size = query_moments.diagonal(dim1=1, dim2=2).unflatten(-1, (-1, 2)).sum(-1).clamp_min(1e-12).sqrt()
    shared, fitted = [], []
    for pair in range(keys.shape[1]):
        weigh = size[:, pair, None]
        left, strength, right = torch.linalg.svd(weigh * keys[:, pair] @ tokens.root.to(keys.dtype), False)
        shared.append(strength[0] ** 0.5 * right[0] @ tokens.inverse.to(keys.dtype))
        fitted.append((left[:, :1] * strength[0] ** 0.5 / weigh).conj() * queries[:, pair])
    key, query = torch.view_as_real(torch.stack(shared)), torch.view_as_real(torch.stack(fitted, 1))
    return key.movedim(-1, 1).flatten(0, 1), query.movedim(-1, 2).flatten(1, 2)


def _sensitivity(dense: AttentionTree, query_moments: Tensor, v: Tensor, key_weight: float) -> Tensor:
    """What a loss of each head's keys and values does to the output: matrices [N, still + D, still + D]."""
    heads, still, head_dim = len(query_moments), query_moments.shape[-1], v.shape[1]
    needs = torch.eye(still + head_dim, dtype=torch.double).repeat(heads, 1, 1)
    if not key_weight:
        return needs
    output = dense.o.weight.double().cpu().unflatten(1, (heads, head_dim)).movedim(1, 0)
    for head in range(heads):
        score, _ = _roots(query_moments[head])
        value, _ = _roots(output[head].mT @ output[head])
        # a score's loss moves the output by as much as the values differ
        needs[head, :still, :still] = score * key_weight * head_dim**-0.5 * value.diagonal().norm()
        needs[head, still:, still:] = value
    return needs


def _set_rows(layer: nn.Linear, rows: Tensor) -> None:
    """Weights [out, in], and the last column as bias where the layer has one."""
    layer.weight.copy_(rows[:, :-1])
    if layer.bias is not None:
        layer.bias.copy_(rows[:, -1])

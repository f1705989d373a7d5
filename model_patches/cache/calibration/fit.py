"""From what a calibration has seen to a basis for every layer, and what each number of bytes costs it.

C channels of the model, R channels of a basis. Mixed bits over nearly the full rank lose less than fewer
channels in eight bits, so rank and split are chosen together, per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ....kernels.quantize import dequantize, quantize
from ....kernels.tiers import Tiers
from ..basis import Basis, LayerBasis, LayerPlan
from ..cost import latent_layer_bytes
from .allocate import Point
from .measure import Errors, LayerWeights, Truth
from .record import LayerSample, Recorder
from .whiten import Whitened, key_need, value_need, whiten

MOST_MEASURED = 12  # points of a layer's curve

Weights = Callable[[int], LayerWeights]  # of a layer


@dataclass(frozen=True, slots=True)
class FittedLayer:
    """One layer's basis at full rank, and its curve of points."""

    basis: LayerBasis
    curve: tuple[Point, ...]  # rising bytes, falling error, measured on prompts that were learned from


@dataclass(frozen=True, slots=True)
class Fitted:
    """All layers; any choice of points is a basis."""

    layers: tuple[FittedLayer, ...]
    group: int
    held_out: tuple[tuple[LayerSample, ...], ...]  # samples of other prompts
    weights: Weights

    @property
    def curves(self) -> tuple[tuple[Point, ...], ...]:
        """What the layers offer."""
        return tuple(layer.curve for layer in self.layers)

    def errors(self, points: Sequence[Point]) -> list[Errors]:
        """Errors of this choice on held-out prompts, layer by layer."""
        return [
            self.truth(layer).errors(self.layers[layer].basis, _tiers(point, self.group))
            for layer, point in enumerate(points)
        ]

    def truth(self, layer: int) -> Truth:
        """What tells a layer's error on prompts that were held out."""
        return Truth([sample[layer] for sample in self.held_out], self.weights(layer))

    def basis(self, points: Sequence[Point], provenance: Mapping[str, object]) -> Basis:
        """The basis of this choice, float32 on the CPU, with no channel more than it needs."""
        return Basis(
            tuple(_cut(layer.basis, point.rank) for layer, point in zip(self.layers, points, strict=True)),
            tuple(LayerPlan("latent", point.rank, point.wide) for point in points),
            self.group,
            provenance,
        )


def fit(recorder: Recorder, weights: Weights, group: int, report: Callable[[int], None]) -> Fitted:
    """Fit every layer. weights: of a layer, asked for one at a time; report: hears each layer that is done.

    Attention is run where the weights are, whatever device the recorder sums up on. A layer's basis is kept
    at full rank, in 8 * C * C bytes on the recorder's device, until a choice is made.
    """
    layers: list[FittedLayer] = []
    for layer in range(len(recorder.moments)):
        layers.append(_fit_layer(recorder, layer, weights(layer), group))
        report(layer)
    return Fitted(tuple(layers), group, tuple(recorder.held_out), weights)


def _fit_layer(recorder: Recorder, layer: int, weights: LayerWeights, group: int) -> FittedLayer:
    moments, power = recorder.moments[layer], recorder.query_power[layer] / recorder.queries
    needs = [
        key_need(weights.key_CO.to(power), weights.gain_O.to(power), power),
        value_need(weights.value_CO.to(power), weights.out_OC.to(power), weights.heads),
    ]
    whitened = whiten(moments.mean_C, moments.covariance_CC, needs)
    basis = LayerBasis(whitened.mean_C.float(), whitened.down_CR.float(), whitened.up_RC.float())
    learned = Truth([sample[layer] for sample in recorder.samples], weights)
    points = frontier(whitened, noise(whitened, learned.tokens_LC.to(whitened.mean_C.device), group), group)
    curve = measured(points, lambda point: learned.errors(basis, _tiers(point, group)).total)
    return FittedLayer(basis, curve)


def noise(whitened: Whitened, tokens_LC: Tensor, group: int) -> dict[int, Tensor]:
    """Mean square error of each latent channel [R] if kept in 8 or in 4 bits; 1 is its own variance."""
    shifted = tokens_LC.double() - whitened.mean_C.to(tokens_LC.device)
    latents_LR = (shifted @ whitened.down_CR.to(shifted)).float()
    latents_LR = latents_LR[:, : latents_LR.shape[1] // group * group]
    found = {}
    for bits in (8, 4):
        codes, scales = quantize(latents_LR, group, bits)
        kept = dequantize(codes, scales, group, bits, torch.float32)
        found[bits] = (kept - latents_LR).double().square().mean(0)
    return found


def frontier(whitened: Whitened, noises: Mapping[int, Tensor], group: int) -> list[Point]:
    """Ranks and splits that no other beats in bytes and in expected error of keys and values; rising bytes.

    The expected error weighs each channel's importance with its noise, and with 1 where it is left out.
    """
    importance = whitened.importance_R.to(noises[8])
    channels = len(noises[8])
    ends = range(0, channels + 1, group)
    sums = {
        bits: torch.cat([importance.new_zeros(1), (importance[:channels] * each).cumsum(0)])
        for bits, each in noises.items()
    }
    left = importance.sum() - torch.cat([importance.new_zeros(1), importance.cumsum(0)])
    offers = []
    for rank in ends[1:]:
        for wide in ends[: rank // group + 1]:
            expected = sums[8][wide] + sums[4][rank] - sums[4][wide] + left[rank]
            offers.append(Point(rank, wide, latent_layer_bytes(rank, wide, group), float(expected)))
    best: list[Point] = []
    for offer in sorted(offers, key=lambda point: (point.bytes, point.error)):
        if not best or offer.error < best[-1].error:
            best.append(offer)
    return best


def measured(points: Sequence[Point], measure: Callable[[Point], float]) -> tuple[Point, ...]:
    """The points with the error of attention in place of the expected one; what gets no better is left out.

    At most MOST_MEASURED are measured. Between them the ratio of the measured error to the root of the
    expected one, which changes slowly, is drawn straight.
    """
    places = np.unique(np.linspace(0, len(points) - 1, min(MOST_MEASURED, len(points))).round().astype(int))
    expected = np.sqrt([point.error for point in points])
    ratios = [measure(points[place]) / expected[place] for place in places]
    errors = expected * np.interp(range(len(points)), places, ratios)
    curve: list[Point] = []
    for point, error in zip(points, errors.tolist(), strict=True):
        if not curve or error < curve[-1].error:
            curve.append(replace(point, error=error))
    return tuple(curve)


def _tiers(point: Point, group: int) -> Tiers:
    return Tiers(point.wide, point.rank - point.wide, group)


def _cut(basis: LayerBasis, rank: int) -> LayerBasis:
    parts = (basis.mu_C, basis.down_CR[:, :rank], basis.up_RC[:rank])
    return LayerBasis(*(part.to("cpu").contiguous() for part in parts))

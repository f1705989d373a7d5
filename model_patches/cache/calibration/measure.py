"""What a lossy cache does to attention, run again over samples with the keys and values that it gives back.

B rows of a call, T tokens kept, Q tokens that ask, N heads, D head width, C channels of the model, O = N * D,
R channels of a basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.latent_write import latent_write
from ....kernels.projections import UpProjections
from ....kernels.rebuild import rebuild
from ....kernels.rope import rotate
from ....kernels.tiers import Latents, Tiers
from ...arch.effective import effective_gain, effective_linear
from ...arch.tree import BlockTree
from ..basis import LayerBasis
from .record import Ask, LayerSample

EPS = 1e-6  # of Wan's norms


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One self-attention by what its layers answer, float32 or wider; biases [O], weights [in, out]."""

    key_CO: Tensor
    key_bias_O: Tensor
    value_CO: Tensor
    value_bias_O: Tensor
    out_OC: Tensor
    gain_O: Tensor  # of the keys' norm
    heads: int

    def on_cpu(self) -> LayerWeights:
        """The same in RAM."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: part.cpu() for name, part in parts.items() if isinstance(part, Tensor)})

    def raw_keys(self, x_BTC: Tensor) -> Tensor:
        """Keys before their norm [B, T, O]."""
        return x_BTC @ self.key_CO.to(x_BTC) + self.key_bias_O.to(x_BTC)

    def keys_values(self, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys after their norm and before RoPE, and values, [B, T, N, D] in x's dtype."""
        raw = self.raw_keys(x_BTC)
        k = raw * inverse_rms(raw)[..., None] * self.gain_O.to(x_BTC)
        v = x_BTC @ self.value_CO.to(x_BTC) + self.value_bias_O.to(x_BTC)
        return k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


def layer_weights(block: BlockTree, channels: int, dtype: torch.dtype, device: torch.device) -> LayerWeights:
    """What a block's self-attention is, found by calling it in `dtype`."""
    attention = block.self_attn
    key, value, out = (
        effective_linear(layer, channels, dtype, device) for layer in (attention.k, attention.v, attention.o)
    )
    gain = effective_gain(attention.norm_k, channels, dtype, device)
    return LayerWeights(*key, *value, out[0], gain, attention.num_heads)


def inverse_rms(raw_BTO: Tensor) -> Tensor:
    """1 / root mean square over the full width, [B, T]."""
    return torch.rsqrt(raw_BTO.square().mean(-1) + EPS)


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors over all samples of one layer: norm of the difference over norm of the truth."""

    total: float  # after the output projection
    heads: tuple[float, ...]  # of each head's own output


class Truth:
    """A layer's samples, with the attention output that exact keys and values give."""

    def __init__(self, samples: Sequence[LayerSample], weights: LayerWeights) -> None:
        self.samples, self.weights = samples, weights
        self.outputs = [_outputs(each, *_exact(each, weights)) for each in map(self._here, samples)]

    @property
    def tokens_LC(self) -> Tensor:
        """All sampled tokens kept from before."""
        return torch.cat([sample.x_BTC.flatten(0, 1) for sample in self.samples])

    def _here(self, sample: LayerSample) -> LayerSample:
        """The sample in float32, where the weights are."""
        device = self.weights.key_CO.device
        asks = tuple(
            Ask(*(part.to(device, torch.float32) for part in (ask.q_BQND, ask.k_BQND, ask.v_BQND)))
            for ask in sample.asks
        )
        return LayerSample(sample.x_BTC.to(device, torch.float32), sample.key_table.to(device), asks)

    def errors(self, basis: LayerBasis, tiers: Tiers) -> Errors:
        """How far attention is from the truth where these tokens were kept as latents of these tiers."""
        basis = LayerBasis(
            *(part.to(self.weights.key_CO.device) for part in (basis.mu_C, basis.down_CR, basis.up_RC))
        )
        up = fold(basis, self.weights, tiers.rank)
        out_OC = self.weights.out_OC.float()
        total, heads = torch.zeros(2, dtype=torch.float64), torch.zeros(2, self.weights.heads).double()
        for sample, outputs in zip(map(self._here, self.samples), self.outputs, strict=True):
            rebuilt = _rebuilt(sample, self.weights, basis, tiers, up)
            for true, made in zip(outputs, _outputs(sample, *rebuilt), strict=True):
                for at, part in enumerate((made - true, true)):
                    total[at] += (part.flatten(2) @ out_OC).double().square().sum().cpu()
                    heads[at] += part.double().square().sum((0, 1, 3)).cpu()
        return Errors(float((total[0] / total[1]).sqrt()), tuple((heads[0] / heads[1]).sqrt().tolist()))


def fold(basis: LayerBasis, weights: LayerWeights, rank: int) -> UpProjections:
    """Up-projections from the first `rank` latents to keys (norm's gain included, 1/rms not) and values."""
    up_RC, mu_C = basis.up_RC[:rank].double(), basis.mu_C.double()
    key, value, gain = weights.key_CO.double(), weights.value_CO.double(), weights.gain_O.double()
    return UpProjections(
        ((up_RC @ key) * gain).float(),
        (up_RC @ value).float(),
        ((mu_C @ key + weights.key_bias_O) * gain).float(),
        (mu_C @ value + weights.value_bias_O).float(),
    )


def _rebuilt(
    sample: LayerSample, weights: LayerWeights, basis: LayerBasis, tiers: Tiers, up: UpProjections
) -> tuple[Tensor, Tensor]:
    """(turned keys, values) [B, T, N, D] of the sample's tokens after they were kept."""
    x_BTC = sample.x_BTC
    places = x_BTC.shape[:2]
    codes = torch.empty(*places, tiers.code_bytes, dtype=torch.int8, device=x_BTC.device)
    scales = torch.empty(*places, tiers.groups, dtype=torch.float16, device=x_BTC.device)
    down_CR = basis.down_CR[:, : tiers.rank]
    latent_write(x_BTC, down_CR, basis.mu_C @ down_CR, tiers, codes, scales)
    inverse = inverse_rms(weights.raw_keys(x_BTC)).half()
    keys = x_BTC.new_empty(*places, weights.heads, up.value.shape[1] // weights.heads)
    values = torch.empty_like(keys)
    rebuild(Latents(codes, scales, tiers), up, sample.key_table, keys, values, inverse)
    return keys, values


def _exact(sample: LayerSample, weights: LayerWeights) -> tuple[Tensor, Tensor]:
    k_BTND, v_BTND = weights.keys_values(sample.x_BTC)
    return rotate(k_BTND, sample.key_table), v_BTND


def _outputs(sample: LayerSample, turned_BTND: Tensor, v_BTND: Tensor) -> list[Tensor]:
    """Attention outputs [B, Q, N, D] of every call over the frames from before and its own."""
    made = []
    for ask in sample.asks:
        keys, values = torch.cat([turned_BTND, ask.k_BQND], 1), torch.cat([v_BTND, ask.v_BQND], 1)
        q, k, v = (x.transpose(1, 2) for x in (ask.q_BQND, keys, values))
        made.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
    return made

"""VideoMLA's attention over the latents themselves, heads never rebuilt (arXiv 2605.30351, section 3).

B batch, L query tokens, S kept tokens, N heads, Q width of the query latent, E width of the kept latent, R
turned channels, C channels of the model. The same numbers as `MlaAttention.expand` and an attention over
heads, by another order of products. For blocks of video that order costs 1.6 times the operations (E is wider
than a head): it is here as a reference and for what has few queries, not as the way streams run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rivulet.model_patches.arch.effective import effective_linear
from rivulet.model_patches.arch.mla import MlaAttention
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Absorbed:
    """Up-projections of one attention, multiplied out; biases of keys shift all scores alike and drop out."""

    scores_NQE: Tensor  # W_Qup[h]^T W_Kup[h]
    shift_NE: Tensor  # what a bias of the queries adds to each key's score
    output_NCE: Tensor  # W_O[:, h] W_Vup[h]
    bias_C: Tensor  # of values and output


@torch.no_grad()
def absorb(attention: MlaAttention) -> Absorbed:
    """The products of the weights in effect, which the layers are asked for."""
    heads, sizes, like = attention.num_heads, attention.sizes, attention.norm_kv_latent.weight
    place = like.dtype, like.device
    q_up, q_bias = effective_linear(attention.q_up, sizes.query_latent, *place)
    k_up, _ = effective_linear(attention.k_up, sizes.kv_latent, *place)
    v_up, v_bias = effective_linear(attention.v_up, sizes.kv_latent, *place)
    output, o_bias = effective_linear(attention.o, v_up.shape[1], *place)
    q_NQD, k_NED, v_NED = (w.unflatten(1, (heads, -1)).movedim(1, 0) for w in (q_up, k_up, v_up))
    return Absorbed(
        q_NQD @ k_NED.mT,
        torch.einsum("nd,ned->ne", q_bias.unflatten(0, (heads, -1)), k_NED),
        torch.einsum("ndc,ned->nce", output.unflatten(0, (heads, -1)), v_NED),
        v_bias @ output + o_bias,
    )


def absorbed_attention(
    weights: Absorbed,
    query_BLQ: Tensor,
    q_rope_BLNR: Tensor,
    c_BSE: Tensor,
    k_rope_BSR: Tensor,
    head_dim: int,
) -> Tensor:
    """What one attention adds [B, L, C] for queries over kept tokens.

    query: `MlaAttention.query_latent`. q_rope, k_rope: turned to their positions. c: normed latents.
    """
    asked_BNLE = torch.einsum("blq,nqe->bnle", query_BLQ, weights.scores_NQE) + weights.shift_NE[:, None]
    content = asked_BNLE @ c_BSE[:, None].mT
    place = torch.einsum("blnr,bsr->bnls", q_rope_BLNR, k_rope_BSR)
    mixed_BNLE = ((content + place) * head_dim**-0.5).softmax(-1) @ c_BSE[:, None]
    return torch.einsum("bnle,nce->blc", mixed_BNLE, weights.output_NCE) + weights.bias_C

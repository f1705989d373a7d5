"""The default attention function. B batch, L tokens, N heads, D head width."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v -> out, all [B, L, N, D], unmasked


def sdpa(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """Unmasked attention of q over k and v, scaled by 1/sqrt(D), with torch's fused kernels."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BLND, v_BLND))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

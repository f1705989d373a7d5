"""Keys and values of attention where they lie: in one to three places."""

from torch import Tensor

Segment = tuple[Tensor, Tensor]  # keys and values [B, L, N, D]; L may be 0
MOST = 3  # segments of one attention

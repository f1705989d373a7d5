"""Keys and values of one attention, in one to three tensors each."""

from torch import Tensor

Segment = tuple[Tensor, Tensor]  # keys and values [B, L, N, D]; L may be 0
MAX_SEGMENTS = 3  # segments of one attention

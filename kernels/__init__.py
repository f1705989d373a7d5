"""Numerical operations. Each public file is an operation's contract and its reference in plain torch.

rope          rotary position embedding of queries and keys
norm_rope     RMSNorm over all heads and rotary embedding in one pass
modulate      LayerNorm and the timestep's modulation, with the addition before them
quantize      int8 and int4 codes with one scale for each group of channels
tiers         byte layout of a token's latents
projections   up-projections from latents to keys and values
segments      type of keys and values that attention reads from several tensors
latent_write  projection and quantisation of tokens into rows of a cache
rebuild       rotated keys, and values, from cached latents
segment_attention  attention over several segments, with the log-sum that merges partial results

Each takes impl: "auto" runs its Triton version in `_triton` on a GPU that supports it and the reference
everywhere else; `dispatch.triton_support` says which and why.
`check` compares every kernel with its reference before its first use, and on demand.
"""

from .check import quick_check
from .dispatch import check_first

check_first(quick_check)

"""Numerical operations. Each public file is a contract and its reference in plain torch.

rope          turn queries and keys by their position
norm_rope     RMSNorm over all heads and that turn in one pass
quantize      int8 and int4 codes with a scale for each group of channels
tiers         how the latents of a token lie in bytes
projections   what makes keys and values of latents
segments      where keys of attention lie
latent_write  latents of tokens, quantised into rows of a cache
rebuild       keys at their positions and values, from kept latents
segment_attention  attention over keys in several places, with what joins partial results

Each takes impl: "auto" runs its Triton twin in `_triton` on a GPU that can, the reference everywhere else;
`dispatch.triton_support` says which and why.
"""

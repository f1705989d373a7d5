"""Wan's own key names from those that diffusers gives the same layers in `WanTransformer3DModel`."""

from __future__ import annotations

import re
from collections.abc import Iterable

SIGN = "condition_embedder.time_proj.weight"
OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder": "img_emb",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}
INSIDE = {  # of a block; the order of Wan's norms is 1, 3, 2
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
}
ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
}
BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")


def is_diffusers(keys: Iterable[str]) -> bool:
    """Whether the keys are of diffusers' making."""
    return SIGN in set(keys)


def wan_key(key: str) -> str:
    """The key under which Wan's published files have this tensor."""
    if inner := BLOCK.fullmatch(key):
        name = _renamed(inner[2], INSIDE)
        part, dot, rest = name.partition(".")
        return inner[1] + part + dot + (_renamed(rest, ATTENTION) if part.endswith("_attn") else rest)
    return _renamed(key, OUTSIDE)


def _renamed(key: str, names: dict[str, str]) -> str:
    """The key with its beginning, whole words of it, by the table."""
    for theirs, ours in names.items():
        if key == theirs or key.startswith(f"{theirs}."):
            return ours + key.removeprefix(theirs)
    return key

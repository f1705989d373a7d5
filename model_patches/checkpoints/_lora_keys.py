"""What a key of a LoRA's file changes: a Wan layer or parameter, and in which way.

Trainers put prefixes before the model's own names (PEFT, diffusers, DiffSynth), write diffusers' names for
them, or join them by underscores (kohya's scripts, LyCORIS). Beside pairs of matrices, extractors write what
is added to a parameter as it stands: `diff` to a weight, `diff_b` to a bias, `diff_m` to a modulation
(LightX2V, tools/extract/lora_extractor.py), `w_norm` and `b_norm` to a norm's (LyCORIS).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ._diffusers_keys import wan_key
from .nesting import plain_key

PREFIX = re.compile(  # what trainers put before the model's own names
    r"^(?:.*\bbase_model\.(?:model\.)?)?(?:(?:pipe\.dit|transformer|lora_unet|unet)\.)?"
)
JOINED = re.compile(
    r"(?:lora_unet_|lora_transformer_|lycoris_)_?(.+)"
)  # before names with underscores for dots
SIDES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up", "alpha": "alpha"}
ADDED = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias", "diff_m": "modulation"}
PART = re.compile(  # .default or another word is an adapter's name
    rf"(?P<layer>.+)\.(?P<part>{'|'.join((*SIDES, *ADDED))})(?:\.default|(?:\.[^.]+)?\.weight)?"
)
ADDITION = "added"
BARE = "modulation"  # a parameter that is no layer's weight or bias
WORDS = (  # of layers' names, longer ones before those they begin with
    *("add_k_proj", "add_v_proj", "attn1", "attn2", "blocks", "condition_embedder", "cross_attn", "ffn"),
    *("head", "image_embedder", "img_emb", "k_img", "linear_1", "linear_2", "modulation", "net"),
    *("norm_added_k", "norm_k_img", "norm_k", "norm_q", "norm1", "norm2", "norm3", "patch_embedding"),
    *("proj_out", "proj", "scale_shift_table", "self_attn", "text_embedder", "text_embedding"),
    *("time_embedder", "time_embedding", "time_projection", "time_proj", "to_k", "to_out", "to_q", "to_v"),
    *("v_img", "k", "o", "q", "v", r"\d+"),
)
WORD = re.compile(rf"({'|'.join(WORDS)})(?:_|$)")


class Place(NamedTuple):
    """What a key is of."""

    name: str  # of the layer that a pair is for, of the parameter that something is added to, else of the key
    side: str  # "up", "down" or "alpha" of a pair; ADDITION; "" for what is not known here


def place_of(key: str) -> Place:
    """What this key of a file changes."""
    key = plain_key(key)
    match = PART.fullmatch(key)
    if match is None:
        return Place(_layer(key), "")
    layer, part = _layer(match["layer"]), match["part"]
    if part in SIDES:
        return Place(layer, SIDES[part])
    bare = layer.endswith(f".{BARE}")  # some extractors call it a layer
    return Place(layer if bare else f"{layer}.{ADDED[part]}", ADDITION)


def _layer(name: str) -> str:
    """Wan's own name of a layer, or of what is in one."""
    name = plain_key(PREFIX.sub("", name))
    if joined := JOINED.fullmatch(name):
        layer, dot, rest = joined[1].partition(".")
        name = _parted(layer) + dot + rest
    return wan_key(name)


def _parted(joined: str) -> str:
    """The name with dots between its words; as it is, where a word is not Wan's."""
    words, at = [], 0
    while at < len(joined):
        match = WORD.match(joined, at)
        if match is None:
            return joined
        words.append(match[1])
        at = match.end()
    return ".".join(words)

"""Every layer of Wan under every trainer's name for it."""

import pytest
import torch
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.checkpoints._lora_keys import ADDITION, place_of

from .published_files import SMALL


def joined(name):
    return name.replace(".", "_")


NAMED = {
    "Wan's": lambda name: f"diffusion_model.{name}",
    "DiffSynth's": lambda name: f"pipe.dit.{name}",
    "kohya's": lambda name: f"lora_unet_{joined(name)}",
    "Wan Fun's": lambda name: f"lora_unet__{joined(name)}",
    "LyCORIS'": lambda name: f"lycoris_{joined(name)}",
    "diffusers'": lambda name: f"transformer.{theirs(name)}",
    "diffusers' in LyCORIS": lambda name: f"lycoris_{joined(theirs(name))}",
    "diffusers' in OneTrainer": lambda name: f"lora_transformer_{joined(theirs(name))}",
}
BESIDE = [  # of models that take a picture
    *(f"blocks.39.cross_attn.{name}" for name in ("k_img", "v_img", "norm_k_img")),
    *("img_emb.proj.0", "img_emb.proj.3"),
]
THEIRS = {  # by diffusers' own script for Wan (scripts/convert_wan_to_diffusers.py)
    "self_attn.": "attn1.",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "cross_attn.": "attn2.",
    **{f"attn{i}.{one}": f"attn{i}.to_{one}" for i in (1, 2) for one in "qkv"},
    **{f"attn{i}.o": f"attn{i}.to_out.0" for i in (1, 2)},
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.": "condition_embedder.image_embedder.",
    "head.head": "proj_out",
}


def theirs(name):
    for one, other in THEIRS.items():
        end = name.endswith(one) if one.split(".")[-1] in "qkvo" and one[-1] != "." else one in name
        if end:
            name = name.replace(one, other)
    return name


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED.keys())
def test_every_layer_is_found_under_every_trainers_name(named):
    with torch.device("meta"):
        keys = WanModel(SMALL).state_dict()
    layers = [key.removesuffix(".weight") for key in keys if key.endswith(".weight")] + BESIDE
    assert len(layers) > 30
    for layer in layers:
        for part, side in (("lora_down.weight", "down"), ("lora_B.default.weight", "up"), ("alpha", "alpha")):
            assert place_of(f"{named(layer)}.{part}") == (layer, side), layer
        assert place_of(f"{named(layer)}.diff") == (f"{layer}.weight", ADDITION)
        assert place_of(f"{named(layer)}.diff_b") == (f"{layer}.bias", ADDITION)
        assert place_of(f"{named(layer)}.b_norm") == (f"{layer}.bias", ADDITION)


def test_modulations_are_found_and_other_words_stay_as_they_are():
    for key in ("diffusion_model.blocks.7.diff_m", "blocks.7.modulation.diff"):
        assert place_of(key) == ("blocks.7.modulation", ADDITION)
    assert place_of("diffusion_model.head.diff_m") == ("head.modulation", ADDITION)
    assert place_of("lora_unet_blocks_0_attn_qkv.lora_down.weight") == ("blocks_0_attn_qkv", "down")
    assert place_of("lora_unet_blocks_0_ffn_0.dora_scale") == ("blocks.0.ffn.0.dora_scale", "")

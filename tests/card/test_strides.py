"""In which order tensors lie on a card: what is read by every layer lies as it is read."""

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.model_patches.vae.wan import WanVAE

SIZES = WanConfig(dim=256, ffn_dim=64, num_layers=3, text_dim=32)


def test_a_mixture_of_devices_is_refused_as_a_card_refuses_it(card):
    there = card.empty(2, 3)
    with card, pytest.raises(RuntimeError, match="device"):
        torch.cat([there, torch.zeros(2, 3)])


def test_the_tokens_of_every_layer_lie_channel_by_channel(card):
    with torch.device("meta"):
        model = WanModel(SIZES)
    card.carry(model, torch.bfloat16)
    text = card.empty(1, 7, 32, dtype=torch.bfloat16)
    layers = {
        name: part for name, part in model.named_modules() if name.endswith(("norm1", "norm2", "norm3"))
    }
    seen = {}
    for name, part in {**layers, "head.norm": model.head.norm}.items():
        part.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0]))
    config = StreamConfig(Geometry(64, 48), "infinity_rope", 3, (1.0, 0.5), dtype=torch.bfloat16)
    caller = ModelCaller(model, card.device)
    with card:
        latents, state = step(caller, init(caller, (text,), config))
        latents, _ = step(caller, state)
    assert latents.device == card.device and latents.shape == (1, 16, 3, 6, 8)
    # per block two calls of every layer, and one that ends where the last layer's keys and values are made
    assert len(seen) == 10 and {len(each) for each in seen.values()} == {4, 6}
    assert {name for name, each in seen.items() if not all(x.is_contiguous() for x in each)} == set()


def test_the_vaes_attention_reads_what_a_fused_kernel_takes(card):
    """One reads channels that lie side by side; for others torch keeps the scores of all places at once."""
    vae = WanVAE(dim=8)
    card.carry(vae, torch.bfloat16)
    with card:
        frames, _ = decode_stream(vae, card.empty(1, 16, 3, 4, 6))
        latents, _ = encode_stream(vae, frames)
    assert frames.device == latents.device == card.device and latents.shape == (1, 16, 3, 4, 6)
    decoded, encoded = card.attended
    assert {x.shape for x in (*decoded, *encoded)} == {(3, 1, 4 * 6, 32)}
    assert {x.stride(-1) for x in (*decoded, *encoded)} == {1}

"""Channels of a dense head in the order of a converted one, and a memory's encoder put into it."""

import pytest
import torch
from rivulet.model_patches.arch.rotary import RopeLayout, rotary_channels
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.reorder import reorder_encoder


def test_turned_channels_are_those_of_the_rates():
    """Wan channels 0:12 of time, 44:54 of rows, 86:96 of columns make VideoMLA's 32."""
    wanted = [*range(12), *range(44, 54), *range(86, 96)]
    assert rotary_channels(RopeLayout.truncated(128, 32), 128) == wanted
    nearest = rotary_channels(RopeLayout.derived(128, 32), 128)
    assert len(set(nearest)) == 32 and nearest[:2] == [0, 1]


def test_an_encoder_for_a_converted_model_asks_in_its_order_of_channels():
    torch.manual_seed(6)
    encoder = MemoryEncoder(EncoderConfig(256, 2, 1, 2, 2)).double().requires_grad_(False)
    layout = RopeLayout.truncated(128, 8)
    turns = rotary_channels(layout, 128)
    order = [channel for channel in range(128) if channel not in turns] + turns
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    moved = reorder_encoder(encoder, layout)
    keys, values = torch.randn(2, 1, 5, 2, 128, dtype=torch.float64)
    state = encoder.fresh(1)
    torch.testing.assert_close(
        moved.update(state, keys[..., order], values), encoder.update(state, keys, values), rtol=0, atol=1e-12
    )
    made, wanted = moved.read(state), encoder.read(state)
    torch.testing.assert_close(made[0], wanted[0][..., order], rtol=0, atol=1e-12)
    assert torch.equal(made[1], wanted[1]) and not torch.equal(made[0], wanted[0])
    assert reorder_encoder(encoder, None) is encoder
    with pytest.raises(ValueError, match="heads have 64 channels, the encoder's 128"):
        reorder_encoder(encoder, RopeLayout.truncated(64, 8))

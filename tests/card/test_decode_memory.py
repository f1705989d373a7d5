"""What decoding holds on a card while it runs, counted storage by storage at a published size."""

from collections import deque

import pytest
import torch
from rivulet.model_patches.vae.cost import buffer_numbers, peak_numbers
from rivulet.model_patches.vae.decoder import decode_stream
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.tiny_cost import TinyCost
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.engine.viewers.live import Watch

HEIGHT, WIDTH = 60, 104  # latents of 832x480
PLACES, BYTES = HEIGHT * WIDTH, 2  # bfloat16


@pytest.fixture
def card(card):
    """Returns the fake card; what attention was given is not kept alive to be looked at."""
    card.attended = deque(maxlen=0)
    return card


def carried(card, make):
    with torch.device("meta"):
        vae = make()
    card.carry(vae, torch.bfloat16)
    return vae


def latents(card, count):
    return card.empty(1, 16, count, HEIGHT, WIDTH, dtype=torch.bfloat16)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_between_two_pieces_no_third_past_is_alive(card, count):
    """What a piece of one latent takes, the pictures before it, and the old buffer of one layer."""
    vae = carried(card, WanVAE)
    with card:
        _, past = decode_stream(vae, latents(card, 1))
        given = latents(card, count)
        with Watch() as seen:
            decode_stream(vae, given, past, max_latents=1)
    piece, frame = peak_numbers(96, 1, PLACES) * BYTES, 96 * 64 * PLACES * BYTES
    pictures = 4 * (count - 1) * 64 * PLACES * 3
    constants = 512  # mean and spread of the latents, here and there
    assert piece < seen.peak_bytes <= piece + 2 * frame + pictures + constants
    assert buffer_numbers(96, PLACES) * BYTES > 12 * frame  # a past would not fit into that


def test_a_tiny_decoder_holds_no_third_past_either(card):
    vae, cost = carried(card, TinyDecoder), TinyCost()
    with card:
        _, past = decode_stream(vae, latents(card, 1))
        given = latents(card, 6)
        with Watch() as seen:
            decode_stream(vae, given, past, max_latents=1)
    pictures = 24 * 64 * PLACES * 3
    assert seen.peak_bytes <= cost.peak(1, PLACES) * BYTES + pictures


def test_a_stream_that_fails_in_a_later_piece_keeps_its_past(card):
    vae = carried(card, lambda: WanVAE(dim=8))

    class Failing:
        latent_channels, upscale = vae.latent_channels, vae.upscale
        parameters, calls = vae.parameters, 0

        def decode(self, latents_BCTHW, past=None):
            self.calls += 1
            if self.calls == 2:
                vae.decode(latents_BCTHW, past)
                raise KeyboardInterrupt
            return vae.decode(latents_BCTHW, past)

    with card:
        _, past = decode_stream(vae, latents(card, 1))
        with pytest.raises(KeyboardInterrupt):
            decode_stream(Failing(), latents(card, 3), past, max_latents=1)
        assert all(isinstance(each, torch.Tensor) for each in past.layers)
        decode_stream(vae, latents(card, 3), past)

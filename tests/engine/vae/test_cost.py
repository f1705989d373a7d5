"""The decoder's formulas against the decoder itself, run where tensors have shapes and no numbers."""

import pytest
import torch
from rivulet.model_patches.vae.cost import (
    buffer_numbers,
    decode_flops,
    decoder_parameters,
    peak_numbers,
    traffic_numbers,
    vae_parameters,
)
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.engine.viewers.live import Watch
from torch.utils.flop_counter import FlopCounterMode

SIZES = [(4, 1, 2, 4), (4, 3, 6, 10), (16, 4, 3, 3), (96, 3, 60, 104)]
twice = pytest.mark.parametrize("upscale", [1, 2], ids="{}x".format)


def on_meta(dim, dtype=torch.float32, upscale=1):
    with torch.device("meta"):
        return WanVAE(dim, upscale=upscale).to(dtype).requires_grad_(False)


def begun(vae, latents, height, width):
    """Returns a piece of latents and the past of a stream that is under way."""
    dtype = next(vae.parameters()).dtype
    piece = torch.empty(1, 16, latents, height, width, dtype=dtype, device="meta")
    return piece, vae.decode(piece)[1]


@twice
@pytest.mark.parametrize("dim", [4, 16, 96])
def test_parameters_are_those_of_the_layers(dim, upscale):
    vae = on_meta(dim, upscale=upscale)
    assert vae_parameters(dim, upscale=upscale) == sum(p.numel() for p in vae.parameters())
    used = (*vae.decoder.parameters(), *vae.conv2.parameters())
    assert decoder_parameters(dim, upscale=upscale) == sum(p.numel() for p in used)


@twice
@pytest.mark.parametrize(("dim", "latents", "height", "width"), SIZES)
@torch.no_grad()
def test_flops_are_those_that_torch_counts(dim, latents, height, width, upscale):
    vae = on_meta(dim, upscale=upscale)
    piece, past = begun(vae, latents, height, width)
    with FlopCounterMode(display=False) as counted:
        vae.decode(piece, past)
    assert decode_flops(dim, latents, height * width, upscale=upscale) == counted.get_total_flops()


@twice
@pytest.mark.parametrize(("dim", "latents", "height", "width"), SIZES)
@torch.no_grad()
def test_the_past_and_the_peak_are_those_of_the_run(dim, latents, height, width, upscale):
    vae = on_meta(dim, torch.bfloat16, upscale)
    piece, past = begun(vae, latents, height, width)
    assert buffer_numbers(dim, height * width) == sum(tensor.numel() for tensor in past)
    with Watch() as seen:
        vae.decode(piece, past)
    assert 2 * peak_numbers(dim, latents, height * width, upscale=upscale) == seen.peak_bytes


@twice
@torch.no_grad()
def test_bytes_moved_are_within_a_tenth_at_a_real_size(upscale):
    vae = on_meta(96, torch.bfloat16, upscale)
    piece, past = begun(vae, 3, 60, 104)
    with Watch() as seen:
        vae.decode(piece, past)
    moved = 2 * traffic_numbers(96, 3, 60 * 104, upscale)
    assert 0.9 < moved / (seen.pass_bytes + seen.operand_bytes) < 1


def test_the_published_decoder_takes_the_published_work():
    """13.55 TFLOP per latent frame at 832x480, counted elsewhere on the published layers."""
    assert round(decode_flops(96, 3, 60 * 104) / 3 / 1e12, 2) == 13.55

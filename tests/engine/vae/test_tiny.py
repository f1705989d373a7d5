"""The tiny decoder, streamed: against the whole clip run layer by layer, and against any other cutting."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rivulet.model_patches.vae.decoder import decode_stream, from_tensors, to_tensors
from rivulet.model_patches.vae.tiny import TinyDecoder, has_memory
from rivulet.model_patches.vae.wan import in_model_units, in_vae_units

WIDTHS = (8, 6, 4, 4)


def tiny(dtype=torch.float64, takes_vae_units=False):
    """Every bias random too: a bias of zero would hide where a picture of zeros stands in for the past."""
    generator = torch.Generator().manual_seed(3)
    decoder = TinyDecoder(WIDTHS, takes_vae_units).to(dtype).requires_grad_(False)
    for value in decoder.parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 4
        value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * fan_in**-0.5)
    return decoder


def whole(decoder, latents_BCTHW):
    """All pictures of a clip [F, 3, 8H, 8W] in about [0, 1], every layer run once on all of them."""
    x_FCHW = latents_BCTHW[0].transpose(0, 1)
    for layer in decoder.decoder:
        if has_memory(layer):
            x_FCHW = layer(x_FCHW, torch.cat([torch.zeros_like(x_FCHW[:1]), x_FCHW[:-1]]))
        else:
            x_FCHW = layer(x_FCHW)
    return x_FCHW[3:]


@pytest.fixture(scope="module")
def decoder():
    return tiny()


@pytest.fixture(scope="module")
def decoded(decoder, latents):
    return whole(decoder, latents).movedim(1, -1).clamp(0, 1)


def test_the_pictures_are_those_of_the_whole_clip(decoder, latents):
    pixels_BCFHW, past = decoder.decode(latents)
    assert pixels_BCFHW.shape == (1, 3, 21, 16, 24) and len(past) == 9
    exact = 2 * whole(decoder, latents).transpose(0, 1)[None] - 1
    assert exact.std() > 0.1
    torch.testing.assert_close(pixels_BCFHW, exact, rtol=0, atol=1e-12)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 6), max_size=8).map(sorted), st.integers(1, 4))
def test_any_cut_with_a_file_between_decodes_the_same(decoder, latents, decoded, cuts, limit):
    past, parts = None, []
    for a, b in pairwise([0, *cuts, 6]):
        part, past = decode_stream(decoder, latents[:, :, a:b], past, limit, torch.float64)
        parts.append(part)
        past = from_tensors(to_tensors(past))
    torch.testing.assert_close(torch.cat(parts), decoded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cut_changes_no_bit_of_lower_precision(latents, dtype):
    """Every picture goes through the layers alone, whatever it came with."""
    decoder = tiny(dtype)
    at_once, _ = decode_stream(decoder, latents, dtype=torch.float64)
    first, past = decode_stream(decoder, latents[:, :, :1], dtype=torch.float64)
    second, _ = decode_stream(decoder, latents[:, :, 1:], past, dtype=torch.float64)
    assert torch.equal(torch.cat([first, second]), at_once)


def test_streams_side_by_side_do_not_mix(decoder, latents):
    other = latents.flip(2)
    both, past = decoder.decode(torch.cat([latents, other]))
    torch.testing.assert_close(both[1:], decoder.decode(other)[0], rtol=0, atol=1e-12)
    assert all(len(kept) == 2 for kept in past)


def test_units_of_the_vae_are_made_from_those_of_the_model(decoder, latents):
    of_vae = tiny(takes_vae_units=True)
    torch.testing.assert_close(
        of_vae.decode(latents)[0], decoder.decode(in_vae_units(latents))[0], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(in_model_units(in_vae_units(latents)), latents, rtol=0, atol=1e-12)


def test_a_past_can_be_used_twice_and_holds_nothing_else_alive(decoder, latents):
    _, past = decode_stream(decoder, latents[:, :, :2])
    before = {name: tensor.clone() for name, tensor in to_tensors(past).items()}
    first, after = decode_stream(decoder, latents[:, :, 2:], past)
    assert torch.equal(decode_stream(decoder, latents[:, :, 2:], past)[0], first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in to_tensors(past).items())
    assert all(t.untyped_storage().nbytes() == t.numel() * t.itemsize for t in to_tensors(after).values())


def test_pasts_of_another_decoder_or_size_are_refused(decoder, vae64, latents):
    _, of_wan = decode_stream(vae64, latents[:, :, :1])
    with pytest.raises(
        ValueError, match=r"past holds \d+ tensors, the decoder has 9 memory blocks; .* another"
    ):
        decode_stream(decoder, latents, of_wan)
    _, of_tiny = decode_stream(decoder, latents[:, :, :1])
    with pytest.raises(ValueError, match="the layers keep others; it is of another VAE"):
        decode_stream(vae64, latents, of_tiny)
    with pytest.raises(
        ValueError, match=r"the past is of latents of \[2, 3\], the new latents are of \[2, 2\]"
    ):
        decode_stream(decoder, latents[..., :2], of_tiny)


def test_nothing_to_decode_is_refused(decoder):
    with pytest.raises(ValueError, match="got 0 latent frames, needs 1 or more"):
        decoder.decode(torch.zeros(1, 16, 0, 2, 2).double())

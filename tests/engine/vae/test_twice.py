"""VAEs whose decoder draws twice the picture's height and width from the latents of the published one."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.model_patches.vae.load import load_vae
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import WanVAE, unpacked
from rivulet.tests.engine.vae.conftest import seeded
from rivulet.tests.engine.vae.test_wan import decode_of, renamed
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import pixel_shuffle

HEAD = "decoder.head.2."


@pytest.fixture(scope="module")
def twice() -> WanVAE:
    return seeded(WanVAE(dim=8, upscale=2)).double()


@pytest.fixture(scope="module")
def packed(twice, latents) -> torch.Tensor:
    """The head's 12 channels [1, 12, F, H, W], as a VAE that shuffles nothing gives them."""
    plain = seeded(WanVAE(dim=8)).double()
    plain.load_state_dict(
        {k: v for k, v in twice.state_dict().items() if not k.startswith(HEAD)}, strict=False
    )
    plain.decoder.head[2] = twice.decoder.head[2]
    return plain.decode(latents)[0]


def test_pictures_are_the_heads_channels_shuffled_by_torch(twice, packed, latents):
    assert packed.shape == (1, 12, 21, 16, 24) and packed.std() > 0.3
    by_torch = torch.stack([pixel_shuffle(frame, 2) for frame in packed[0].unbind(1)], 1)[None]
    assert torch.equal(twice.decode(latents)[0], by_torch)


def test_a_colours_channels_are_its_four_pixels_row_by_row():
    packed_BCFHW = torch.arange(1 * 12 * 2 * 3 * 5).view(1, 12, 2, 3, 5)
    pictures = unpacked(packed_BCFHW, 2)
    assert pictures.shape == (1, 3, 2, 6, 10)
    for colour in range(3):
        for row in range(2):
            for column in range(2):
                pixels = pictures[:, colour, :, row::2, column::2]
                assert torch.equal(pixels, packed_BCFHW[:, 4 * colour + 2 * row + column])


@settings(max_examples=10)
@given(st.sets(st.integers(1, 5)).map(sorted), st.integers(1, 4))
def test_any_cut_gives_the_pixels_of_the_whole(twice, packed, latents, cuts, limit):
    whole = (torch.stack([pixel_shuffle(frame, 2) for frame in packed[0].unbind(1)]) + 1) / 2
    past, parts = None, []
    for a, b in pairwise([0, *cuts, 6]):
        part, past = decode_stream(twice, latents[:, :, a:b], past, limit, torch.float64)
        parts.append(part)
    frames_FHWC = torch.cat(parts)
    assert frames_FHWC.shape == (21, 32, 48, 3)
    torch.testing.assert_close(frames_FHWC, whole.permute(0, 2, 3, 1).clamp(0, 1), rtol=0, atol=1e-12)


def test_pictures_are_those_of_diffusers_12_channels_shuffled(twice, latents):
    """diffusers' VAE leaves the channels as they are, clamped; its layers know nothing of these."""
    module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")
    model = module.AutoencoderKLWan(base_dim=8, out_channels=12)
    model.load_state_dict({renamed(key): value for key, value in twice.state_dict().items()})
    model.double().eval()
    for part in model.modules():
        if isinstance(part, module.WanUpsample):
            part.forward = nn.Upsample.forward.__get__(part)  # theirs goes through float32
    packed = decode_of(model, latents)
    assert packed.shape == (1, 12, 21, 16, 24) and (packed.abs() < 1).double().mean() > 0.5
    theirs = torch.stack([pixel_shuffle(frame, 2) for frame in packed[0].unbind(1)], 1)[None]
    torch.testing.assert_close(twice.decode(latents)[0].clamp(-1, 1), theirs, rtol=0, atol=1e-12)


def test_no_latents_give_no_pictures_of_the_size(twice, latents):
    assert decode_stream(twice, latents[:, :, :0])[0].shape == (0, 32, 48, 3)


def test_the_encoder_takes_pictures_of_the_usual_size(twice, pixels):
    plain = seeded(WanVAE(dim=8)).double()
    plain.encoder.load_state_dict(twice.encoder.state_dict())
    plain.conv1.load_state_dict(twice.conv1.state_dict())
    frames_FHWC = (pixels[0].permute(1, 2, 3, 0) + 1) / 2
    assert torch.equal(encode_stream(twice, frames_FHWC)[0], encode_stream(plain, frames_FHWC)[0])


@pytest.mark.parametrize("dim", [2, 6])
def test_the_size_is_read_from_the_heads_shape(tmp_path, dim):
    saved = WanVAE(dim, upscale=2).state_dict()
    save_file(saved, tmp_path / "vae.safetensors")
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.upscale == 2 and WanVAE(dim).upscale == TinyDecoder().upscale == 1
    assert all(torch.equal(saved[key], value) for key, value in loaded.state_dict().items())
    assert saved[HEAD + "weight"].shape == (12, dim, 3, 3, 3)


@pytest.mark.parametrize("channels", [1, 5, 6, 27, 48])
def test_a_head_of_other_channels_is_refused(tmp_path, channels):
    weights = WanVAE(4).state_dict()
    weights |= {HEAD + "weight": torch.zeros(channels, 4, 3, 3, 3), HEAD + "bias": torch.zeros(channels)}
    save_file(weights, tmp_path / "vae.safetensors")
    words = (
        rf"load_vae: .*vae.safetensors draws {channels} channels \(its decoder.head.2.weight\); "
        r"a stream takes 3, a picture, or 12, one of twice its height and width. Take wan_2.1_vae"
    )
    with pytest.raises(ValueError, match=words):
        load_vae(tmp_path / "vae.safetensors")


@pytest.mark.parametrize("upscale", [0, 3, 4])
def test_other_sizes_are_refused(upscale):
    with pytest.raises(ValueError, match=f"upscale must be 1 or 2, got {upscale}"):
        WanVAE(4, upscale=upscale)

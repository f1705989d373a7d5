"""Streams whose VAE draws twice the size: what they begin with is put back, and they go on from a file."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.join import FADE_FRAMES
from rivulet.model_patches.stream.pipeline import Prefill, run
from rivulet.model_patches.stream.snapshot import load, read_header, save
from rivulet.model_patches.stream.start import from_picture, from_video
from rivulet.model_patches.stream.step import init, prefill, rollout
from rivulet.model_patches.vae.decoder import VaeDecoder, decode_stream, encode_stream
from rivulet.model_patches.vae.wan import WanVAE

from .videos import GEOMETRY, Collected, pictures, seeded, text


@pytest.fixture(scope="module")
def twice():
    return seeded(WanVAE(dim=4, upscale=2))


@pytest.fixture
def fresh(wan):
    """Single frames, so that a fade lasts for two blocks."""
    return init(wan, (text(0),), StreamConfig(GEOMETRY, block_frames=1, sigmas=(1.0, 0.5), seed=7))


def whole(wan, vae, state, latents, blocks):
    """All pictures of the given latents and the blocks after them, decoded at once."""
    made = [latents for latents, _ in rollout(wan, prefill(wan, state, latents), blocks)]
    return decode_stream(vae, torch.cat([latents, *made], 2))[0]


def shown(wan, vae, state, begin, blocks):
    writer = Collected(state.ledger.written)
    after = run(wan, VaeDecoder(vae), state, [writer], begin=begin, blocks=blocks)
    return torch.from_numpy(writer.frames), after


def reduced(picture_HWC):
    """At half its height and width, each pixel the mean of four."""
    return picture_HWC.float().unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))


def test_every_picture_has_twice_the_streams_size(wan, twice, fresh):
    latents = torch.randn(GEOMETRY.latent_shape(1), generator=torch.Generator().manual_seed(3))
    made, _ = shown(wan, twice, fresh, Prefill(latents), 3)
    expected = whole(wan, twice, fresh, latents, 3)
    assert made.shape == expected.shape == (13, 32, 64, 3)
    assert (made.int() - expected.int()).abs().max() <= 1


def test_a_picture_of_that_size_is_the_first_as_it_is(wan, twice, fresh):
    given = pictures(1)[0].repeat_interleave(2, 0).repeat_interleave(2, 1).roll(1, 0)
    begin = from_picture(twice, pictures(1)[0])
    made, _ = shown(wan, twice, fresh, Prefill(begin.latents_BCTHW, 0, given), 2)
    assert torch.equal(made[0], given)


def test_a_smaller_picture_gives_its_colours_and_the_decoder_what_lies_between(wan, twice, fresh):
    """Of a plain picture: its colour, and the decoder's own detail beside it."""
    plain = torch.full((GEOMETRY.height, GEOMETRY.width, 3), 90, dtype=torch.uint8)
    begin = from_picture(twice, plain)
    made, _ = shown(wan, twice, fresh, begin, 3)
    expected = whole(wan, twice, fresh, begin.latents_BCTHW, 3)
    before = (reduced(expected[0]) - 90).abs().mean()
    assert (reduced(made[0]) - 90).abs().mean() < before / 2 and before > 5
    detail = [each.float() - reduced(each).repeat_interleave(2, 0).repeat_interleave(2, 1) for each in
              (made[0], expected[0])]  # fmt: skip
    assert (detail[0] - detail[1]).abs().mean() < detail[1].abs().mean() / 2
    assert (made[FADE_FRAMES:].int() - expected[FADE_FRAMES:].int()).abs().max() <= 1


def test_a_fade_goes_on_from_a_file_that_says_the_size(wan, twice, fresh, tmp_path):
    path, decoder = tmp_path / "stream.safetensors", VaeDecoder(twice)
    begin = from_video(twice, pictures(9), GEOMETRY)
    expected, _ = shown(wan, twice, fresh, begin, 3)
    first, state = shown(wan, twice, fresh, begin, 1)
    assert len(first) < FADE_FRAMES and state.ledger.lost_HWC.shape == (32, 64, 3)
    save(wan, state, path, decoder)
    header = read_header(path)
    assert (header.upscale, header.picture_size) == (2, (64, 32))
    rest, _ = shown(wan, twice, load(path, wan, decoder=decoder), None, 2)
    assert torch.equal(torch.cat([first, rest]), expected)


def test_what_was_lost_has_the_size_of_the_pictures_that_it_is_added_to(wan, twice, fresh, tmp_path):
    path, decoder = tmp_path / "stream.safetensors", VaeDecoder(twice)
    _, state = shown(wan, twice, fresh, from_video(twice, pictures(9), GEOMETRY), 1)
    smaller = torch.zeros(GEOMETRY.height, GEOMETRY.width, 3)
    save(wan, replace(state, ledger=replace(state.ledger, lost_HWC=smaller)), path, decoder)
    with pytest.raises(ValueError, match=r"ledger\.lost_HWC is \[16, 32, 3\]"):
        load(path, wan, decoder=decoder)


def test_a_vae_that_draws_another_size_is_refused(wan, vae, twice, fresh, tmp_path):
    path = tmp_path / "stream.safetensors"
    _, state = shown(wan, twice, fresh, None, 1)
    save(wan, state, path, VaeDecoder(twice))
    with pytest.raises(
        ValueError, match=r"are 64x32, and this VAE draws 32x16 .* Connect the VAE it was made"
    ):
        load(path, wan, decoder=VaeDecoder(vae))


def test_the_encoder_gives_the_stream_its_latents(twice, vae):
    twice.encoder.load_state_dict(vae.encoder.state_dict())
    twice.conv1.load_state_dict(vae.conv1.state_dict())
    assert torch.equal(encode_stream(twice, pictures(5))[0], encode_stream(vae, pictures(5))[0])

"""Streams that begin with a picture or where a video ends: what they show, and how it joins."""

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.join import FADE_FRAMES
from rivulet.model_patches.stream.pipeline import Prefill, run
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.start import context_latents, from_picture, from_video
from rivulet.model_patches.stream.step import init, prefill, rollout
from rivulet.model_patches.vae.decoder import VaeDecoder, decode_stream, encode_stream

from .videos import GEOMETRY, Collected, pictures, text


@pytest.mark.parametrize(
    ("name", "block_frames", "latents"),
    [
        ("pocket", 3, 9),
        ("infinity_rope", 3, 3),
        ("infinity_rope", 1, 5),
        ("longlive_infinity", 3, 9),
        ("videomla_7", 3, 3),
        ("self_forcing", 3, 9),
    ],
)
def test_so_many_latents_are_worth_giving(name, block_frames, latents):
    assert context_latents(PRESETS[name], block_frames) == latents


@pytest.fixture
def fresh(wan):
    return init(wan, (text(0),), StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7))


def given(frames):
    return torch.randn(GEOMETRY.latent_shape(frames), generator=torch.Generator().manual_seed(3))


def whole(wan, vae, state, latents, blocks):
    """All pictures of the given latents and the blocks after them, decoded at once."""
    made = [latents for latents, _ in rollout(wan, prefill(wan, state, latents), blocks)]
    return decode_stream(vae, torch.cat([latents, *made], 2))[0]


def shown(wan, vae, state, begin, **options):
    """The pictures that a stream's video has, and its state after them."""
    writer = Collected(state.ledger.written)
    after = run(wan, VaeDecoder(vae), state, [writer], begin=begin, **options)
    return torch.from_numpy(writer.frames), after


def assert_same(made, pixels):
    """Cut otherwise, convolutions sum in another order, so a level may round to its neighbour."""
    assert made.shape == pixels.shape and (made.int() - pixels.int()).abs().max() <= 1


def test_pictures_to_begin_with_are_the_videos_first(wan, vae, fresh):
    made, after = shown(wan, vae, fresh, Prefill(given(1)), blocks=2)
    assert_same(made, whole(wan, vae, fresh, given(1), 2))
    assert len(made) == after.ledger.written == 1 + 2 * 12


def test_what_is_not_shown_still_goes_before(wan, vae, fresh):
    made, after = shown(wan, vae, fresh, Prefill(given(6), hidden=21), blocks=2)
    assert_same(made, whole(wan, vae, fresh, given(6), 2)[21:])
    assert after.ledger.next_frame(GEOMETRY, after.start_frame) == after.ledger.written == 24


def test_what_the_vae_lost_of_a_video_is_put_back_and_fades(wan, vae, fresh):
    ending = pictures(9)
    expected = whole(wan, vae, fresh, encode_stream(vae, ending)[0], 2).float()
    made, after = shown(wan, vae, fresh, from_video(vae, ending, GEOMETRY), blocks=2)
    lost = ending[-1].float() - expected[8]
    assert lost.abs().max() > 20
    first = (expected[9] + lost).clamp(0, 255)
    assert (made[0].float() - first).abs().max() <= 1
    assert_same(made[FADE_FRAMES:], expected[9 + FADE_FRAMES :])
    assert (made[7].float() - expected[16]).abs().max() > 2
    assert after.ledger.lost_HWC is None


def test_a_fade_goes_on_from_a_file(wan, vae, fresh, tmp_path):
    """Single frames, so that it lasts for two blocks."""
    fresh = init(wan, fresh.prompt, StreamConfig(GEOMETRY, block_frames=1, sigmas=(1.0, 0.5), seed=7))
    begin = from_video(vae, pictures(9), GEOMETRY)
    expected, _ = shown(wan, vae, fresh, begin, blocks=3)
    first, state = shown(wan, vae, fresh, begin, blocks=1)
    assert len(first) < FADE_FRAMES and state.ledger.lost_HWC is not None
    save(wan, state, tmp_path / "stream.safetensors")
    rest, _ = shown(wan, vae, load(tmp_path / "stream.safetensors", wan), None, blocks=2)
    assert torch.equal(torch.cat([first, rest]), expected)


def test_a_picture_to_begin_with_is_shown_as_it_is_and_the_next_ones_join_it(wan, vae, fresh):
    picture = pictures(1)[0]
    expected = whole(wan, vae, fresh, encode_stream(vae, picture[None])[0], 1).float()
    made, _ = shown(wan, vae, fresh, from_picture(vae, picture), blocks=1)
    lost = picture.float() - expected[0]
    second = (expected[1] + lost * (FADE_FRAMES - 1) / FADE_FRAMES).clamp(0, 255)
    assert torch.equal(made[0], picture) and lost.abs().max() > 1
    assert (made[1].float() - second).abs().max() <= 1


@pytest.mark.parametrize("count", [0, 2, 8])
def test_pictures_that_are_no_whole_latents_are_refused(vae, count):
    with pytest.raises(ValueError, match="no whole number of latents"):
        from_video(vae, pictures(count), GEOMETRY)

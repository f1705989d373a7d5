"""Streams that begin with latents that were given: what they remember and show, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import PRESETS, kept_frames
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.join import FADE_FRAMES
from rivulet.model_patches.stream.pipeline import LOST, frames_made, run
from rivulet.model_patches.stream.start import begun, begun_with_picture, gone_on, keep, remembered_latents
from rivulet.model_patches.stream.step import StreamConfig, init, load, save, step
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.model_patches.vae.wan import WanVAE

from ..formats import FORMATS
from ..memory.memories import EMA, learned
from .test_pipeline import Collected, seeded

GEOMETRY = Geometry(32, 16)


def given(frames, batch=1, geometry=None, seed=3):
    shape = (geometry or GEOMETRY).latent_shape(frames, batch)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("cfg", [1.0, 2.5], ids="cfg{}".format)
def test_what_was_made_can_be_given_again(model, make_text, config, cfg, made):
    """Two blocks given to a new stream are remembered just as when they were made."""
    config = replace(config, cfg=cfg, first_sigmas=() if cfg == 1 else (1.0, 0.9, 0.6, 0.3))
    texts = (make_text(1), config, make_text(2) if cfg != 1 else None)
    state, parts = init(model, *texts, cache=made), []
    for _ in range(3):
        latents, state = step(model, state)
        parts.append(latents)
    again = keep(model, init(model, *texts, cache=made), torch.cat(parts[:2], 2))
    assert (again.start_frame, again.block, again.cache.frames) == (6, 0, (0, 4, 5))
    assert torch.equal(step(model, replace(again, block=2))[0], parts[2])


@pytest.mark.parametrize("memory", [EMA, learned()], ids=["ema", "learned"])
def test_what_leaves_the_window_goes_to_the_memory(model, make_text, config, memory):
    config = replace(config, preset="echo", sigmas=(1.0, 0.7))
    state, parts = init(model, make_text(1), config, memory=memory), []
    for _ in range(7):
        latents, state = step(model, state)
        parts.append(latents)
    again = keep(model, init(model, make_text(1), config, memory=memory), torch.cat(parts[:6], 2))
    assert torch.equal(step(model, replace(again, block=6))[0], parts[6])
    assert torch.equal(again.tail_BCTHW, torch.cat(parts[:6], 2)[:, :, -config.tail_frames :])


@pytest.mark.parametrize("frames", [1, 4, 17])
@pytest.mark.parametrize("name", ["infinity_rope", "pocket", "self_forcing"])
def test_any_number_of_latents_goes_before_the_blocks(model, make_text, config, name, frames):
    config = replace(config, preset=name)
    state = keep(model, init(model, make_text(), config), given(frames, geometry=config.geometry))
    sink, window = kept_frames(PRESETS[name], frames, 3)
    assert state.start_frame == frames and state.cache.frames == sink + window
    made, after = step(model, state)
    other, _ = step(
        model, keep(model, init(model, make_text(), config), given(frames, 1, config.geometry, 4))
    )
    assert after.start_frame == frames + 3 and not torch.equal(made, other)


def test_streams_side_by_side_remember_their_own(model, make_text, config):
    latents = given(4, 2, config.geometry)
    both = step(model, keep(model, init(model, make_text(batch=2), config), latents))[0]
    text = make_text(batch=2)[:1]
    alone = step(model, keep(model, init(model, text, config), latents[:1]))[0]
    # other batch sizes, other orders of summing: a few roundings through three layers and four calls
    assert (both[:1] - alone).abs().max() < 256 * torch.finfo(torch.float32).eps * alone.abs().max()


REFUSED = {
    "size": (lambda good: good[..., 1:], "the stream needs"),
    "nothing": (lambda good: good[:, :, :0], "at least one frame"),
    "one picture": (lambda good: good[:, :, 0], "at least one frame"),
    "NaN": (lambda good: good * float("nan"), "hold NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(model, make_text, config, case):
    change, words = REFUSED[case]
    state = init(model, make_text(), config)
    usual = step(model, init(model, make_text(), config))[0]
    with pytest.raises(ValueError, match=words):
        keep(model, state, change(given(2, geometry=config.geometry)))
    assert torch.equal(step(model, state)[0], usual)


def test_a_stream_that_has_begun_takes_nothing_before_it(model, make_text, config):
    _, state = step(model, init(model, make_text(), config))
    with pytest.raises(ValueError, match="a stream that has 3 latent frames"):
        keep(model, state, given(3, geometry=config.geometry))


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
    assert remembered_latents(PRESETS[name], block_frames) == latents


@pytest.fixture(scope="module")
def dit():
    sizes = WanConfig(dim=24, ffn_dim=32, num_layers=2, num_heads=1, text_dim=8, freq_dim=16)
    return seeded(WanModel(sizes))


@pytest.fixture(scope="module")
def vae():
    return seeded(WanVAE(dim=4))


@pytest.fixture
def fresh(dit):
    text = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    return init(dit, text, StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7))


def pictures(count, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 16, 32, 3), generator=generator, dtype=torch.uint8)


def by_hand(dit, vae, state, latents, blocks):
    """All pictures of the given latents and the blocks after them, decoded as a whole."""
    state, parts = keep(dit, state, latents), [latents]
    for _ in range(blocks):
        made, state = step(dit, state)
        parts.append(made)
    return decode_stream(vae, torch.cat(parts, 2))[0]


def assert_same(writer, pixels):
    """Cut otherwise, convolutions sum in another order, so a level may round to its neighbour."""
    made = torch.from_numpy(writer.frames)
    assert made.shape == pixels.shape and (made.int() - pixels.int()).abs().max() <= 1


def test_pictures_to_begin_with_are_the_videos_first(dit, vae, fresh):
    whole = by_hand(dit, vae, fresh, given(1), 2)
    first, state = begun(dit, vae, fresh, given(1), shown=True)
    assert torch.equal(first, whole[:1]) and frames_made(state) == 1
    writer = Collected(1)
    run(dit, vae, state, [writer], blocks=2)
    assert_same(writer, whole[1:])


def test_what_is_not_shown_still_goes_before(dit, vae, fresh):
    whole = by_hand(dit, vae, fresh, given(6), 2)
    _, state = begun(dit, vae, fresh, given(6), shown=False)
    assert frames_made(state) == 0
    writer = Collected()
    run(dit, vae, state, [writer], blocks=2)
    assert_same(writer, whole[21:])


def test_what_the_vae_lost_of_a_video_is_put_back_and_fades(dit, vae, fresh, tmp_path):
    ending = pictures(9)
    latents, _ = encode_stream(vae, ending)
    whole = by_hand(dit, vae, fresh, latents, 2)
    state = gone_on(dit, vae, fresh, ending)
    save(dit, state, tmp_path / "begun.safetensors")
    writer, again = Collected(), Collected()
    after = run(dit, vae, state, [writer], blocks=2)
    run(dit, vae, load(tmp_path / "begun.safetensors", dit), [again], blocks=2)
    made = torch.from_numpy(writer.frames)
    assert torch.equal(torch.from_numpy(again.frames), made)
    lost = ending[-1].float() - whole[8].float()
    assert lost.abs().max() > 20
    first = (whole[9].float() + lost).clamp(0, 255)
    assert (made[0].float() - first).abs().max() <= 1
    assert (made[FADE_FRAMES:].int() - whole[9 + FADE_FRAMES :].int()).abs().max() <= 1
    assert (made[7].float() - whole[16].float()).abs().max() > 2
    assert LOST in state.extras and LOST not in after.extras


def test_a_picture_to_begin_with_is_shown_as_it_is_and_the_next_ones_join_it(dit, vae, fresh):
    picture = pictures(1)[0]
    whole = by_hand(dit, vae, fresh, encode_stream(vae, picture[None])[0], 1).float()
    state, writer = begun_with_picture(dit, vae, fresh, picture), Collected(1)
    run(dit, vae, state, [writer], blocks=1)
    lost = picture.float() - whole[0]
    second = (whole[1] + lost * (FADE_FRAMES - 1) / FADE_FRAMES).clamp(0, 255)
    assert (torch.from_numpy(writer.frames[0]).float() - second).abs().max() <= 1 < lost.abs().max()


@pytest.mark.parametrize("count", [0, 2, 8])
def test_pictures_that_are_no_whole_latents_are_refused(dit, vae, fresh, count):
    with pytest.raises(ValueError, match="no whole number of latents"):
        gone_on(dit, vae, fresh, pictures(count))

"""Streams that begin with latents that are there: what they remember, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS, cached_frames
from rivulet.model_patches.stream.step import extend, init, prefill, step
from rivulet.model_patches.stream.switch import switch

from ..formats import FORMATS
from ..memory.memories import EMA, learned


def given(config, frames, batch=1, seed=3):
    shape = config.geometry.latent_shape(frames, batch)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("cfg", [1.0, 2.5], ids="cfg{}".format)
def test_what_was_made_can_be_given_again(caller, make_text, config, cfg, made):
    """Two blocks given to a new stream are remembered just as when they were made."""
    config = replace(config, cfg=cfg, first_sigmas=() if cfg == 1 else (1.0, 0.9, 0.6, 0.3))
    prompt = (make_text(1), make_text(2)) if config.guided else (make_text(1),)
    state, parts = init(caller, prompt, config, cache=made), []
    for _ in range(3):
        latents, state = step(caller, state)
        parts.append(latents)
    again = prefill(caller, init(caller, prompt, config, cache=made), torch.cat(parts[:2], 2))
    assert (again.start_frame, again.block, again.cache.frames) == (6, 0, (0, 4, 5))
    assert torch.equal(step(caller, replace(again, block=2))[0], parts[2])


@pytest.mark.parametrize("memory", [EMA, learned()], ids=["ema", "learned"])
def test_what_leaves_the_window_goes_to_the_memory(caller, make_text, config, memory):
    config = replace(config, preset="echo", sigmas=(1.0, 0.7))
    state, parts = init(caller, (make_text(1),), config, memory=memory), []
    for _ in range(7):
        latents, state = step(caller, state)
        parts.append(latents)
    made_BCTHW = torch.cat(parts[:6], 2)
    again = prefill(caller, init(caller, (make_text(1),), config, memory=memory), made_BCTHW)
    assert torch.equal(step(caller, replace(again, block=6))[0], parts[6])
    assert torch.equal(again.tail_BCTHW, made_BCTHW[:, :, -config.kept_frames :])


def test_a_stream_is_extended_after_a_recache_that_was_asked_for(caller, make_text, config):
    """By latents that a stream like it made: only the count of its blocks is another."""

    def asked():
        _, state = step(caller, init(caller, (make_text(1),), config))
        _, state = step(caller, state)
        return switch(caller, state, (make_text(2),), "recache")

    latents, made = step(caller, asked())
    shown = extend(caller, asked(), latents)
    assert (shown.block, shown.start_frame, shown.must_recache) == (2, made.start_frame, False)
    assert torch.equal(shown.tail_BCTHW, made.tail_BCTHW)
    assert torch.equal(step(caller, replace(shown, block=3))[0], step(caller, made)[0])


@pytest.mark.parametrize("frames", [1, 4, 17])
@pytest.mark.parametrize("name", ["infinity_rope", "pocket", "self_forcing"])
def test_any_number_of_latents_goes_before_the_blocks(caller, make_text, config, name, frames):
    config = replace(config, preset=name)
    state = prefill(caller, init(caller, (make_text(),), config), given(config, frames))
    sink, window = cached_frames(PRESETS[name], frames, 3)
    assert state.start_frame == frames and state.cache.frames == sink + window
    made, after = step(caller, state)
    others = prefill(caller, init(caller, (make_text(),), config), given(config, frames, seed=4))
    assert after.start_frame == frames + 3 and not torch.equal(made, step(caller, others)[0])


def test_streams_side_by_side_remember_their_own(caller, make_text, config):
    latents, text = given(config, 4, batch=2), make_text(batch=2)
    both, _ = step(caller, prefill(caller, init(caller, (text,), config), latents))
    alone, _ = step(caller, prefill(caller, init(caller, (text[:1],), config), latents[:1]))
    # other batch sizes, other orders of summing: a few roundings through three layers and four calls
    assert (both[:1] - alone).abs().max() < 256 * torch.finfo(torch.float32).eps * alone.abs().max()


REFUSED = {
    "size": (lambda good: good[..., 1:], "the stream needs"),
    "nothing": (lambda good: good[:, :, :0], "at least one frame"),
    "one picture": (lambda good: good[:, :, 0], "at least one frame"),
    "NaN": (lambda good: good * float("nan"), "hold NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(caller, make_text, config, case):
    change, words = REFUSED[case]
    state = init(caller, (make_text(),), config)
    usual = step(caller, init(caller, (make_text(),), config))[0]
    with pytest.raises(ValueError, match=words):
        prefill(caller, state, change(given(config, 2)))
    assert torch.equal(step(caller, state)[0], usual)


def test_a_stream_that_has_begun_takes_nothing_before_it(caller, make_text, config):
    _, state = step(caller, init(caller, (make_text(),), config))
    with pytest.raises(ValueError, match="a stream that has 3 latent frames"):
        prefill(caller, state, given(config, 3))

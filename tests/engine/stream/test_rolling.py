"""Streams whose blocks are denoised together: beside a second implementation, and what all streams do."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rivulet.model_patches.attention.positions import PRESETS, PositionPreset
from rivulet.model_patches.cache.format import joint_call
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.sampler.noise import block_noise
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, prefill, rollout, step
from rivulet.model_patches.stream.switch import switch
from safetensors.torch import load_file

from ..formats import FORMATS, LOSSY
from .interruptions import before_a_block, check_an_interruption
from .test_snapshot import put, said_in
from .test_stream_reference import Block, Reference

# as Rolling Forcing's, with ids for 12 frames: two blocks together, the sink and one block before them
SMALL = PositionPreset("small", 3, 12, last_id=11, trained_frames=12, sink_within=True)
WHOLE = 8  # blocks after which the cache has rolled several times
ROUNDING = torch.finfo(torch.float64).eps


@pytest.fixture
def rolling(config):
    """Returns a contract of two noise levels, so two blocks are under way at a time."""
    return replace(config, preset=SMALL, sigmas=(1.0, 0.6), sampler="rolling")


def frames_at(start, count):
    return list(range(start, start + count))


def clean_block(start, count, text, preset=SMALL):
    """What the pass at timestep 0 sees: the newest frames, at the lowest ids there are."""
    end = start + count
    seen = frames_at(max(0, end - preset.window_frames), min(end, preset.window_frames))
    ids = tuple(range(len(seen)))
    return Block(frames_at(start, count), seen, ids, ids[-count:], text)


def joint_block(start, count, text, preset=SMALL):
    """What a joint call sees: the sink, the newest frames that leave it room, and itself."""
    sink = frames_at(0, min(preset.sink_frames, start))
    room = preset.last_id + 1 - preset.sink_frames - count
    newest = [frame for frame in range(start) if frame not in sink][-room:] if room else []
    seen = sink + newest + frames_at(start, count)
    ids = tuple(range(len(seen)))
    return Block(frames_at(start, count), seen, ids, ids[-count:], text)


def sample(reference, config, texts):
    """Latents [C, T, H, W] of as many blocks as there are texts, block i made under texts[i]."""
    g, size, levels = config.geometry, config.block_frames, config.sigmas
    made = torch.zeros(g.latent_channels, 0, g.latent_height, g.latent_width, dtype=torch.float64)
    under_way: list[torch.Tensor] = []

    def fresh(block, level):
        return block_noise(config.seed, block, level, g.latent_shape(size), dtype=torch.float64)[0]

    for block, text in enumerate(texts):
        start = block * size
        while True:
            at = list(range(len(under_way), -1, -1))  # level of each block, the oldest first
            parts = [
                levels[level] * fresh(block + i, level)
                + ((1 - levels[level]) * under_way[i] if i < len(under_way) else 0)
                for i, level in enumerate(at)
            ]
            x = torch.cat(parts, 1)
            sigma = torch.tensor([levels[level] for level in at], dtype=torch.float64).repeat_interleave(size)
            # a past block was run under the text it was made with
            past = [clean_block(i * size, size, texts[i]) for i in range(block)]
            now = joint_block(start, x.shape[1], text)
            times = torch.cat([torch.zeros(start, dtype=torch.float64), 1000 * sigma])
            flow = reference.flow(torch.cat([made, x], 1), times, [*past, now])[:, start:]
            under_way = list((x - sigma[:, None, None] * flow).split(size, 1))
            if len(at) == len(levels):
                break
        made = torch.cat([made, under_way.pop(0)], 1)
    return made


def made_by(caller, config, prompts, **given):
    state, parts = init(caller, prompts[0], config, **given), []
    for i, prompt in enumerate(prompts):
        if i and prompt is not prompts[i - 1]:
            state = switch(caller, state, prompt, "smooth")
        latents, state = step(caller, state)
        parts.append(latents)
    return torch.cat(parts, 2), state


def test_a_stream_equals_the_whole_past_run_again_without_a_cache(make_model, make_text, rolling):
    texts = [1, 1, 1, *[2] * (WHOLE - 3)]
    exact = sample(
        Reference(make_model().state_dict(), 2, 3, rolling.geometry),
        rolling,
        [make_text(n)[0] for n in texts],
    )
    errors = {}
    for dtype in (torch.float32, torch.float64):
        prompts = {number: (make_text(number, dtype=dtype),) for number in (1, 2)}
        config = replace(rolling, dtype=dtype)
        got, _ = made_by(ModelCaller(make_model(dtype)), config, [prompts[n] for n in texts])
        errors[dtype] = (got[0] - exact).abs().max().item()
    shrink = ROUNDING / torch.finfo(torch.float32).eps
    assert 0 < errors[torch.float64] <= 8 * shrink * errors[torch.float32], errors
    assert errors[torch.float32] < 1e-3 * exact.abs().max()


def test_a_shorter_take_is_the_beginning_of_a_longer_one(caller, make_text, rolling):
    prompt = (make_text(1),)
    short, _ = made_by(caller, rolling, [prompt] * 3)
    long, state = made_by(caller, rolling, [prompt] * 6)
    assert torch.equal(short, long[:, :, :9])
    assert state.under_way_BCTHW.shape[2] == rolling.frames_under_way == 3
    other, _ = made_by(caller, replace(rolling, sampler="block", preset="pocket"), [prompt] * 3)
    assert (short - other).abs().max() > 0.01


@pytest.mark.parametrize("name", FORMATS)
def test_saved_after_any_block_it_goes_on_bit_for_bit(caller, make_text, rolling, tmp_path, name):
    prompt = (make_text(1),)
    state, path = init(caller, prompt, rolling, cache=FORMATS[name]), tmp_path / "take.safetensors"
    for _ in range(7):
        save(caller, state, path)
        again = load(path, caller, cache=FORMATS[name])
        latents, state = step(caller, state)
        once_more, after = step(caller, again)
        assert torch.equal(latents, once_more)
        assert torch.equal(state.under_way_BCTHW, after.under_way_BCTHW)


@pytest.mark.parametrize("name", LOSSY)
def test_a_smaller_cache_is_near_the_dense_one(caller, make_text, rolling, name):
    prompts = [(make_text(1),)] * WHOLE
    exact, _ = made_by(caller, rolling, prompts)
    near, state = made_by(caller, rolling, prompts, cache=FORMATS[name])
    first = exact[:, :, :3]
    assert torch.equal(near[:, :, :3], first)  # nothing was cached yet
    rest = (near - exact)[:, :, 3:]
    assert 0 < rest.norm() < 0.5 * exact[:, :, 3:].norm()
    assert state.cache.frames == (0, 1, 2, *range(WHOLE * 3 - 9, WHOLE * 3))


def test_a_sink_that_takes_in_what_leaves_is_seen_by_the_joint_calls(caller, make_text, rolling):
    prompts = [(make_text(1),)] * WHOLE
    off, _ = made_by(caller, rolling, prompts)
    ema, _ = made_by(caller, rolling, prompts, memory=EmaSink(keep=0.5))
    # the first frames leave the window of 12 with the fifth block, and the sixth sees the sink they went into
    assert torch.equal(off[:, :, :15], ema[:, :, :15])
    assert not torch.equal(off[:, :, 15:18], ema[:, :, 15:18])


@pytest.fixture(
    params=[(0, "dense"), (1, "dense"), (6, "latent_mixed_exact")], ids=lambda case: f"{case[0]}-{case[1]}"
)
def stopped(request, make_model, make_text, rolling):
    """Returns a caller, a guided stream before a block, its model's tripwire and what the block must be."""
    blocks, name = request.param
    caller, config = ModelCaller(make_model()), replace(rolling, cfg=2.0)
    prompt = (make_text(1), make_text(2, tokens=3))
    streams = [init(caller, prompt, config, cache=FORMATS[name]) for _ in range(2)]
    for _ in range(blocks):
        streams = [step(caller, stream)[1] for stream in streams]
    return before_a_block(caller, streams)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True))
def test_an_interruption_in_any_layer_at_any_call_changes_nothing(stopped, place):
    check_an_interruption(stopped, place)


def test_a_cut_drops_what_is_under_way_and_begins_as_a_stream_begins(caller, make_text, rolling):
    one, two = (make_text(1),), (make_text(2),)
    _, state = made_by(caller, rolling, [one] * 3)
    cut = switch(caller, state, two, "cut")
    assert cut.under_way_BCTHW is None and cut.start_frame == 0
    fresh = replace(init(caller, two, rolling), block=3)
    for (got, _), (want, _) in zip(rollout(caller, cut, 2), rollout(caller, fresh, 2), strict=True):
        assert torch.equal(got, want)


def test_a_shot_drops_what_is_under_way_and_its_sink_is_seen_by_the_joint_calls(caller, make_text, rolling):
    one, two = (make_text(1),), (make_text(2),)
    _, state = made_by(caller, rolling, [one] * 3)
    shot = switch(caller, state, two, "shot")
    assert shot.under_way_BCTHW is None and shot.start_frame == 3
    kept, after = step(caller, shot)
    forgotten, _ = step(caller, switch(caller, made_by(caller, rolling, [one] * 3)[1], two, "cut"))
    assert (kept - forgotten).abs().max() > 1e-3
    assert after.start_frame == 6 and after.under_way_BCTHW.shape[2] == rolling.frames_under_way
    # its ids: one left free behind the sink, until the call needs all there are
    calls = [joint_call(SMALL, 3, frames, shot=True) for frames in (3, 6)]
    assert [call.ids for call in calls] == [(0, 1, 2, 4, 5, 6), (0, 1, 2, 4, 5, 6, 7, 8, 9)]
    assert joint_call(SMALL, 6, 6, shot=True).ids == tuple(range(12))
    full = replace(rolling, sigmas=(1.0, 0.8, 0.6))  # 9 frames together, and ids for no more
    with pytest.raises(ValueError, match="no id is free behind its sink"):
        switch(caller, made_by(caller, full, [one] * 2)[1], two, "shot")


@pytest.mark.parametrize("mode", ["smooth", "recache", "blend"])
def test_other_switches_go_on_with_what_is_under_way(caller, make_text, rolling, mode):
    one, two = (make_text(1),), (make_text(2),)
    state = made_by(caller, rolling, [one] * 6)[1]
    gone_over = switch(caller, state, two, mode)
    assert gone_over.under_way_BCTHW is state.under_way_BCTHW
    same_text = step(caller, switch(caller, made_by(caller, rolling, [one] * 6)[1], one, mode))[0]
    plain = step(caller, made_by(caller, rolling, [one] * 6)[1])[0]
    other = step(caller, gone_over)[0]
    # the same text leaves the block as it is; frames that run again do not see those that left before them
    assert torch.equal(same_text, plain) == (mode != "recache")
    assert (other - same_text).abs().max() > 1e-3


def test_what_is_under_way_leaves_the_device_with_the_state(caller, make_text, rolling):
    _, state = made_by(caller, rolling, [(make_text(1),)] * 2)
    away, cache = torch.device("meta"), SimpleNamespace(move=lambda device: None, shape=state.cache.shape)
    moved = replace(state, cache=cache).to(away)
    assert moved.under_way_BCTHW.device == moved.tail_BCTHW.device == away


def test_given_latents_come_before_the_first_block(caller, make_text, rolling):
    given = torch.randn(rolling.geometry.latent_shape(4), generator=torch.Generator().manual_seed(1))
    state = prefill(caller, init(caller, (make_text(1),), rolling), given)
    assert state.start_frame == 4 and state.under_way_BCTHW is None
    with_past, state = step(caller, state)
    alone, _ = step(caller, init(caller, (make_text(1),), rolling))
    assert (with_past - alone).abs().max() > 1e-3 and state.start_frame == 7


def test_nan_in_blocks_under_way_is_refused_before_it_is_kept(make_model, make_text, rolling):
    class Spoilt(ModelCaller):
        def run(self, *given):
            result = super().run(*given)
            return replace(result, under_way_BCTHW=result.under_way_BCTHW * float("nan"))

    state = step(ModelCaller(make_model()), init(ModelCaller(make_model()), (make_text(1),), rolling))[1]
    with pytest.raises(RuntimeError, match=r"NaN or infinite numbers.*in its latents"):
        step(Spoilt(make_model()), state)
    assert step(ModelCaller(make_model()), state)[0].isfinite().all()


def test_what_cannot_be_rolled_is_refused_in_a_sentence(caller, make_text, rolling, config):
    state = init(caller, (make_text(1),), rolling)
    begin = InitLatents(torch.zeros(rolling.geometry.latent_shape(3)), 0)
    with pytest.raises(ValueError, match="has 2 blocks under way at a time; take a checkpoint that"):
        step(caller, state, begin=begin)
    _, state = step(caller, state)
    with pytest.raises(ValueError, match="keep as many levels as the take was begun with"):
        step(caller, replace(state, config=replace(rolling, sigmas=(1.0, 0.8, 0.6))))
    for change, sentence in (
        ({"sampler": "waltz"}, "there is no sampler 'waltz'"),
        ({"first_sigmas": (1.0, 0.5)}, "give no first_sigmas"),
        ({"fresh_noise": False}, "fresh_noise"),
        ({"preset": PRESETS["echo"]}, "has a memory; take preset rolling_forcing"),
        ({"preset": PRESETS["self_forcing"]}, "ids that grow without end"),
        ({"sigmas": (1.0, 0.9, 0.8, 0.7)}, "12 latent frames are denoised together.*room for 9"),
        ({"sampler": "block"}, "preset small is for checkpoints that denoise several blocks together"),
    ):
        with pytest.raises(ValueError, match=sentence):
            replace(rolling, **change)


def test_a_take_goes_on_with_as_many_levels_and_the_same_sampler(caller, make_text, rolling, tmp_path):
    _, state = made_by(caller, rolling, [(make_text(1),)] * 2)
    path = tmp_path / "take.safetensors"
    save(caller, state, path)
    assert load(path, caller, replace(rolling, sigmas=(1.0, 0.5), seed=9)).config.seed == 9
    with pytest.raises(ValueError, match="2 noise levels, not 3"):
        load(path, caller, replace(rolling, sigmas=(1.0, 0.8, 0.5)))
    with pytest.raises(ValueError, match="rolling sampling, not block"):
        load(path, caller, replace(rolling, sampler="block", preset="pocket"))


def test_an_earlier_file_says_nothing_of_samplers_and_goes_on_as_it_was_made(
    caller, make_text, config, tmp_path
):
    _, state = made_by(caller, config, [(make_text(1),)] * 2)
    path = tmp_path / "take.safetensors"
    save(caller, state, path)
    about, tensors = said_in(path), load_file(path)
    del about["config"]["sampler"], about["config"]["preset"]["sink_within"]
    put(path, about, tensors)
    assert torch.equal(step(caller, load(path, caller))[0], step(caller, state)[0])
    # a state of blocks that are made one after the other has none under way
    put(path, about, {**tensors, "under_way": torch.zeros(config.geometry.latent_shape(3))})
    with pytest.raises(ValueError, match="blocks are under way as"):
        load(path, caller)

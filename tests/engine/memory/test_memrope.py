"""Averages of what left the window, that every layer sees."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.attention.positions import PRESETS, plan
from rivulet.model_patches.attention.rope import rope_table
from rivulet.model_patches.cache.core import SlotPast
from rivulet.model_patches.memory.memrope import Averages, MemRope
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.model_patches.memory.policy import EMPTY
from rivulet.model_patches.plan.plan import plan_stream
from rivulet.model_patches.stream.caller import Result
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, prefill, recache, refuse_nan, step
from rivulet.model_patches.stream.switch import switch

from ..cache.test_mla import LATENTS, MlaFormat, MlaModel
from ..cache.test_mla import SIZES as MLA_SIZES
from ..formats import FORMATS
from ..plan.test_plan import REQUEST
from ..viewers.live import Watch
from .memories import memrope

TOKENS, BLOCKS = 6, 8


@pytest.fixture
def roped(config):
    """Returns a contract with MemRoPE's positions, in float64."""
    return replace(config, preset=PRESETS["memrope"], dtype=torch.float64, sigmas=(1.0, 0.6))


def streamed(caller, prompt, config, policy, blocks=BLOCKS, **options):
    """(states, what each block's own frames left in the cache, by layer) of so many blocks."""
    state = init(caller, prompt, config, memory=policy, **options)
    states, own = [state], {}
    for _ in range(blocks):
        start = state.start_frame
        _, state = step(caller, state)
        for frame in range(start, state.start_frame):
            if frame in state.cache.frames:
                layers = range(state.cache.shape.layers)
                own[frame] = [state.cache.keys_values(layer, (frame,)) for layer in layers]
        states.append(state)
    return states, own


def by_hand(own, evicted, policy, layer):
    """(long, short), each (keys, values) of one layer: the published formulas on whole frames."""
    long = short = None
    for frames in evicted:
        sides = [torch.stack([own[f][layer][side] for f in frames]) for side in (0, 1)]  # [F, R, S, N, D]
        if policy.per_position:
            mean = [x.mean(0) for x in sides]
        else:
            mean = [x.mean((0, 2)).unsqueeze(1).expand_as(x[0]) for x in sides]
        if long is None:
            long, short = mean, mean
            continue
        share = torch.tensor(policy.short_share, dtype=torch.float64)
        if policy.per_position:
            moved = (mean[0] - short[0]).norm(dim=-1).mean(-1)
            moved = moved / (moved.amax(1, keepdim=True) + 1e-8)
            share = (share * (0.1 + 4.9 * moved))[..., None, None]
        long = [policy.long_share * m + (1 - policy.long_share) * o for m, o in zip(mean, long, strict=True)]
        short = [share * m + (1 - share) * o for m, o in zip(mean, short, strict=True)]
    return long, short


@pytest.mark.parametrize("per_position", [False, True], ids=["one vector", "every position"])
@pytest.mark.parametrize("block_frames", [3, 1])
def test_what_leaves_enters_both_averages_of_every_layer(
    make_model, make_text, roped, per_position, block_frames
):
    caller, config = ModelCaller(make_model(torch.float64)), replace(roped, block_frames=block_frames)
    policy = memrope(torch.float64, per_position=per_position)
    states, own = streamed(caller, (make_text(dtype=torch.float64),), config, policy, 24 // block_frames)
    evicted = []
    for before, after in pairwise(states):
        there = {*before.cache.frames, *range(before.start_frame, after.start_frame)}
        left = sorted(there - set(after.cache.frames))
        if not left:
            assert after.memory is before.memory
            continue
        evicted.append(left if evicted else left[2:])
        for layer in range(3):
            long, short = by_hand(own, evicted, policy, layer)
            keys, values = policy.read(after.memory)[0](layer)
            for got, a, b in ((keys, long[0], short[0]), (values, long[1], short[1])):
                torch.testing.assert_close(got, torch.cat([a, b], 1), rtol=1e-12, atol=1e-12)
    assert evicted[0] == ([5, 6, 7] if block_frames == 3 else [5])
    assert len(evicted) == (5 if block_frames == 3 else 13)


def test_each_layer_sees_its_own_beside_sink_and_window(make_model, make_text, roped, monkeypatch):
    caller, policy, seen = ModelCaller(make_model(torch.float64)), memrope(torch.float64), []
    read = SlotPast.read

    def watched(self, layer):
        keys, values = read(self, layer)
        seen.append((layer, keys.clone(), values.clone()))
        return keys, values

    states, _ = streamed(caller, (make_text(dtype=torch.float64),), roped, policy, 6)
    monkeypatch.setattr(SlotPast, "read", watched)
    step(caller, states[-1])
    # two noisy calls, and a last one that only writes what the last layer leaves
    assert [layer for layer, *_ in seen] == [0, 1, 2, 0, 1, 2, 0, 1]
    table = rope_table((3, 4), 2, 3, 12, dtype=torch.float64)
    for layer, keys, values in seen:
        assert keys.shape[1] == values.shape[1] == 12 * TOKENS
        own_keys, own_values = policy.read(states[-1].memory)[0](layer)
        torch.testing.assert_close(keys[:, -2 * TOKENS :], rotate(own_keys, table))
        assert torch.equal(values[:, -2 * TOKENS :], own_values)


@pytest.mark.parametrize("per_position", [False, True])
def test_the_stream_is_plain_until_something_has_left(caller, make_text, config, per_position):
    config, same = replace(config, preset=PRESETS["memrope"]), []
    plain = init(caller, (make_text(),), replace(config, preset=PRESETS["longlive_infinity"]))
    state = init(caller, (make_text(),), config, memory=memrope(torch.float32, per_position=per_position))
    for _ in range(6):
        a, plain = step(caller, plain)
        b, state = step(caller, state)
        same.append(torch.equal(a, b))
    assert same == [True] * 4 + [False] * 2


@pytest.mark.parametrize("cfg", [1.0, 2.0], ids=["one row", "guided"])
@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("cache", [*FORMATS, "mla", "mla-int8"])
def test_with_every_format_it_goes_on_from_a_file_bit_for_bit(
    make_model, make_text, config, tmp_path, cache, per_position, cfg
):
    model, made = make_model(), FORMATS.get(cache)
    if made is None:
        model = MlaModel(MLA_SIZES, LATENTS).requires_grad_(False).eval()
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.25)
        made = MlaFormat.for_model(model, int8=cache == "mla-int8")
    caller, config = ModelCaller(model), replace(config, preset="memrope", sigmas=(1.0, 0.7), cfg=cfg)
    prompt = (make_text(1), make_text(9)) if config.guided else (make_text(1),)
    policy = memrope(torch.float32, per_position=per_position)
    states, _ = streamed(caller, prompt, config, policy, 6, cache=made)
    save(caller, states[-1], tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", caller, config, cache=made, memory=policy)
    for _ in range(2):
        (a, state), (b, back) = step(caller, states[-1]), step(caller, back)
        states.append(state)
        assert torch.equal(a, b) and a.isfinite().all()
    assert torch.equal(states[-1].memory.both, back.memory.both)


def test_a_cut_forgets_it_and_a_recache_begins_it_anew(caller, make_text, config):
    policy, config = memrope(torch.float32), replace(config, preset="memrope")
    states, _ = streamed(caller, (make_text(1),), config, policy, 7)
    assert switch(caller, states[-1], (make_text(2),), "cut").memory is EMPTY
    for mode in ("smooth", "blend"):
        assert switch(caller, states[-1], (make_text(2),), mode).memory is states[-1].memory
    state = switch(caller, states[-1], (make_text(2),), "recache")
    kept = state.memory
    after = recache(caller, state)
    assert state.memory is kept and isinstance(after.memory, Averages)
    # of the nine newest frames 12..20 under the new prompt 17..20 stay, and the two oldest enter neither
    again = prefill(caller, init(caller, (make_text(2),), config, memory=policy), state.tail_BCTHW[:, :, :9])
    assert again.memory is EMPTY and after.cache.frames == (0, 1, 2, 17, 18, 19, 20)
    long, short = after.memory.both.unbind(1)
    assert torch.equal(long, short) and not torch.equal(long, kept.both[:, 0])


def test_given_latents_leave_what_made_ones_do(caller, make_text, config):
    policy, config, parts = memrope(torch.float32), replace(config, preset="memrope"), []
    state = init(caller, (make_text(1),), config, memory=policy)
    for _ in range(7):
        latents, state = step(caller, state)
        parts.append(latents)
    begun = init(caller, (make_text(1),), config, memory=policy)
    again = prefill(caller, begun, torch.cat(parts[:6], 2))
    assert torch.equal(step(caller, replace(again, block=6))[0], parts[6])


def test_an_older_state_is_whole_while_the_window_gives_way(caller, make_text, config):
    """The window's frames move up where the memory takes the place of two of them."""
    states, _ = streamed(
        caller, (make_text(1),), replace(config, preset="memrope"), memrope(torch.float32), 4
    )
    before = {name: tensor.clone() for name, tensor in states[-1].cache.tensors().items()}
    assert states[-1].cache.table[8:] == (8, 9, 10, 11)
    once, _ = step(caller, states[-1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in states[-1].cache.tensors().items())
    again, after = step(caller, states[-1])
    assert torch.equal(once, again) and after.cache.table[10:] == (-1, -1)


def test_what_a_file_cannot_hold_is_refused(config):
    policy, shape = memrope(torch.bfloat16), REQUEST.cache_shape
    shape = replace(shape, grid_height=2, grid_width=3)
    good = torch.zeros(shape.layers, 2, 2, shape.rows, 1, shape.heads, shape.head_dim)
    assert policy.restore({}, shape) is EMPTY
    assert policy.restore({"averages": good}, shape).both is good
    with pytest.raises(ValueError, match="averages of a memory cannot be averages, more"):
        policy.restore({"averages": good, "more": good}, shape)
    for bad in (good[1:], good.bfloat16(), good.expand(-1, -1, -1, -1, 6, -1, -1)):
        with pytest.raises(ValueError, match=r"averages is torch\.\w+ \[.*\], not torch\.float32 \["):
            policy.restore({"averages": bad}, shape)
    positions = replace(policy, per_position=True)
    with pytest.raises(ValueError, match=r"not torch\.bfloat16"):
        positions.restore({"averages": good}, shape)


def test_what_it_cannot_work_with_is_refused(caller, make_text, config):
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"the long average is .*published are 0\.01"):
            memrope(long_share=share)
        with pytest.raises(ValueError, match=r"the short average is "):
            memrope(short_share=share)
    with pytest.raises(ValueError, match=r"preset infinity_rope has ids for 0; take preset memrope"):
        init(caller, (make_text(),), config, memory=memrope(torch.float32))
    other = replace(memrope(torch.float32), frame_tokens=5)
    with pytest.raises(ValueError, match="frames of 5 tokens, the stream's have 6"):
        init(caller, (make_text(),), replace(config, preset="memrope"), memory=other)


@pytest.mark.parametrize("block_frames", [8, 9])
def test_blocks_that_leave_it_no_ids_are_refused_before_the_first(caller, make_text, config, block_frames):
    """The longest block that leaves them has them in every block of a full window."""
    policy, text = memrope(torch.float32), (make_text(),)
    config = replace(config, preset=PRESETS["memrope"])
    with pytest.raises(ValueError, match=rf"block of {block_frames} .*take blocks of 7 or fewer, or set"):
        init(caller, text, replace(config, block_frames=block_frames), memory=policy)
    state = init(caller, text, replace(config, block_frames=7), memory=policy)
    for _ in range(4):
        _, state = step(caller, state)
    assert plan(state.config.positions, state.start_frame, 7, memory_visible=True).memory == (3, 4)


@pytest.mark.parametrize("per_position", [False, True])
def test_a_plan_counts_what_is_kept(caller, make_text, config, per_position):
    config = replace(config, preset="memrope")
    kind, options = POLICIES["memrope"], {"memrope_per_position": per_position}
    policy = kind.build(config, torch.device("cpu"), None, options)
    states, _ = streamed(caller, (make_text(),), config, policy, 5)
    (kept,) = states[-1].memory.tensors().values()
    cost, shape = kind.cost(config, None, options), states[-1].cache.shape
    keys, values = policy.read(states[-1].memory)[0](0)
    assert cost.tokens == shape.memory_tokens == keys.shape[1] == 12
    assert cost.snapshot_bytes(shape, torch.float32) == kept.nbytes
    assert cost.device_bytes(shape, torch.float32) == 2 * kept.nbytes + keys.nbytes + values.nbytes
    planned = plan_stream(replace(REQUEST, stream=replace(REQUEST.stream, preset="memrope"), memory=cost))
    assert planned.memory_bytes == cost.device_bytes(
        replace(REQUEST, memory=cost).cache_shape, REQUEST.stream.dtype
    )


def test_a_block_leaves_room_for_no_third_copy_of_it(make_model, make_text, config):
    """Many layers: what one of them takes on its way is little beside the state."""
    caller = ModelCaller(make_model(num_layers=40))
    config = replace(config, preset="memrope", sigmas=(1.0,))
    policy = memrope(torch.float32, per_position=True)
    states, _ = streamed(caller, (make_text(),), config, policy, 6)
    state, cache = states[-1], states[-1].cache
    with torch.inference_mode(), Watch() as alive:
        after, _ = policy.update(state.memory, cache, cache.frames[3:6])
        assert alive.peak_bytes < 1.5 * after.both.nbytes
        refuse_nan(Result(state.tail_BCTHW, ()), after, state)
    assert alive.peak_bytes < 1.5 * after.both.nbytes


def test_options_are_the_published_ones_unless_they_are_given(config):
    build = POLICIES["memrope"].build
    made = build(config, torch.device("cpu"), None, {})
    assert made == MemRope(TOKENS, torch.float32, 0.01, 0.1, False)
    given = {"memrope_long": 0.05, "memrope_short": 0.2, "memrope_per_position": True}
    assert build(config, torch.device("cpu"), None, given) == MemRope(TOKENS, torch.float32, 0.05, 0.2, True)
    assert {POLICIES["memrope"].preset(name, None) for name in PRESETS} == {"memrope"}

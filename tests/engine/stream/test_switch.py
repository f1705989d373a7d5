"""Prompt switches at block borders: what each keeps, and what the blocks after it are made of."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS, SHOT_APART
from rivulet.model_patches.cache import format as format_module
from rivulet.model_patches.cache.format import call_of, recache_call
from rivulet.model_patches.stream import switch as switch_module
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.state import next_prompt
from rivulet.model_patches.stream.step import init, prefill, recache, rollout, step
from rivulet.model_patches.stream.switch import modes_for, switch
from rivulet.model_patches.stream.timeline import MODES

from ..formats import FORMATS
from ..memory.memories import EMA, learned, memrope


@pytest.fixture
def echo(config):
    """Returns a contract with Echo's positions and two calls a block."""
    return replace(config, preset=PRESETS["echo"], sigmas=(1.0, 0.7))


def run(caller, state, blocks):
    made = list(rollout(caller, state, blocks))
    return torch.cat([latents for latents, _ in made], 2), made[-1][1]


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "shot"])
def test_before_the_first_block_every_mode_begins_with_the_new_text(caller, make_text, echo, mode):
    state = init(caller, (make_text(1),), echo, memory=learned())
    state = switch(caller, state, (make_text(2),), mode)
    fresh = init(caller, (make_text(2),), echo, memory=learned())
    assert torch.equal(run(caller, state, 2)[0], run(caller, fresh, 2)[0])


def test_smooth_changes_the_text_alone(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo, memory=learned()), 5)
    after = switch(caller, state, (make_text(2),), "smooth")
    assert after.cache is state.cache and after.memory is state.memory
    _, other = run(caller, init(caller, (make_text(1),), echo, memory=learned()), 5)
    expected, _ = step(caller, switch(caller, other, (make_text(2),), "smooth"))
    assert torch.equal(step(caller, after)[0], expected)


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_cut_forgets_frames_and_memory(caller, make_text, echo, made):
    _, state = run(caller, init(caller, (make_text(1),), echo, cache=made, memory=learned()), 6)
    after = switch(caller, state, (make_text(2),), "cut")
    assert (after.block, after.start_frame, after.cache.frames, after.memory.current) == (6, 0, (), None)
    got, _ = run(caller, after, 6)
    # a stream that begins at block 6: the same noise, nothing before it
    fresh = replace(init(caller, (make_text(2),), echo, cache=made, memory=learned()), block=6)
    assert torch.equal(got, run(caller, fresh, 6)[0])


def test_a_recache_is_left_to_the_next_step(model, caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo, memory=learned()), 6)
    hook = model.patch_embedding.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    asked = switch(caller, state, (make_text(2),), "recache")
    hook.remove()
    assert asked.must_recache and asked.cache.frames == (0, 1, 2)
    done = recache(caller, asked)
    assert not done.must_recache and recache(caller, done) is done
    assert torch.equal(step(caller, done)[0], step(caller, asked)[0])


@pytest.mark.parametrize("mode", ["recache", "shot"])
@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_file_of_what_is_still_to_be_run_again_goes_on_alike(
    caller, make_text, config, made, mode, tmp_path
):
    """With a sink of several frames, the last of which is the newest that the cache still has."""
    config, path = replace(config, preset="pocket", sigmas=(1.0, 0.7)), tmp_path / "take.safetensors"
    _, state = run(caller, init(caller, (make_text(1),), config, cache=made), 5)
    asked = switch(caller, state, (make_text(2),), mode)
    save(caller, asked, path)
    back = load(path, caller, cache=made)
    assert back.must_recache
    assert torch.equal(run(caller, back, 2)[0], run(caller, asked, 2)[0])


def test_a_recache_takes_the_prompt_that_is_asked_for_last(caller, make_text, echo):
    made = []
    for prompts in ([2], [3, 2]):
        _, state = run(caller, init(caller, (make_text(1),), echo), 6)
        for number, mode in zip(prompts, ("recache", "smooth"), strict=False):
            state = switch(caller, state, (make_text(number),), mode)
        made.append(run(caller, state, 3)[0])
    assert torch.equal(*made)


def test_a_cut_forgets_a_recache(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo), 6)
    asked = switch(caller, state, (make_text(2),), "recache")
    assert not switch(caller, asked, (make_text(3),), "cut").must_recache


def test_a_recache_with_the_same_text_in_one_block_changes_nothing_of_its_keys(caller, make_text, config):
    """A single window block sees what it saw: sink and itself, so it gets the keys it had."""
    config = replace(config, preset=PRESETS["echo"])
    _, state = run(caller, init(caller, (make_text(1),), config), 2)
    before = [tuple(t.clone() for t in state.cache.keys_values(i, (3, 4, 5))) for i in range(3)]
    after = recache(caller, switch(caller, state, (make_text(1),), "recache"))
    for layer, (keys, values) in enumerate(before):
        again = after.cache.keys_values(layer, (3, 4, 5))
        # the same matrix products at the same positions
        torch.testing.assert_close(again[0], keys, rtol=0, atol=2e-5)
        torch.testing.assert_close(again[1], values, rtol=0, atol=2e-5)


def test_a_recache_leaves_the_sink_and_shows_the_window_to_the_new_text(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo), 6)
    before = {f: state.cache.keys_values(1, (f,))[0].clone() for f in state.cache.frames}
    after = recache(caller, switch(caller, state, (make_text(2),), "recache"))
    assert after.cache.frames == state.cache.frames == (0, 1, 2, 12, 13, 14, 15, 16, 17)
    changed = {f: not torch.equal(after.cache.keys_values(1, (f,))[0], before[f]) for f in before}
    assert changed == {f: f > 2 for f in before}
    assert torch.equal(after.tail_BCTHW, state.tail_BCTHW)


def test_a_recache_runs_the_nine_newest_frames_at_the_windows_own_ids():
    call = recache_call(PRESETS["echo"], 21, 3)
    assert call.new == tuple(range(12, 21)) and call.cached == (0, 1, 2) and call.memory_ids == ()
    assert call.ids == (0, 1, 2, *range(12, 21)) and call.query_ids == tuple(range(12, 21))
    assert recache_call(PRESETS["echo"], 6, 3).new == (3, 4, 5)
    assert recache_call(PRESETS["echo"], 3, 3).new == ()


def test_a_recache_begins_the_memory_anew_with_the_window(monkeypatch, caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo, memory=learned()), 7)
    policy, fed = state.policy, []
    update = type(policy.encoder).update

    def watched(self, tokens, keys, values, *rest):
        fed.append((tokens.clone(), keys.shape[1]))
        return update(self, tokens, keys, values, *rest)

    monkeypatch.setattr(type(policy.encoder), "update", watched)
    after = recache(caller, switch(caller, state, (make_text(2),), "recache"))
    size = echo.geometry.frame_tokens
    # reset, one update with the nine frames; then the three that the next block pushes out, as always
    assert [count for _, count in fed] == [9 * size, 3 * size]
    assert torch.equal(fed[0][0], policy.encoder.query_init)
    assert torch.equal(fed[1][0], after.memory.previous)
    assert not torch.equal(after.memory.previous, after.memory.current)


def test_where_ids_count_on_a_recache_shows_the_memory_the_newest_block_began_with(
    monkeypatch, caller, make_text, config
):
    from rivulet.model_patches.cache.core import SlotDraft

    config, policy = replace(config, preset=PRESETS["echo_std"]), learned(turned=True, recaches=False)
    _, state = run(caller, init(caller, (make_text(1),), config, memory=policy), 6)
    fed, shown = [], []
    update, show = type(policy.encoder).update, SlotDraft.set_memory

    def fed_with(self, tokens, keys, values, *rest):
        fed.append((tokens.clone(), values.clone()))
        return update(self, tokens, keys, values, *rest)

    def showing(self, memory):
        shown.append((self.memory_ids, memory))
        show(self, memory)

    monkeypatch.setattr(type(policy.encoder), "update", fed_with)
    monkeypatch.setattr(SlotDraft, "set_memory", showing)
    after = recache(caller, switch(caller, state, (make_text(2),), "recache"))
    # frames 9 to 17 run again beside ids 6 to 8
    assert [ids for ids, _ in shown] == [(6, 7, 8)]
    assert torch.equal(shown[0][1][0], policy.encoder.read(state.memory.previous)[0])
    # the update with frames 6 to 8 had happened; the one with 9 to 11 is made again from before it
    (tokens, values), size = fed[0], config.geometry.frame_tokens
    assert len(fed) == 1 and values.shape[1] == 3 * size
    before = state.memory.previous
    assert torch.equal(tokens, before) and torch.equal(after.memory.previous, before)
    assert not torch.equal(after.memory.current, state.memory.current)


def test_only_where_ids_count_on_a_recache_has_ids_for_the_memory():
    assert recache_call(PRESETS["echo_std"], 21, 3).memory_ids == (9, 10, 11)
    assert recache_call(PRESETS["echo_std"], 12, 3).memory_ids == ()
    assert recache_call(PRESETS["pocket_memory"], 21, 3).memory_ids == ()


def test_a_blend_ends_with_the_new_text(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo), 3)
    after = switch(caller, state, (make_text(2),), "blend", blend_blocks=4)
    old, new = make_text(1), make_text(2)
    for share in (0.25, 0.5, 0.75, 1.0):
        assert after.blend is not None and after.blend.share == share
        between = torch.lerp(old, new, share) if share < 1 else new
        assert torch.equal(next_prompt(caller, after)[0], between)
        expected, _ = step(caller, replace(after, prompt=(between,), blend=None))
        latents, after = step(caller, after)
        assert torch.equal(latents, expected)
    assert after.blend is None and torch.equal(next_prompt(caller, after)[0], new)


def test_a_blend_of_one_block_is_smooth_and_another_switch_ends_it(caller, make_text, echo):
    def begun():
        return run(caller, init(caller, (make_text(1),), echo), 2)[1]

    one, _ = step(caller, switch(caller, begun(), (make_text(2),), "blend", blend_blocks=1))
    smooth, _ = step(caller, switch(caller, begun(), (make_text(2),), "smooth"))
    assert torch.equal(one, smooth)
    _, half = step(caller, switch(caller, begun(), (make_text(2),), "blend", blend_blocks=2))
    assert switch(caller, half, (make_text(3),), "smooth").blend is None
    onward = switch(caller, half, (make_text(3),), "blend", blend_blocks=2)
    torch.testing.assert_close(onward.blend.old[0], make_text(2))  # it was to be whole in the next block


def test_a_blend_between_texts_of_other_lengths_fills_up_with_zeros(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1, tokens=3),), echo), 2)
    after = switch(caller, state, (make_text(2, tokens=5),), "blend", blend_blocks=2)
    short = torch.nn.functional.pad(make_text(1, tokens=3), (0, 0, 0, 2))
    torch.testing.assert_close(next_prompt(caller, after)[0], (short + make_text(2, tokens=5)) / 2)
    step(caller, after)


@pytest.mark.parametrize("blocks", [0, 1], ids=["at once", "a block later"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory", [learned(), EMA, memrope()], ids=["learned", "ema", "memrope"])
def test_a_stream_goes_on_bit_for_bit_from_a_file_after_a_switch(
    caller, make_text, config, tmp_path, mode, memory, blocks
):
    preset = PRESETS[{"learned": "echo", "ema": "reward_forcing"}.get(memory.name, memory.name)]
    config = replace(config, preset=preset, sigmas=(1.0, 0.7), cfg=2.0)
    _, state = run(caller, init(caller, (make_text(1), make_text(9)), config, memory=memory), 5)
    state = switch(caller, state, (make_text(2), make_text(9)), mode)
    for _ in range(blocks):
        _, state = step(caller, state)
    save(caller, state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", caller, config, memory=memory)
    assert torch.equal(run(caller, state, 5)[0], run(caller, back, 5)[0])


@pytest.fixture
def close(monkeypatch):
    """Leaves no id free behind what a shot keeps, as behind latents that were given."""
    for module in (format_module, switch_module):
        monkeypatch.setattr(module, "ids_apart", lambda *_: 0)


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_shot_begins_as_a_stream_does_that_was_given_its_last_frames(caller, make_text, echo, close, made):
    begin, policy = (make_text(1),), learned()
    latents, state = run(caller, init(caller, begin, echo, cache=made, memory=policy), 6)
    after = switch(caller, state, (make_text(2),), "shot")
    assert (after.block, after.start_frame, after.cache.frames, after.memory.current) == (6, 3, (), None)
    assert torch.equal(after.tail_BCTHW, latents[:, :, -3:])
    got, end = run(caller, after, 6)
    assert end.cache.frames[:3] == (0, 1, 2) and end.shot and not end.must_recache
    fresh = prefill(
        caller, init(caller, (make_text(2),), echo, cache=made, memory=policy), latents[:, :, -3:]
    )
    assert torch.equal(got, run(caller, replace(fresh, block=6), 6)[0])


def test_what_a_shot_keeps_stands_ids_apart_while_there_are_free_ones():
    def ids(name, block_frames=3, start=None):
        preset = PRESETS[name]
        return call_of(preset, start or preset.sink_frames, block_frames, shot=True).ids

    first = 3 + SHOT_APART
    for name in (
        "echo",
        "longlive",
        "longlive_infinity",
        "memrope",
        "pocket",
        "pocket_memory",
        "reward_forcing",
    ):
        assert ids(name) == (0, 1, 2, *range(first, first + 3)), name
    assert ids("longlive", start=300)[-1] == 302 + SHOT_APART
    full = {name: ids(name, start=300) for name in ("longlive_infinity", "pocket", "echo")}
    assert full == {name: call_of(PRESETS[name], 300, 3).ids for name in full}  # as in any long stream
    assert ids("infinity_rope") == (0, *range(1 + SHOT_APART, 4 + SHOT_APART))
    with pytest.raises(ValueError, match=r"self_forcing has no place .*: it has no sink.*infinity_rope"):
        ids("self_forcing", start=3)
    with pytest.raises(ValueError, match=r"infinity_rope has no place .*: no id is free"):
        ids("infinity_rope", block_frames=5)


def test_ids_of_a_shot_are_those_that_the_model_gets(monkeypatch, caller, make_text, echo):
    from rivulet.model_patches.cache.core import SlotDraft

    seen, begun = [], SlotDraft.__init__
    monkeypatch.setattr(
        SlotDraft, "__init__", lambda self, c, call: (seen.append(call), begun(self, c, call))[1]
    )
    _, state = run(caller, init(caller, (make_text(1),), echo), 5)
    seen.clear()
    run(caller, switch(caller, state, (make_text(2),), "shot"), 2)
    apart = 3 + SHOT_APART
    assert [(call.cached, call.new, call.ids) for call in seen] == [
        ((), (0, 1, 2), (0, 1, 2)),
        ((0, 1, 2), (3, 4, 5), (0, 1, 2, *range(apart, apart + 3))),
        ((0, 1, 2, 3, 4, 5), (6, 7, 8), (0, 1, 2, *range(apart, apart + 6))),
    ]


def test_a_shot_keeps_the_reference_that_it_is_given(caller, make_text, echo, close):
    _, state = run(caller, init(caller, (make_text(1),), echo), 4)
    picture = torch.randn(1, *state.tail_BCTHW.shape[1:2], 1, *state.tail_BCTHW.shape[3:])
    after = switch(caller, state, (make_text(2),), "shot", reference_BCTHW=picture)
    assert torch.equal(after.tail_BCTHW, picture.expand_as(after.tail_BCTHW))
    fresh = prefill(caller, init(caller, (make_text(2),), echo), after.tail_BCTHW)
    assert torch.equal(run(caller, after, 2)[0], run(caller, replace(fresh, block=4), 2)[0])
    with pytest.raises(ValueError, match="encode the pictures at the stream's size"):
        switch(caller, state, (make_text(2),), "shot", reference_BCTHW=picture[..., :1])


def test_a_recache_within_a_shot_runs_its_window_alone(caller, make_text, echo):
    _, state = run(caller, init(caller, (make_text(1),), echo), 5)
    _, state = run(caller, switch(caller, state, (make_text(2),), "shot"), 2)
    kept = [state.cache.keys_values(1, (frame,))[0].clone() for frame in range(9)]
    after = recache(caller, switch(caller, state, (make_text(3),), "recache"))
    changed = [not torch.equal(after.cache.keys_values(1, (f,))[0], kept[f]) for f in range(9)]
    assert changed == [False] * 3 + [True] * 6


def test_another_prompt_at_the_border_of_a_shot_is_the_one_it_is_kept_under(caller, make_text, echo):
    made = []
    for later in ((), ("smooth",), ("recache",), ("shot",)):
        _, state = run(caller, init(caller, (make_text(1),), echo), 5)
        state = switch(caller, state, (make_text(3 if later else 2),), "shot")
        for mode in later:
            state = switch(caller, state, (make_text(2),), mode)
        made.append(run(caller, state, 2)[0])
    assert all(torch.equal(made[0], each) for each in made[1:])
    assert not switch(caller, state, (make_text(2),), "cut").shot


def test_a_shot_that_has_nothing_to_keep_is_refused(caller, make_text, echo):
    fresh = init(caller, (make_text(1),), echo)
    with pytest.raises(ValueError, match="no block was made yet; take the switch cut"):
        switch(caller, fresh, (make_text(2),), "shot")
    _, state = run(caller, fresh, 2)
    cut = switch(caller, state, (make_text(2),), "cut")
    with pytest.raises(ValueError, match="a cut has just forgotten it"):
        switch(caller, cut, (make_text(2),), "shot")
    own = replace(echo, preset="self_forcing")
    assert modes_for(echo) == tuple(MODES) and set(MODES) - set(modes_for(own)) == {"shot"}
    _, state = run(caller, init(caller, (make_text(1),), own), 1)
    with pytest.raises(ValueError, match="preset self_forcing has no place for them"):
        switch(caller, state, (make_text(2),), "shot")


def test_a_thousand_switches_cost_no_memory(caller, make_text, config):
    state = init(caller, (make_text(1),), replace(config, sigmas=(1.0,)))
    sizes = set()
    for number in range(1000):
        if number % 100 == 0:
            _, state = step(caller, state)
        mode = list(MODES)[number % 4] if number % 100 else "shot"  # which needs frames to keep
        state = switch(caller, state, (make_text(number % 7),), mode)
        sizes.add(state.cache.bytes)
    assert len(sizes) == 1
    assert step(caller, state)[0].isfinite().all()


def test_bad_switches_are_refused(caller, make_text, echo):
    state = init(caller, (make_text(1),), echo)
    with pytest.raises(ValueError, match="no mode 'fade'; there are cut, recache, smooth, blend, shot"):
        switch(caller, state, (make_text(2),), "fade")
    with pytest.raises(ValueError, match="at least 1 block, got 0"):
        switch(caller, state, (make_text(2),), "blend", blend_blocks=0)

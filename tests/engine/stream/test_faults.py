"""Whatever stops a block, wherever: the state is as it was and the block can be made again."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rivulet.model_patches.sampler.noise import KeyedNoise
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch

from ..formats import FORMATS
from .interruptions import Interruption, before_a_block, check_again, check_an_interruption, frozen, same

CASES = [(1, "dense"), (4, "dense"), (1, "int8_exact"), (4, "latent"), (4, "latent_mixed_exact")]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[1]}-{'filling' if case[0] == 1 else 'full'}")
def stopped(request, make_model, make_text, config):
    """Returns the caller of a guided stream before a block, its model's tripwire, and what the block must be.

    What it must be comes from a stream of its own that nothing ever stopped.
    """
    caller = ModelCaller(make_model())
    config, prompt = replace(config, cfg=2.0, sigmas=(1.0, 0.6)), (make_text(1), make_text(2, tokens=3))
    blocks, name = request.param
    streams = [init(caller, prompt, config, cache=FORMATS[name]) for _ in range(2)]
    for _ in range(blocks):
        streams = [step(caller, stream)[1] for stream in streams]
    return before_a_block(caller, streams)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True))
def test_an_interruption_in_any_layer_at_any_call_changes_nothing(stopped, place):
    check_an_interruption(stopped, place)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True))
def test_an_interrupted_recache_is_made_again(stopped, make_text, place):
    """Wherever the block with the recache before it is interrupted."""
    caller, state, wire, _ = stopped
    asked = switch(caller, state, (make_text(5), make_text(6)), "recache")
    wire.set(-1)
    latents, after = step(caller, asked)
    expected, crossings, before = (latents, frozen(after)), wire.crossings, frozen(asked)
    wire.set(int(place * crossings))
    with pytest.raises(Interruption):
        step(caller, asked)
    assert same(frozen(asked), before) and asked.must_recache
    wire.set(-1)
    check_again(caller, asked, expected)


def test_an_interruption_outside_the_layers_changes_nothing(stopped):
    caller, state, _, expected = stopped
    before = frozen(state)

    class Broken(KeyedNoise):
        def draw(self, block, step, start_frame, like_BCTHW):
            if step == 1:
                raise Interruption
            return super().draw(block, step, start_frame, like_BCTHW)

    def attention(q, k, v):
        raise Interruption

    for broken, noise in ((caller, Broken(7)), (ModelCaller(caller.tree, attention=attention), None)):
        with pytest.raises(Interruption):
            step(broken, state, noise=noise)
        assert same(frozen(state), before)
    check_again(caller, state, expected)


def test_an_interrupted_change_of_text_changes_nothing(stopped, make_text):
    caller, state, wire, expected = stopped
    before = frozen(state)
    wire.set(9)
    with pytest.raises(Interruption):
        switch(caller, state, (make_text(5), make_text(6)), "smooth")
    assert same(frozen(state), before)
    wire.set(-1)
    check_again(caller, state, expected)


PLACES = {
    "in a denoising call": ("blocks.1.ffn", 0, "latents and keys and values"),
    "in the keys of the last layer of the clean pass": ("blocks.2.self_attn.k", 2 * 2, "keys"),
    "in the values of the last layer of the clean pass": ("blocks.2.self_attn.v", 2 * 2, "values"),
    "in the middle of the clean pass, for the negative": ("blocks.0.ffn", 2 * 2 + 1, "keys and values"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_block_by_name_and_leaves_the_stream(stopped, place, value):
    caller, state, _, expected = stopped
    before, calls, (name, bad_call, parts) = frozen(state), [], PLACES[place]
    frame_tokens = state.config.geometry.frame_tokens

    def poison(module, args, output):
        if args[0].shape[1] != 3 * frame_tokens:
            return output  # a format asks the layers for their weights
        calls.append(name)
        if len(calls) - 1 == bad_call:
            output[0, 0, 0] = value
        return output

    hook = caller.tree.get_submodule(name).register_forward_hook(poison)
    first = state.start_frame
    words = (
        rf"block {state.block} \(latent frames {first} to {first + 2}\) came out with NaN or infinite "
        rf"numbers in float32 with cache format {state.format.name}, in its {parts}; nothing of it was "
        r"kept .* another seed"
    )
    with pytest.raises(RuntimeError, match=words):
        step(caller, state)
    hook.remove()
    assert same(frozen(state), before)
    check_again(caller, state, expected)


def test_no_room_to_grow_leaves_the_stream(caller, make_text, config, monkeypatch):
    config = replace(config, preset="self_forcing")
    _, state = step(caller, init(caller, (make_text(),), config))
    expected = step(caller, state)[0]
    _, state = step(caller, init(caller, (make_text(),), config))
    before, zeros, calls = frozen(state), torch.zeros, []

    def no_room(*sizes, **options):
        calls.append(sizes)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room")
        return zeros(*sizes, **options)

    monkeypatch.setattr(torch, "zeros", no_room)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        step(caller, state)
    monkeypatch.undo()
    assert same(frozen(state), before)
    assert torch.equal(step(caller, state)[0], expected)

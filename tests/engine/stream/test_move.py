"""A state that is moved away and brought back is the same to the last bit.

Here everything lies on the CPU; `cpu:0` is another name of it, so that all that is moved is moved.
"""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.cache.coded import PlainCodec
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import extend, init, step
from rivulet.model_patches.stream.switch import switch

from ..cache.test_mla import LATENTS, SIZES, MlaModel
from ..formats import FORMATS
from ..memory.memories import EMA, learned, memrope

AWAY, HOME = torch.device("cpu", 0), torch.device("cpu")
MEMORIES = {"off": ("infinity_rope", lambda: OFF), "ema": ("reward_forcing", lambda: EMA)}
MEMORIES |= {"learned": ("pocket_memory", learned), "memrope": ("memrope", memrope)}


def mla_model():
    model = MlaModel(SIZES, LATENTS).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return model


def streamed(model, prompt, config, cache, memory, moved, blocks=5):
    """Latents of a stream's blocks, its state moved away and back before each that `moved` names."""
    caller = ModelCaller(model)
    state, made = init(caller, prompt, config, cache=cache, memory=memory), []
    for block in range(blocks):
        if block in moved:
            before = {name: tensor.clone() for name, tensor in state.cache.tensors().items()}
            state = state.to(AWAY)
            assert state.cache.device == AWAY
            assert all(torch.equal(t, before[name]) for name, t in state.cache.tensors().items())
            scribble(state)
        latents, state = step(caller, state)
        made.append(latents)
        assert state.cache.device == HOME
    return made, state


@torch.inference_mode()
def scribble(state):
    """The workspace holds nothing between two blocks that a block could need."""
    for tensor in state.cache.store.workspace:
        tensor.fill_(torch.nan)


CASES = [
    (cache, memory) for cache in FORMATS for memory in MEMORIES if memory != "ema" or cache in ("dense",)
]


@pytest.mark.parametrize(("cache", "memory"), [*CASES, ("mla", "ema"), ("mla-int8", "off")])
def test_a_stream_goes_on_from_a_state_that_was_away(model, make_text, config, cache, memory):
    preset, policy = MEMORIES[memory]
    if cache.startswith("mla"):
        model = mla_model()
        format = MlaFormat.for_model(model, int8=cache == "mla-int8")
    else:
        format = FORMATS[cache]
    config = replace(config, preset=preset)
    whole, expected = streamed(model, (make_text(1),), config, format, policy(), ())
    made, state = streamed(model, (make_text(1),), config, format, policy(), (0, 2, 3, 4))
    assert all(map(torch.equal, made, whole))
    for one, other in ((state.cache, expected.cache), (state.memory, expected.memory)):
        given, wanted = one.tensors(), other.tensors()
        assert list(given) == list(wanted) and all(torch.equal(given[name], wanted[name]) for name in wanted)


def test_it_can_be_switched_and_extended_where_it_is(caller, make_text, config):
    def made(away):
        state = init(caller, (make_text(1),), config)
        for _ in range(3):
            latents, state = step(caller, state)
        state = switch(caller, state.to(AWAY) if away else state, (make_text(2),), "recache")
        latents, state = step(caller, state)
        return extend(caller, state.to(AWAY) if away else state, latents)

    one, other = made(True), made(False)
    assert torch.equal(one.tail_BCTHW, other.tail_BCTHW)
    assert all(torch.equal(t, other.cache.tensors()[name]) for name, t in one.cache.tensors().items())


def test_what_lies_there_already_is_the_same_state(caller, make_text, config):
    _, state = step(caller, init(caller, (make_text(1),), config))
    assert state.to(HOME) is state


def test_room_is_asked_for_before_it_comes_back(model, make_text, config):
    class Careful(ModelCaller):
        asked = 0

        def reserve(self, count):
            self.asked += 1

    caller = Careful(model)
    _, state = step(caller, init(caller, (make_text(1),), config))
    caller.asked = 0
    _, state = step(caller, state)
    assert caller.asked == 0
    step(caller, state.to(AWAY))
    assert caller.asked == 1


@pytest.mark.parametrize("fault", [MemoryError, KeyboardInterrupt])
def test_what_cannot_be_moved_is_where_it_was(caller, make_text, config, monkeypatch, fault):
    """`latent_mixed_exact` has a codec that fails after others were moved."""
    state = init(caller, (make_text(1),), config, cache=FORMATS["latent_mixed_exact"])
    for _ in range(3):
        _, state = step(caller, state)
    expected, _ = step(caller, state)

    def fail(self, device):
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(PlainCodec, "on", fail)
        with pytest.raises(fault):
            state.to(AWAY)
    assert state.cache.device == HOME
    assert torch.equal(step(caller, state)[0], expected)

"""How often a block asks for a number: on a card each is a wait in which nothing is launched."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout, step
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..formats import FORMATS
from ..memory.memories import EMA, learned
from .test_move import MEMORIES, MlaFormat, mla_model

NUMBERS = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.item,
    Tensor.tolist,
    Tensor.cpu,
    torch.equal,
}


class Asked(TorchFunctionMode):
    """Counts what gives Python the numbers of a tensor."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.times += function in NUMBERS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory", ["off", "learned"])
@pytest.mark.parametrize("cache", [*FORMATS, "mla", "mla-int8"])
def test_a_block_asks_once_and_once_more_where_a_format_reads_weights(
    model, make_text, config, cache, memory
):
    preset, policy = MEMORIES[memory]
    if cache.startswith("mla"):
        model = mla_model()
    format = FORMATS.get(cache) or MlaFormat.for_model(model, int8=cache == "mla-int8")
    caller, config = ModelCaller(model), replace(config, preset=preset)
    state = init(caller, (make_text(1),), config, cache=format, memory=policy())
    *_, (latents, state) = rollout(caller, state, 4)
    times = 2 if cache.startswith(("latent", "mla")) else 1
    with Asked() as asked:
        step(caller, state)
    assert asked.times == times
    with Asked() as asked:
        step(caller, state, begin=InitLatents(latents, 1))
    assert asked.times == times


def test_frames_that_are_folded_ask_no_more(caller, make_text, config):
    state = init(caller, (make_text(1),), replace(config, preset="reward_forcing"), memory=EMA)
    *_, (_, state) = rollout(caller, state, 4)
    with Asked() as asked:
        step(caller, state)
    assert asked.times == 1


def test_what_is_wrong_is_looked_for_only_when_something_is(caller, make_text, config):
    state = init(caller, (make_text(1),), replace(config, preset="pocket_memory"), memory=learned())
    *_, (latents, state) = rollout(caller, state, 4)
    latents = latents.clone()
    latents[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the given latents hold NaN"):
        step(caller, state, begin=InitLatents(latents, 1))
    assert step(caller, state)[0].isfinite().all()


@pytest.mark.parametrize("cache", ["latent", "mla"])
def test_weights_that_changed_in_any_layer_are_read_before_the_block(model, make_text, config, cache):
    model = mla_model() if cache == "mla" else model
    format = FORMATS.get(cache) or MlaFormat.for_model(model)
    caller = ModelCaller(model)
    state = init(caller, (make_text(1),), config, cache=format)
    *_, (_, state) = rollout(caller, state, 3)
    last = model.blocks[-1].self_attn
    (last.k_up if cache == "mla" else last.k).weight.mul_(1.5)
    step(caller, state)
    codec = state.cache.store.codecs[-1]
    fresh = init(caller, (make_text(1),), config, cache=format).cache.store.codecs[-1]
    with torch.inference_mode():
        fresh.read_weights()
    assert torch.equal(codec.up.key, fresh.up.key) and codec.is_current()

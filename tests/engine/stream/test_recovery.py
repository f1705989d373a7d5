"""A card that is full anywhere: the stream goes on with the same numbers, or ends with a sentence."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import Exact
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.recovery import PASS
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch

from ..conftest import SIZES
from ..formats import FORMATS, GROUP
from ..memory.memories import learned
from .full_runs import Now, at, numbers, operations, same
from .videos import GEOMETRY

CONFIG = StreamConfig(GEOMETRY, sigmas=(1.0, 0.5), seed=7)
LATENTS = MlaSizes(6, 10, RopeLayout(4, (1.0, 0.3), (0.7,), (0.9,)))


# cache format, memory, layers, and of how many operations one is tried: all of the first case's
CASES = {
    "dense": (DENSE, OFF, "infinity_rope", 1),
    "int8, exact frames": (FORMATS["int8_exact"], OFF, "infinity_rope", 29),
    "latent, a layer of each kind": (FORMATS["latent_mixed_exact"], OFF, "infinity_rope", 29),
    "mla": (MlaFormat(LATENTS.kv_latent, LATENTS.rope.turned), EmaSink(keep=0.9), "reward_forcing", 29),
    "int8 under a sink that takes in": (
        Int8Format(GROUP, Exact(sink=3)),
        EmaSink(keep=0.9),
        "reward_forcing",
        29,
    ),
    "dense beside a learned memory": (DENSE, learned(), "echo", 29),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recached", [False, True], ids=["block", "block behind a recache"])
def test_a_block_comes_out_the_same_wherever_the_card_is_full(case, recached, make_model, make_text, config):
    cache, memory, preset, every = CASES[case]
    layers = 1 if every == 1 else SIZES.num_layers
    model = make_model(num_layers=layers)
    if case == "mla":
        model = seeded_mla()
    caller = ModelCaller(model)
    sigmas = config.sigmas[: 1 if every == 1 else 3]
    config = replace(config, preset=preset, sigmas=sigmas)
    state = init(caller, (make_text(),), config, cache=cache, memory=memory)
    for _ in range(4):
        _, state = step(caller, state)
    if recached:
        every, state = 4 * every, switch(caller, state, (make_text(3),), "recache")
    latents, after = step(caller, state)
    expected, tried = numbers(after), 0
    for number in range(0, operations(lambda: step(caller, state)), every):
        now = Now(caller, state)
        with at(number) as card:
            latents_again, after = now.recovery.attempt(PASS, lambda: step(caller, now.state))  # noqa: B023
        tried += card.raised
        assert torch.equal(latents_again, latents) and same(numbers(after), expected), number
        assert len(now.sentences) == card.raised
    assert tried * every > 0.9 * number


def seeded_mla():
    generator = torch.Generator().manual_seed(1)
    model = MlaModel(SIZES, LATENTS).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
    return model

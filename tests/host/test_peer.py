"""Latents against the host's own autoregressive sampler, to the last bit."""

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.engine.host_noise import HostNoise

SEED = 77
SIDE = 64  # pixels


@pytest.fixture(scope="module")
def peer(load, prompt):
    """Returns a function that runs the host's own graph: (latents, noise of the clip, sigmas)."""
    from comfy_extras.nodes_ar_video import EmptyARVideoLatent, SamplerARVideo
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        BasicScheduler,
        RandomNoise,
        SamplerCustomAdvanced,
    )

    def run(block_frames: int, length: int, steps: int = 4):
        model = load("causal")
        latent = EmptyARVideoLatent.execute(SIDE, SIDE, length, 1).result[0]
        sampler = SamplerARVideo.execute(block_frames).result[0]
        sigmas = BasicScheduler.execute(model, "simple", steps, 1.0).result[0]
        noise = RandomNoise.execute(SEED).result[0]
        guider = BasicGuider.execute(model, prompt(0)).result[0]
        out = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).result[0]
        return out["samples"], noise.generate_noise(latent), sigmas

    return run


def config_for(sigmas, block_frames, **more):
    levels = tuple(sigmas[:-1].tolist())
    return StreamConfig(Geometry(SIDE, SIDE), "self_forcing", block_frames, levels, seed=SEED, **more)


@pytest.mark.parametrize("checkpoint", ["plain", "causal"])
@pytest.mark.parametrize(("block_frames", "length"), [(1, 17), (3, 33)], ids=["blocks of 1", "blocks of 3"])
def test_latents_equal_the_hosts_to_the_last_bit(
    peer, load, prompt, stream, checkpoint, block_frames, length
):
    theirs, noise, sigmas = peer(block_frames, length)
    ours, _ = stream(
        load(checkpoint),
        prompt(0),
        prompt(1),
        config_for(sigmas, block_frames),
        HostNoise(SEED, noise),
        theirs.shape[2] // block_frames,
        like_host=True,
    )
    assert ours.shape == theirs.shape and theirs.std() > 0.1
    assert torch.equal(ours, theirs), f"max difference {(ours - theirs).abs().max():.3g}"


def test_its_own_rounding_stays_close_to_the_hosts(peer, load, prompt, stream):
    theirs, noise, sigmas = peer(3, 33)
    ours, _ = stream(load("plain"), prompt(0), prompt(1), config_for(sigmas, 3), HostNoise(SEED, noise), 3)
    assert 0 < (ours - theirs).abs().max() < 1e-2 * theirs.abs().max()


@pytest.mark.parametrize(
    "begins", [{}, {"call": 1}, {"call": 1, "level": 0.9}], ids=["nothing", "latents", "latents at a level"]
)
def test_both_callers_make_the_same_bits(load, prompt, begins):
    """On the same layers: other copies of the weights lie otherwise in memory, and sums round otherwise."""
    from rivulet.model_patches.sampler.denoise import InitLatents
    from rivulet.model_patches.stream.model_caller import ModelCaller
    from rivulet.model_patches.stream.step import init, prefill, step
    from rivulet.model_patches.stream.switch import switch
    from rivulet.nodes.host.caller import HostCaller, HostPrompt
    from rivulet.nodes.host.past import host_attention
    from rivulet.nodes.host.tree import HostTree

    config = StreamConfig(Geometry(SIDE, SIDE), "infinity_rope", 3, (1.0, 5 / 6, 0.5), seed=SEED)
    texts = [prompt(seed) for seed in range(2)]
    first = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    callers = [
        (
            ModelCaller(HostTree(load("plain").model.diffusion_model), attention=host_attention({})),
            [(text[0][0],) for text in texts],
        ),
        (HostCaller(load("plain")), [HostPrompt(text) for text in texts]),
    ]
    made = []
    for caller, prompts in callers:
        state, parts = prefill(caller, init(caller, prompts[0], config), first), []
        for block in range(6):
            if block == 3:
                state = switch(caller, state, prompts[1], "recache")
            begin = InitLatents(first[:, :, :3], **begins) if begins else None
            latents, state = step(caller, state, begin=begin)
            parts.append(latents)
        made.append((torch.cat(parts, 2), state.cache.tensors()["kv"]))
    (ours, our_keys), (hosts, host_keys) = made
    assert ours.std() > 0.1 and torch.equal(ours, hosts) and torch.equal(our_keys, host_keys)

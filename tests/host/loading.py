"""What tests of loaded checkpoints share: the loader's usual inputs, and streams to compare."""

from __future__ import annotations

import torch
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.step import init, rollout
from rivulet.tests.host.streams import HostRun

FAST = {"lora_file": "none", "lora_strength": 1.0, "weight_dtype": "default", "weights": "as released"}
REST = {**FAST, "recipe": "as recognised", "rope_bands": "as the file says", "fused_order": "per head"}


def streamed(model, text, config, blocks=3, cache=None):
    """(latents, state) of a MODEL with its memory, as Stream Video makes them."""
    from rivulet.nodes.memory import memory_of
    from rivulet.nodes.small_cache import CacheChoice

    form = (cache or CacheChoice("dense")).format_for(config, model.get_model_object("diffusion_model"))
    policy = memory_of(model).policy_for(config, model.load_device)
    run = HostRun(model, text, [], config, cache=form, memory=policy)
    return make_blocks(run, run.begin(), blocks)


def make_blocks(run, state, count):
    """So many more blocks: (their latents in the VAE's units, the state after them)."""
    parts = []
    for _ in range(count):
        latents, state = run.step(state)
        parts.append(latents)
    return torch.cat(parts, 2), state


def own_stream(model, text, config, host, blocks=3):
    """The engine's own stream of the model it was written from, in the VAE's units."""
    caller = ModelCaller(model)
    state = init(caller, texts(text[0][0]), config)
    own = [latents for latents, _ in rollout(caller, state, blocks)]
    return host.model.process_latent_out(torch.cat(own, 2))


def close(a, b, share=1e-4):
    return bool((a - b).abs().max() <= share * b.abs().max())

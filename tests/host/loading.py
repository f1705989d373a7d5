"""What tests of loaded checkpoints share: the loader's usual inputs, and streams to compare."""

from __future__ import annotations

import torch

FAST = {"lora_file": "none", "lora_strength": 1.0, "weight_dtype": "default", "weights": "as released"}
REST = {**FAST, "recipe": "as recognised", "rope_bands": "as the file says", "fused_order": "per head"}


def streamed(model, text, config, blocks=3, cache=None):
    """(latents, state) of a MODEL with its memory, as Stream Video makes them."""
    from rivulet.nodes.host.stream import HostStream
    from rivulet.nodes.memory import of
    from rivulet.nodes.small_cache import CacheChoice

    kept = (cache or CacheChoice("dense")).format_for(config, model.get_model_object("diffusion_model"))
    policy = of(model).policy_for(config, model.load_device)
    made = HostStream(model, text, [], config, cache=kept, memory=policy)
    state, parts = made.begin(), []
    for _ in range(blocks):
        latents, state = made.step(state)
        parts.append(latents)
    return torch.cat(parts, 2), state


def own_stream(model, text, config, host, blocks=3):
    """The engine's own stream of the model it was written from, in the VAE's units."""
    from rivulet.model_patches.stream import step as engine

    state, parts = engine.init(model, text[0][0], config), []
    for _ in range(blocks):
        latents, state = engine.step(model, state)
        parts.append(latents)
    return host.model.process_latent_out(torch.cat(parts, 2))


def close(a, b, share=1e-4):
    return bool((a - b).abs().max() <= share * b.abs().max())

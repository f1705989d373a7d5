"""Files as Echo-Infinity's code writes them: its keys, nesting and shapes, filled with random numbers.

No published file could be read here. Names are written out, so that no layer of ours can lend them its own.
"""

import json

import torch
from safetensors.torch import save_file

LINEARS = [f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in "qkvo"] + ["ffn.0", "ffn.2"]


def encoder_shapes(dim, tokens, normed=False):
    """What is under `query_memory_encoder.`"""
    shapes = {"query_init": (1, tokens, dim)}
    for layer in ("layers.0.", "layers.1."):
        for name in ("q", "o"):
            shapes |= {f"{layer}{name}.weight": (dim, dim), f"{layer}{name}.bias": (dim,)}
        shapes |= {f"{layer}{name}.weight": (dim,) for name in ("norm_q", "norm1", "norm2")}
        shapes |= {f"{layer}ffn.0.weight": (4 * dim, dim), f"{layer}ffn.0.bias": (4 * dim,)}
        shapes |= {f"{layer}ffn.2.weight": (dim, 4 * dim), f"{layer}ffn.2.bias": (dim,)}
    for name in ("connector_proj.0", "connector_proj.2", "to_k", "to_v"):
        shapes |= {f"{name}.weight": (dim, dim), f"{name}.bias": (dim,)}
    shapes |= {"connector_proj.3.weight": (dim,)}
    shapes |= {"gate_linear.weight": (dim, 2 * dim), "gate_linear.bias": (dim,)}
    return shapes | ({"norm_k_out.weight": (dim,)} if normed else {})


def lora_shapes(dim, ffn_dim, layers, rank):
    """A and B of ten linear layers in each block, by PEFT's names."""
    shapes = {}
    for layer in (f"blocks.{index}.{name}" for index in range(layers) for name in LINEARS):
        wide = {"ffn.0": (dim, ffn_dim), "ffn.2": (ffn_dim, dim)}
        into, out = wide.get(layer.split(".", 2)[2], (dim, dim))
        shapes[f"base_model.model.{layer}.lora_A.weight"] = (rank, into)
        shapes[f"base_model.model.{layer}.lora_B.weight"] = (out, rank)
    return shapes


def filled(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: (0.2 * torch.randn(s, generator=generator)).to(dtype) for name, s in shapes.items()}


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def base(encoder, weights, wrapper="_fsdp_wrapped_module."):
    """The first file: the encoder in the generator, another one in its average, and a critic."""
    inner = under("model." + wrapper + "query_memory_encoder.", encoder)
    other = {name: torch.zeros_like(tensor) for name, tensor in inner.items()}
    model = under("model." + wrapper, weights)
    return {"generator": inner | model, "generator_ema": other | model, "critic": model, "step": 400}


def second(encoder, lora):
    """The second file: the LoRA of the generator and of the critic, and the encoder beside them."""
    return {"generator_lora": lora, "critic_lora": lora, "query_memory_encoder": encoder, "step": 3000}


def save(path, stored, **about):
    """Writes dicts with torch.save, flat tensors as safetensors with the metadata entry `memory`."""
    if path.suffix == ".safetensors":
        save_file(stored, path, {"memory": json.dumps(about)} if about else None)
    else:
        torch.save(stored, path)
    return path

"""A memory's file against the host's own model, and its LoRA through the host's own patches."""

import torch
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.memory.load import load_memory
from rivulet.tests.engine.memory.echo_files import encoder_shapes, filled, lora_shapes, save, second

DIM, FFN, LAYERS, RANK = 128, 256, 2, 4  # of the tiny model in conftest


def test_the_hosts_model_takes_the_file_and_patches_as_the_engine_merges(load, models, tmp_path):
    import comfy.lora
    from rivulet.nodes.host.lora import patches_of, weight_key

    encoder = filled(encoder_shapes(DIM, 3 * 2 * 2), seed=1)
    lora = filled(lora_shapes(DIM, FFN, LAYERS, RANK), seed=2)
    path = save(tmp_path / "memory.pt", second(encoder, lora))
    patcher = load("plain").clone()
    got = load_memory(path, patcher.model.diffusion_model, grid=(3, 2, 2))
    assert got.coverage == (20, 20) and got.encoder.config.num_heads == 2

    patches = patches_of(got.lora)
    assert set(patcher.add_patches(patches)) == set(patches)
    own = open_checkpoint(models / "plain.safetensors").load(torch.float32)
    merged = got.lora.merge(own)
    for layer, (a, b, _) in got.lora.layers.items():
        key, name = weight_key(layer), f"{layer}.weight"
        weight = own.get_parameter(name).float().clone()
        hosts = comfy.lora.calculate_weight(patcher.patches[key], weight, key)
        # both add RANK products in float32, in an order of their own
        room = 2 * (RANK + 2) * 2.0**-24 * (own.get_parameter(name).abs() + b.abs() @ a.abs())
        assert ((hosts - merged.get_parameter(name)).abs() <= room).all(), name

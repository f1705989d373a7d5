"""A pocket of random weights, small enough for a test, and a memory file that fits it."""

import json

import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.pocket import text
from rivulet.pocket.models import Pocket, PocketRecipe
from rivulet.tests.engine.memory.echo_files import encoder_shapes, filled, lora_shapes, under
from safetensors.torch import save_file

SIZE, DIM, FFN, FRAMES = 32, 128, 128, 3  # pixels, channels, channels, latent frames of the memory
LAYERS = 2  # the keys of the first one do not know the text
GRID = SIZE // 16  # tokens each way
RECIPE = PocketRecipe(SIZE, 16, "pocket", 3, (1000.0, 500.0), 5.0, 1.0, "random")


def small_pocket() -> Pocket:
    """Weights large enough for text and memory to show in the pictures."""
    torch.manual_seed(0)
    dit = WanModel(WanConfig(DIM, FFN, LAYERS, text_dim=text.TEXT_DIM)).eval().requires_grad_(False)
    for parameter in dit.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.1)
    return Pocket(dit, WanVAE(4).eval().requires_grad_(False), RECIPE, text.encode, text.no_text)


def write_memory(path, lora=True, **about):
    """An encoder and, as it was trained with one, a LoRA."""
    tensors = under("query_memory_encoder.", filled(encoder_shapes(DIM, FRAMES * GRID * GRID)))
    if lora:
        tensors |= under("generator_lora.", filled(lora_shapes(DIM, FFN, LAYERS, rank=2), seed=1))
    entry = {"frames": FRAMES, "grid_height": GRID, "grid_width": GRID, "num_heads": 1}
    entry |= {"preset": "pocket_memory"} | about
    save_file(tensors, path, {"memory": json.dumps(entry)})
    return path

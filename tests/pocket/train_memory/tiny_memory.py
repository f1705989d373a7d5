"""A tiny model with a memory to teach, and a lesson of noise."""

import json

import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.step import step
from rivulet.pocket.train_memory.lessons import MEMORY
from rivulet.pocket.train_memory.memory_rollout import Lesson

DIM, HEADS, GRID = 24, 2, 2
TINY_CONFIG = json.dumps({"transformer": {"num_heads": 2}})
ROWS, BLOCKS, FRAMES = 2, 7, 3


def tiny(seed=3, dtype=torch.float32):
    """Returns a random model and a random encoder for its 2 x 2 tokens."""
    torch.manual_seed(seed)
    config = WanConfig(dim=DIM, ffn_dim=32, num_layers=2, num_heads=HEADS, text_dim=64)
    dit, encoder = WanModel(config), MemoryEncoder(EncoderConfig(DIM, HEADS, 3, GRID, GRID))
    for parameter in (*dit.parameters(), *encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return dit.to(dtype).requires_grad_(False), encoder.to(dtype)


def lesson_of(dtype, blocks=BLOCKS, graded=(), positions=MEMORY):
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(ROWS, 16, FRAMES * blocks, 4, 4, generator=generator).to(dtype)
    texts = tuple(torch.randn(ROWS, 6, 64, generator=generator).to(dtype) for _ in range(blocks))
    return Lesson(clean, clean, texts, graded, positions)


def noisy_calls(caller, state, monkeypatch):
    """Returns what the noisy calls of a stream's next block were given and what they gave."""
    calls, whole = [], model_caller.forward

    def forward(model, x_BCTHW, *more):
        calls.append((x_BCTHW.clone(), whole(model, x_BCTHW, *more)))
        return calls[-1][1]

    monkeypatch.setattr(model_caller, "forward", forward)
    step(caller, state)
    monkeypatch.undo()
    return calls

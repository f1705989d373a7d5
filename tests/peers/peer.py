"""One family's released code beside the engine: where it lies, how it is run, what both are given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints.published import PublishedRecipe
from rivulet.model_patches.checkpoints.recipes import find_recipe
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.sampler.noise import block_noise
from safetensors.torch import load_file, save_file
from torch import Tensor

SIZES = WanConfig(dim=256, ffn_dim=192, num_layers=2, text_dim=64)  # two heads of the true 128 channels
GEOMETRY = Geometry(48, 32)  # 3 x 2 tokens a latent frame
TEXT_TOKENS, WORDS = 512, 9  # their text is padded with zeros, which attention sees
SEED = 5
MODELS = ("wan.modules.model", "wan.modules.causal_model")
ABSENT = (
    *("einops", "demo_utils", "demo_utils.memory", "utils.memory"),
    *("wan.modules.t5", "wan.modules.tokenizers", "wan.modules.vae"),
)


@dataclass(frozen=True, slots=True)
class Peer:
    """How a family's checkout is run."""

    name: str  # of the folder
    recipe_name: str
    blocks: int
    positions: str = ""  # the preset that is its code's; left out: the recipe's own
    configs: tuple[str, ...] = ()
    script: str = "released.py"
    pipeline: str = "pipeline.causal_inference:CausalInferencePipeline"
    models: tuple[str, ...] = MODELS
    bare: tuple[str, ...] = ("wan", "wan.modules", "pipeline", "utils")  # packages without their __init__
    absent: tuple[str, ...] = ABSENT
    prompt: str = ""  # as a pipeline is asked that reads prompts and their lengths out of one line
    words: tuple[str, ...] = ("one",)  # prompts, in their order
    switch_block: int = 0  # whose prompt is the second
    calls: int = 0  # that make a block; left out: as many as the recipe has levels
    own_levels: bool = False  # its scheduler's levels or timesteps are others than a stream's
    memory: str = ""  # left out: the recipe's own
    memory_options: tuple[tuple[str, bool | float], ...] = ()
    kwargs: tuple[tuple[str, bool | float], ...] = ()  # of the model, over those of the configuration files
    anew: bool = False  # it runs the past anew before every block, instead of keeping its keys and values

    @property
    def recipe(self) -> PublishedRecipe:
        """The record of the engine."""
        return find_recipe(self.recipe_name)

    @property
    def preset(self) -> str:
        """Positions that are the code's."""
        return self.positions or self.recipe.preset

    @property
    def policy(self) -> str:
        """The memory that is its code's."""
        return self.memory or self.recipe.memory

    def calls_of(self, block: int) -> int:
        """Calls that make a block."""
        first = self.recipe.first_sigmas if block == 0 else ()
        return self.calls or len(first or self.recipe.sigmas)

    def first_call(self, block: int) -> int:
        """Index of a block's first call; each block before has one more, at timestep 0."""
        return sum(self.calls_of(before) + 1 for before in range(block))

    def words_of(self, block: int) -> str:
        """The prompt of a block."""
        return self.words[-1] if self.switch_block and block >= self.switch_block else self.words[0]


def weights(seed: int = 3) -> dict[str, Tensor]:
    """Random weights under which signals keep their size and every path matters, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, value in WanModel(SIZES).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if "modulation" in key:
            made[key] = 0.5 * noise
        elif value.ndim == 1:
            made[key] = 0.2 * noise + float("norm" in key and key.endswith("weight"))
        else:
            made[key] = noise * value[0].numel() ** -0.5
    return made


def text(words: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The encoded prompt [1, L, E]."""
    generator = torch.Generator().manual_seed(sum(words.encode()))
    made = torch.zeros(1, TEXT_TOKENS, SIZES.text_dim)
    made[:, :WORDS] = torch.randn(WORDS, SIZES.text_dim, generator=generator)
    return made.to(dtype)


def noise(blocks: int, calls: int, frames: int) -> Tensor:
    """What the engine draws: [blocks, calls, T, C, H, W]."""
    shape = GEOMETRY.latent_shape(frames)
    drawn = [[block_noise(SEED, b, c, shape)[0].transpose(0, 1) for c in range(calls)] for b in range(blocks)]
    return torch.stack([torch.stack(calls) for calls in drawn])


def run(peer: Peer, checkout: Path, folder: Path, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """What `released.py` writes down of one run in that dtype. folder: a new one."""
    folder.mkdir()
    known = {f"text.{words}": text(words) for words in peer.words}
    held = {f"weights.{key}": value for key, value in weights().items()}
    calls = [peer.calls_of(block) for block in range(peer.blocks)]
    drawn = noise(peer.blocks, max(calls), peer.recipe.block_frames)
    save_file({**held, **known, "noise": drawn}, folder / "given.safetensors")
    job = {
        "checkout": str(checkout),
        **{key: getattr(peer, key) for key in ("pipeline", "models", "bare", "absent")},
        **{"configs": peer.configs, "words": peer.words, "dtype": str(dtype).removeprefix("torch.")},
        "calls": calls,
        "kwargs": dict(peer.kwargs),
        "prompt": peer.prompt or peer.words[0],
        "switch_frame": 0 if peer.prompt else peer.switch_block * peer.recipe.block_frames,
        "sizes": {
            **{key: getattr(SIZES, key) for key in ("dim", "ffn_dim", "num_layers", "num_heads", "text_dim")},
            "text_len": TEXT_TOKENS,
        },
        "frame_tokens": GEOMETRY.frame_tokens,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name(peer.script)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{checkout} could not be run in {dtype}: {done.stderr[-3000:]}")
    return load_file(folder / "made.safetensors")

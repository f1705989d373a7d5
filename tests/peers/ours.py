"""The engine's own run of what a family's released code was given, call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from rivulet.model_patches.arch.parts import embed_time
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.attention.forward import forward
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.checkpoints.published import PublishedRecipe
from rivulet.model_patches.memory.policies import find_policy
from rivulet.model_patches.memory.policy import MemoryPolicy
from rivulet.model_patches.sampler.noise import KeyedNoise
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.state import StreamState
from rivulet.model_patches.stream.step import init, prefill, step
from rivulet.model_patches.stream.switch import switch
from rivulet.tests.bench.rolling_sink import RollingSink, positions
from rivulet.tests.engine.checkpoints.published_files import BY_NAME
from rivulet.tests.peers.peer import GEOMETRY, SEED, SIZES, Peer, text, weights
from torch import Tensor

EXPERIMENTS = {"rolling_sink": positions(21)}  # of benches alone, by the name of memory and positions


@dataclass(frozen=True, slots=True)
class Levels:
    """Noise levels of a block's calls and the timesteps they are told to the model as."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    first: Levels | None = None  # of the first block, where it has others

    def told(self, sigmas: Sequence[float]) -> tuple[float, ...]:
        """Timesteps of a block that has these noise levels; () for none."""
        own = next((each for each in (self, self.first) if each and each.sigmas == tuple(sigmas)), None)
        assert own or not sigmas, f"no block has the levels {sigmas}"
        return own.timesteps if own else ()


def recipes_levels(recipe: PublishedRecipe) -> Levels:
    """Those a stream runs the recipe with."""
    all_, first = (
        Levels(sigmas, tuple(1000 * sigma for sigma in sigmas))
        for sigmas in (recipe.sigmas, recipe.first_sigmas)
    )
    return replace(all_, first=first) if recipe.first_sigmas else all_


def released_levels(peer: Peer, theirs: Mapping[str, Tensor]) -> Levels:
    """Those of the released code; its scheduler takes the level nearest to a timestep."""
    first, later = (_levels_of(peer, theirs, block) for block in (0, 1))
    return replace(later, first=first) if peer.recipe.first_sigmas else later


def _levels_of(peer: Peer, theirs: Mapping[str, Tensor], block: int) -> Levels:
    start = peer.first_call(block)
    told = theirs["timestep"][start : start + peer.calls_of(block), 0, 0].double()
    nearest = (theirs["timesteps"].double() - told[:, None]).abs().argmin(1)
    return Levels(tuple(theirs["sigmas"].double()[nearest].tolist()), tuple(told.tolist()))


@dataclass(frozen=True, slots=True)
class At:
    """The stream's own noise, of a given block."""

    block: int

    def draw(self, block: int, step: int, start_frame: int, like_BCTHW: Tensor) -> Tensor:
        return KeyedNoise(SEED).draw(self.block, step, start_frame, like_BCTHW)


@dataclass(frozen=True, slots=True)
class Run:
    """What came out."""

    x: Tensor  # [calls, 1, C, T, H, W], what each call was given
    flow: Tensor  # what it gave
    blocks: list[Tensor]  # clean latents
    sink: Tensor  # [layers, 2, 1, L, N, D] of the sink before the last block: keys before RoPE, and values
    memory: Tensor  # the same of the memory that the last block sees


def model_of(peer: Peer, folder: Path, dtype: torch.dtype) -> WanModel:
    """The family's file, written as it is published and read by the engine's loader."""
    made = WanModel(SIZES).requires_grad_(False).eval()
    made.load_state_dict(weights())
    path = BY_NAME[peer.recipe_name].write(folder, made)
    return open_checkpoint(path, prefer=peer.recipe.copy).load(dtype)


def run(peer: Peer, folder: Path, dtype: torch.dtype, levels: Levels, preset: str) -> Run:
    """As many blocks as the peer makes, under its recipe but for levels and preset."""
    recipe = peer.recipe
    first = levels.first.sigmas if levels.first else ()
    config = StreamConfig(
        *(GEOMETRY, EXPERIMENTS.get(preset, preset), recipe.block_frames, levels.sigmas),
        **{"seed": SEED, "dtype": dtype, "first_sigmas": first},
    )
    seen: list[tuple[Tensor, Tensor]] = []

    def recorded(dit, x_BCTHW, *rest):
        flow_BCTHW = forward(dit, x_BCTHW, *rest)
        seen.append((x_BCTHW.clone(), flow_BCTHW.clone()))
        return flow_BCTHW

    def told(dit, sigmas, dtype, device):
        at = torch.tensor([[*levels.told(sigmas), 0.0]], dtype=torch.float64, device=device)
        return list(zip(*(vectors.split(1, 1) for vectors in embed_time(dit, at, dtype)), strict=True))

    caller = ModelCaller(model_of(peer, folder, dtype))
    with mock.patch.multiple(model_caller, forward=recorded, times_of=told):
        made = _blocks(peer, caller, config)
    xs, flows = zip(*seen, strict=True)
    return Run(torch.stack(xs), torch.stack(flows), *made)


def _blocks(peer: Peer, caller: ModelCaller, config: StreamConfig) -> tuple[list[Tensor], Tensor, Tensor]:
    """(clean latents of every block, the sink before the last, the memory that it sees)."""
    words, memory = peer.words_of(0), _policy(peer, config, caller.device)
    begun = state = init(caller, (text(words, config.dtype),), config, memory=memory)
    blocks, sink, shown = [], torch.zeros(0), torch.zeros(0)
    for block in range(peer.blocks):
        if peer.words_of(block) != words:
            words = peer.words_of(block)
            state = switch(caller, state, (text(words, config.dtype),), peer.recipe.switch)
        if peer.anew and block:
            made = torch.cat(blocks, 2)
            state = prefill(caller, replace(begun, cache=begun.cache.retain(())), past_of(made))
        if block == peer.blocks - 1:
            sink, shown = _sink(state), _memory(state)
        x0_BCTHW, state = step(caller, state, noise=At(block))
        blocks.append(x0_BCTHW)
    return blocks, sink, shown


def _policy(peer: Peer, config: StreamConfig, device: torch.device) -> MemoryPolicy:
    if peer.policy in EXPERIMENTS:
        return RollingSink(config.positions.memory_frames, GEOMETRY.frame_tokens)
    return find_policy(peer.policy).build(config, device, None, dict(peer.memory_options))


def past_of(made_BCTHW: Tensor) -> Tensor:
    """What Krea's server looks back on where it keeps its first frame: that, and the last two."""
    return torch.cat([made_BCTHW[:, :, :1], made_BCTHW[:, :, -2:]], 2)


def _sink(state: StreamState) -> Tensor:
    frames = tuple(range(min(state.config.positions.sink_frames, len(state.cache.frames))))
    if not frames:
        return torch.zeros(0)
    layers = range(state.cache.shape.layers)
    return torch.stack([torch.stack(state.cache.keys_values(layer, frames)) for layer in layers])


def _memory(state: StreamState) -> Tensor:
    _, seen = state.policy.read(state.memory)
    if not callable(seen):
        return torch.zeros(0)
    return torch.stack([torch.stack(seen(layer)) for layer in range(state.cache.shape.layers)])

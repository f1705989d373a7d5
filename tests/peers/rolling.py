"""The engine's run of blocks that are denoised together, and what the released code made of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from rivulet.model_patches.arch.parts import embed_time
from rivulet.model_patches.attention.forward import forward
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.peers import ours, peer
from rivulet.tests.peers.ours import Levels
from rivulet.tests.peers.peer import GEOMETRY, SEED, Peer, text
from torch import Tensor

BLOCKS = 15  # of which theirs takes the last ones through windows that shrink; its cache rolls at the ninth
PEERS = tuple(
    Peer(
        *(folder, name, BLOCKS),
        configs=("configs/default_config.yaml", "configs/rolling_forcing_dmd.yaml"),
        script="rolled.py",
        pipeline="pipeline.rolling_forcing_inference:CausalInferencePipeline",
    )
    for folder, name in (
        ("rolling_forcing", "rolling_forcing"),
        ("causal_forcing/long_video", "causal_forcing_longvideo"),
    )
)


@dataclass(frozen=True, slots=True)
class Side:
    """What one side made in one dtype."""

    inputs: list[Tensor]  # [1, C, T, H, W] of every joint call
    flows: list[Tensor]
    blocks: Tensor  # [1, C, T, H, W] of the finished blocks


def theirs(made: Mapping[str, Tensor], levels: int) -> Side:
    """The joint calls, each of which is followed by one at timestep 0, until their window shrinks."""
    calls = range(0, 2 * BLOCKS, 2)
    whole = 3 * (BLOCKS - levels + 1)
    video = made["video"].transpose(1, 2)[:, :, :whole]
    return Side([made[f"x.{at}"] for at in calls], [made[f"flow.{at}"] for at in calls], video)


def levels_of(made: Mapping[str, Tensor], count: int) -> Levels:
    """Noise levels and timesteps that the released code has its first block at."""
    told = torch.stack([made[f"timestep.{2 * at}"][0, 0] for at in range(count)])
    nearest = (made["timesteps"].double() - told[:, None]).abs().argmin(1)
    return Levels(tuple(made["sigmas"].double()[nearest].tolist()), tuple(told.tolist()))


def mine(peer_: Peer, folder: Path, dtype: torch.dtype, levels: Levels) -> Side:
    """The engine's, over its cache, for as many finished blocks."""
    config = StreamConfig(GEOMETRY, peer_.preset, 3, levels.sigmas, seed=SEED, dtype=dtype, sampler="rolling")
    inputs, flows, blocks = [], [], []

    def recorded(dit, x_BCTHW, *rest):
        flow_BCTHW = forward(dit, x_BCTHW, *rest)
        inputs.append(x_BCTHW.clone())
        flows.append(flow_BCTHW.clone())
        return flow_BCTHW

    def told(dit, _, dtype, device):
        at = torch.tensor([[*levels.timesteps, 0.0]], dtype=torch.float64, device=device)
        return list(zip(*(vectors.split(1, 1) for vectors in embed_time(dit, at, dtype)), strict=True))

    caller = ModelCaller(ours.model_of(peer_, folder, dtype))
    with mock.patch.multiple(model_caller, forward=recorded, times_of=told):
        state = init(caller, (text("one", dtype),), config)
        for _ in range(BLOCKS - len(levels.sigmas) + 1):
            x0_BCTHW, state = step(caller, state)
            blocks.append(x0_BCTHW)
    return Side(inputs, flows, torch.cat(blocks, 2))


def made_by(peer_: Peer, checkout: Path, folder: Path, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """What `rolled.py` writes down."""
    return peer.run(peer_, checkout, folder, dtype)

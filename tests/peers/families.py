"""Every family whose released code is there to be run, and what it made beside what the engine made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rivulet.tests.peers import ours, peer
from rivulet.tests.peers.ours import Levels, Run
from rivulet.tests.peers.peer import ABSENT, MODELS, Peer
from torch import Tensor

DEFAULTS = "configs/default_config.yaml"
CAUSVID = "causvid.models.wan"
PEERS = (
    Peer("self_forcing", "self_forcing", 7, "self_forcing", (DEFAULTS, "configs/self_forcing_dmd.yaml")),
    Peer(
        *("causal_forcing", "causal_forcing", 7, "self_forcing"),
        configs=(DEFAULTS, "configs/causal_forcing_dmd_chunkwise.yaml"),
    ),
    Peer(
        *("causal_forcing", "causal_forcing_framewise", 8, "self_forcing"),
        configs=(DEFAULTS, "configs/causal_forcing_dmd_framewise.yaml"),
    ),
    Peer(
        *("causal_forcing", "causal_forcing_2step", 8, "self_forcing"),
        configs=(DEFAULTS, "configs/causal_forcing_dmd_framewise_2step.yaml"),
    ),
    Peer(
        *("causal_forcing", "causal_forcing_1step", 8, "self_forcing"),
        configs=(DEFAULTS, "configs/causal_forcing_dmd_framewise_1step.yaml"),
    ),
    Peer("reward_forcing", "reward_forcing", 7, configs=(DEFAULTS, "configs/reward_forcing.yaml")),
    Peer("infinity_rope", "infinity_rope", 6, configs=(DEFAULTS, "configs/self_forcing_dmd.yaml")),
    Peer(
        *("infinity_rope", "infinity_rope", 6),
        configs=(DEFAULTS, "configs/self_forcing_dmd.yaml"),
        prompt="one[2.25s] | two",  # three blocks of the first
        words=("one", "two"),
        switch_block=3,
    ),
    Peer("longlive", "longlive", 7, "longlive", (DEFAULTS, "configs/longlive_inference.yaml")),
    Peer(
        *("longlive", "longlive", 7),
        configs=(DEFAULTS, "configs/longlive_inference_infinity.yaml"),
        models=(*MODELS, "wan.modules.causal_model_infinity"),
    ),
    Peer(
        *("longlive", "longlive", 7, "longlive", (DEFAULTS, "configs/longlive_interactive_inference.yaml")),
        pipeline="pipeline.interactive_causal_inference:InteractiveCausalInferencePipeline",
        words=("one", "two"),
        switch_block=5,
    ),
    Peer(
        *("rolling_sink", "self_forcing", 10, "rolling_sink"),
        configs=(DEFAULTS, "configs/self_forcing_dmd.yaml"),
        memory="rolling_sink",
    ),
    *(
        Peer(
            *("memrope", recipe, 7, "memrope"),
            configs=(f"configs/{folder}/memrope_60s.yaml",),
            memory="memrope",
            memory_options=(("memrope_per_position", adaptive),),
            kwargs=(("ema_adaptive", adaptive),),
        )
        for recipe, folder, adaptive in (
            ("self_forcing", "selfforcing", False),
            ("longlive", "longlive", False),
            ("longlive", "longlive", True),
        )
    ),
    Peer(
        *("causvid", "causvid", 7, "self_forcing", ("configs/wan_causal_dmd.yaml",)),
        pipeline="causvid.models.wan.causal_inference:InferencePipeline",
        models=(f"{CAUSVID}.wan_base.modules.model", f"{CAUSVID}.causal_model"),
        bare=(f"{CAUSVID}.wan_base", f"{CAUSVID}.wan_base.modules"),
        absent=(
            *("einops", "transformers", "transformers.models.t5.modeling_t5"),
            *("causvid.models.sdxl.sdxl_wrapper", "causvid.bidirectional_trajectory_pipeline"),
            *(f"{CAUSVID}.wan_base.modules.{name}" for name in ("t5", "tokenizers", "vae")),
        ),
        own_levels=True,
    ),
    Peer(
        *("krea", "krea_realtime", 5),
        configs=(DEFAULTS, "configs/self_forcing_server_14b.yaml"),
        script="served.py",
        absent=(
            *(*ABSENT, "flash_attn", "cv2", "requests", "omegaconf", "msgpack"),
            *("torchvision", "torchvision.transforms", "torchvision.transforms.functional"),
        ),
        own_levels=True,
        anew=True,
        calls=5,
    ),
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)  # exact, plain, as released
ROUNDING = torch.finfo(torch.float64).eps
SHRINK = ROUNDING / torch.finfo(torch.float32).eps  # of what rounding leaves, from float32 to float64


@dataclass(frozen=True, slots=True)
class Side:
    """One side's calls and blocks, in one dtype."""

    latents: Tensor  # [calls, 1, C, T, H, W], what each call that makes a block was given
    flow: Tensor  # what it gave
    block: Tensor  # [blocks, 1, C, T, H, W], clean


@dataclass(frozen=True, slots=True)
class Compared:
    """A family's code and the engine, given the same."""

    peer: Peer
    released: Levels
    theirs: dict[torch.dtype, Side]
    cache: dict[torch.dtype, Tensor]  # theirs at the end, [layers, 2, 1, L, N, D]; none of a server's
    ours: dict[torch.dtype, Side]
    runs: dict[torch.dtype, Run]

    def errors(self, what: Literal["latents", "flow", "block"], dtype: torch.dtype) -> tuple[float, float]:
        """(ours, theirs) in that dtype against theirs in float64, the largest differences."""
        exact = getattr(self.theirs[torch.float64], what)
        mine, other = (apart(getattr(side[dtype], what), exact) for side in (self.ours, self.theirs))
        return mine, other


def compared(peer_: Peer, checkout: Path, folder: Path) -> Compared:
    """Both sides in each of `DTYPES`. folder: an empty one, for what they are given and make."""
    made, runs = {}, {}
    for dtype in DTYPES:
        made[dtype] = peer.run(peer_, checkout, folder / str(dtype), dtype)
    released = ours.released_levels(peer_, made[torch.float64])
    levels = released if peer_.own_levels else ours.recipes_levels(peer_.recipe)
    for dtype in made:
        runs[dtype] = ours.run(peer_, folder, dtype, levels, peer_.preset)
    theirs = {dtype: _side(peer_, tensors) for dtype, tensors in made.items()}
    mine = {dtype: Side(each.x, each.flow, torch.stack(each.blocks)) for dtype, each in runs.items()}
    cache = {dtype: tensors["cache"] for dtype, tensors in made.items() if "cache" in tensors}
    return Compared(peer_, released, theirs, cache, mine, runs)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference."""
    return (one - other).abs().max().item()


def _side(peer_: Peer, tensors: Mapping[str, Tensor]) -> Side:
    """After its calls a block has one that leaves clean frames in the cache, at once or before the next."""
    counts = [peer_.calls_of(block) for block in range(peer_.blocks)]
    making = [peer_.first_call(block) + call for block, count in enumerate(counts) for call in range(count)]
    last = [peer_.first_call(block) + count - 1 for block, count in enumerate(counts)]
    return Side(tensors["x"][making], tensors["flow"][making], tensors["x0"][last])

"""Which heads look at the newest frames alone, and what it brings when those read nothing else.

The roles are Forcing-KV's. One dense stream on prompts that nothing else uses; every way to leave keys out is
laid beside it, call by call and layer by layer. What is said of Wan 1.3B is computed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.attention.positions import PRESETS
from ...model_patches.attention.sdpa import sdpa
from ...model_patches.plan.cost import CallSizes, cache_write_work, forward_work
from ...model_patches.stream.model_caller import ModelCaller
from ...model_patches.stream.step import rollout
from ...pocket import world
from ...pocket.models import Pocket, load_pocket
from .beside import Tally
from .heads_merged import Merged
from .heads_roles import BEFORE, NEWEST, RoleAttention, Roles
from .heads_seen import Attend, Glance, Looking
from .memory_cost import Clocked, beside, in_turns
from .memory_subjects import WAN
from .records import Rows

SEED = 9_200_000  # of the prompts
STREAMS, BLOCKS, FULL_BLOCKS = 4, 10, 4  # side by side; the window is full behind the fourth
MERGED_SHARES = (0.25, 0.5, 0.75)
POCKET_PATCHES = 4  # of a frame of 4 x 4 tokens: its rows
FRAME_TOKENS, BLOCK_FRAMES, CALLS, TEXT_TOKENS = 1560, 3, 4, 512  # of Wan 1.3B at 832x480
PUBLISHED_SINK = 1  # in every configuration of the released code
WINDOWS = ("self_forcing", "longlive_infinity", "reward_forcing", "infinity_rope")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    parser.add_argument("--profiles", type=Path, nargs="+", default=[], help="published profiles of heads")
    parser.add_argument("--out", type=Path, help="write the profile of these weights' heads, as published")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0: a row a head, a row for each way to leave keys out, and rows of what 1.3B would save."""
    pocket = load_pocket(chosen.weights)
    streams, blocks = (2, 6) if chosen.quick else (STREAMS, BLOCKS)
    masses = profiled(pocket, streams, blocks)
    roles = Roles.of([[one.newest_share for one in layer] for layer in masses])
    for layer, heads in enumerate(masses):
        for head, mass in enumerate(heads):
            about = {"layer_id": layer, "head_id": head, "is_static": head in roles.static[layer]}
            shares = {"sink_share": mass.sink, "newest_share": mass.newest_share}
            rows("head", weights=pocket.recipe.trained, **about, **shares)
    if chosen.out:
        chosen.out.write_text(json.dumps({"layers": roles.to_json()}, indent=2) + "\n", encoding="utf-8")
    errors(rows, pocket, roles, streams, blocks)
    for name in WINDOWS:
        frames = PRESETS[name].capacity_frames or PRESETS[name].trained_frames
        rows("window", is_computed=True, preset=name, **work(frames))
    rows("time", is_at_a_quarter=True, **timed(4 if chosen.quick else 20))
    for path in chosen.profiles:
        given = Roles.read(path)
        frames = given.attended_frames(PUBLISHED_SINK, BLOCK_FRAMES)
        layers = len(given.static)
        if layers == WAN.num_layers:
            rows("profile", is_computed=True, file=path.name, static_share=given.static_share, **work(frames))
        else:
            why = f"it is of a model of {layers} layers, and products are counted for {WAN.num_layers}"
            rows("profile", file=path.name, static_share=given.static_share, why=why)
    return 0


@dataclass
class Mass:
    """Sums of one head's attention, over queries and calls."""

    sink: float = 0.0  # share of all
    newest: float = 0.0

    @property
    def newest_share(self) -> float:
        """Of what is not on the sink."""
        return self.newest / (1 - self.sink)


def profiled(pocket: Pocket, streams: int, blocks: int) -> list[list[Mass]]:
    """Where each head of each layer looks, in all noisy calls and clean ones behind a full window."""
    sink = pocket.config().positions.sink_frames
    sums = [torch.zeros(pocket.dit.num_heads, 3, dtype=torch.float64) for _ in range(len(pocket.dit.blocks))]

    def attend(seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        if seen.new[0] >= FULL_BLOCKS * len(seen.new):
            q, k = q_BLND.transpose(1, 2), k_BLND.transpose(1, 2)
            weights_NL = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1).double().sum((0, 2))
            newest = (*seen.past, *seen.new)[-NEWEST:]
            parts = [weights_NL[:, seen.tokens(frames)].sum(1) for frames in (seen.past[:sink], newest)]
            sums[seen.layer] += torch.stack([*parts, weights_NL.sum(1)], 1)
        return sdpa(q_BLND, k_BLND, v_BLND)

    _streamed(pocket, Looking(attend), streams, blocks)
    return [[Mass(float(a / c), float(b / c)) for a, b, c in layer] for layer in sums]


def errors(rows: Rows, pocket: Pocket, roles: Roles, streams: int, blocks: int) -> None:
    """A row for each way to leave keys out: what is attended to, and the error of attention's output."""
    config = pocket.config()
    sink, block = config.positions.sink_frames, config.block_frames
    ways = {
        "roles": roles,
        "roles_swapped": roles.swapped(),
        "all_static": roles.everywhere(static=True),
        "all_dynamic": roles.everywhere(static=False),
    }
    given: dict[str, tuple[float, Attend]] = {
        name: (way.attended_frames(sink, block), RoleAttention(way, sink, POCKET_PATCHES))
        for name, way in ways.items()
    }
    for frames in (1, 2, 3, 4):
        given[f"newest_{frames}"] = (sink + frames + block, Newest(sink, frames))
    past = (config.positions.capacity_frames or 0) - block
    for share in MERGED_SHARES:
        for name, before in (("merged", True), ("merged_after_rope", False)):
            merged = Merged(share, before)
            given[f"{name}_{share:g}"] = (merged.attended_frames(past, block), merged)
    tallies = {name: Tally(pocket.dit, counts=True) for name in given}

    def attend(seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        true_BLND = sdpa(q_BLND, k_BLND, v_BLND)
        if seen.new[0] >= FULL_BLOCKS * len(seen.new):
            for name, (_, way) in given.items():
                tallies[name].add(seen.layer, way(seen, q_BLND, k_BLND, v_BLND), true_BLND)
        return true_BLND

    _streamed(pocket, Looking(attend), streams, blocks)
    for name, (frames, _) in given.items():
        found = tallies[name].errors()
        heads = {
            f"layer_{layer}_head_{head}_error": error
            for layer, each in enumerate(found.heads)
            for head, error in enumerate(each)
        }
        rows("way", case=name, attended_frames=frames, attention_error=found.total, **heads)


@dataclass(frozen=True)
class Newest:
    """All heads read the sink, so many frames before the block, and the block."""

    sink: int
    frames: int

    def __call__(self, seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        """The attention's output [B, L, N, D]."""
        past = seen.past
        read = (*past[: self.sink], *past[self.sink :][-self.frames :], *seen.new)
        memory = torch.arange(len(seen.frames) * seen.frame_tokens, k_BLND.shape[1])
        places = torch.cat([seen.tokens(read), memory])
        return sdpa(q_BLND, k_BLND[:, places], v_BLND[:, places])


def work(frames: float) -> dict[str, float]:
    """Attended tokens of Wan 1.3B, and a block's products against those over LongLive's 12 frames."""
    compared = PRESETS["longlive_infinity"].capacity_frames or 0
    return {
        "attended_tokens": frames * FRAME_TOKENS,
        "products_to_twelve_frames_ratio": _flops(frames) / _flops(compared),
    }


def timed(rounds: int) -> dict[str, float]:
    """One layer's attention by roles beside the same over six frames with all heads, in turns.

    Wan 1.3B's heads at a quarter of 832x480's tokens; 5 of 12 heads static, as in the first layer of the
    published profiles. Each group's keys lie in a tensor of their own, as the released code has them.
    """
    tokens, (static, dynamic) = FRAME_TOKENS // 4, (list(range(5)), list(range(5, 12)))
    frames = PUBLISHED_SINK + BEFORE + BLOCK_FRAMES
    q, *pair = (
        torch.randn(1, count * tokens, WAN.num_heads, WAN.dim // WAN.num_heads)
        for count in (BLOCK_FRAMES, frames + 1, frames + 1)
    )
    groups = [
        (heads, *(x[:, : count * tokens, heads].contiguous() for x in pair))
        for heads, count in ((static, frames), (dynamic, frames + 1))
    ]

    def by_role() -> Tensor:
        out = torch.empty_like(q)
        for heads, keys, values in groups:
            out[:, :, heads] = sdpa(q[:, :, heads], keys, values)
        return out

    def clocked(work: Callable[[], object]) -> Callable[[], Clocked]:
        def take() -> Clocked:
            start, worked = time.perf_counter(), time.process_time()
            work()
            return time.perf_counter() - start, time.process_time() - worked

        return take

    taken = in_turns({"all": clocked(lambda: sdpa(q, *pair)), "roles": clocked(by_role)}, rounds)
    clock, work = (
        beside(
            "attention", "roles_to_all", *([each[side] for each in taken[name]] for name in ("roles", "all"))
        )
        for side in (0, 1)
    )
    return clock | {f"cpu_{name}": value for name, value in work.items()}


def _flops(frames: float) -> float:
    call = CallSizes(
        1, BLOCK_FRAMES * FRAME_TOKENS, round(frames * FRAME_TOKENS), TEXT_TOKENS, torch.bfloat16
    )
    return CALLS * forward_work(WAN, call).flops + cache_write_work(WAN, call).flops


def _streamed(pocket: Pocket, looking: Looking, streams: int, blocks: int) -> None:
    scenes = world.sample_scenes(streams, torch.Generator().manual_seed(SEED), band_share=0.0)
    text = torch.cat([pocket.encode(prompt) for prompt in scenes.prompts()])
    state = pocket.begin(text, pocket.config(SEED), cache=looking.format("looking"))
    for _ in rollout(ModelCaller(pocket.dit, attention=looking), state, blocks):
        pass

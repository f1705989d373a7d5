"""Heads with roles (Forcing-KV, arXiv 2605.09681, and its released code): some read the newest frames alone.

A static head reads the sink, one frame before the block, and the block. A dynamic head reads besides one
frame's worth of patches of the three frames before that: those that are least like the same patch one frame
later. Which patches is decided in one layer for all. The first layer is all static. B batch rows, L tokens,
N heads, D head width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...model_patches.attention.sdpa import sdpa
from .heads_seen import Glance

STATIC_SHARE = 0.8  # of the mass on what is no sink, that a static head has on NEWEST frames
NEWEST = 4  # latent frames, the block's included
BEFORE = 1  # frames before the block that every head reads
CANDIDATES = 3  # frames before those, of whose patches a dynamic head reads some
DECIDING_LAYER = 1


@dataclass(frozen=True)
class Roles:
    """Which heads of which layer are static."""

    static: tuple[frozenset[int], ...]
    heads: int

    @classmethod
    def of(cls, scores: Sequence[Sequence[float]]) -> Roles:
        """scores: of each layer and head, the share of its mass on the newest frames, the sink left out."""
        static = [
            frozenset(head for head, score in enumerate(layer) if score >= STATIC_SHARE) for layer in scores
        ]
        return cls(tuple(static), len(scores[0]))

    @classmethod
    def read(cls, path: Path) -> Roles:
        """Of a published profile. ValueError for a file that does not name every head of a layer once."""
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            layers = given["layers"] if isinstance(given, dict) else given
            pairs = [(set(layer["static_head"]), set(layer["dynamic_head"])) for layer in layers]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Roles: {path} is no profile of heads ({error}).") from error
        heads = max((len(static) + len(dynamic) for static, dynamic in pairs), default=0)
        wrong = [n for n, (a, b) in enumerate(pairs) if a & b or a | b != set(range(heads))]
        if wrong or not pairs:
            raise ValueError(
                f"Roles: {path} names in layers {wrong} not each of {heads} heads once; give the profile as "
                f"it was published."
            )
        return cls(tuple(frozenset(static) for static, _ in pairs), heads)

    @property
    def static_share(self) -> float:
        """Of all heads."""
        return sum(map(len, self.static)) / (self.heads * len(self.static))

    def swapped(self) -> Roles:
        """Each head in the other role."""
        every = frozenset(range(self.heads))
        return Roles(tuple(every - static for static in self.static), self.heads)

    def everywhere(self, static: bool) -> Roles:
        """All heads in one role."""
        every = frozenset(range(self.heads)) if static else frozenset()
        return Roles((every,) * len(self.static), self.heads)

    def attended_frames(self, sink: int, block: int) -> float:
        """Latent frames that a head attends to, on average over layers and heads."""
        static = sink + BEFORE + block
        dynamic = [self.heads - len(heads) for heads in self.static[1:]]
        return static + sum(dynamic) / (self.heads * len(self.static))

    def to_json(self) -> list[Mapping[str, object]]:
        """As profiles are published."""
        every = set(range(self.heads))
        return [
            {"layer_idx": index, "static_head": sorted(static), "dynamic_head": sorted(every - static)}
            for index, static in enumerate(self.static)
        ]


@dataclass
class RoleAttention:
    """Attention in which each head reads what its role says; see `heads_seen.Attend`."""

    roles: Roles
    sink: int
    patches: int  # of a frame
    chosen_BL: Tensor | None = None  # places of the patches, from the deciding layer on

    def __call__(self, seen: Glance, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        """The attention's output [B, L, N, D]; of all keys while the window is too short to choose from."""
        window = seen.past[self.sink :]
        if len(window) < BEFORE + CANDIDATES:
            return sdpa(q_BLND, k_BLND, v_BLND)
        if seen.layer == DECIDING_LAYER:
            self.chosen_BL = self._decided(seen, window, k_BLND)
        memory = torch.arange(len(seen.frames) * seen.frame_tokens, k_BLND.shape[1])
        frames = (*seen.past[: self.sink], *window[-BEFORE:], *seen.new)
        places_BL = torch.cat([seen.tokens(frames), memory]).expand(len(k_BLND), -1)
        every = range(self.roles.heads)
        static = [head for head in every if not seen.layer or head in self.roles.static[seen.layer]]
        dynamic = [head for head in every if head not in static]
        out_BLND = torch.empty_like(q_BLND)
        for heads, more_BL in ((static, None), (dynamic, self.chosen_BL)):
            if heads:
                at_BL = places_BL if more_BL is None else torch.cat([places_BL, more_BL], 1)
                keys, values = (_gathered(x_BLND[:, :, heads], at_BL) for x_BLND in (k_BLND, v_BLND))
                out_BLND[:, :, heads] = sdpa(q_BLND[:, :, heads], keys, values)
        return out_BLND

    def _decided(self, seen: Glance, window: Sequence[int], k_BLND: Tensor) -> Tensor:
        """Places [B, one frame's tokens] of the patches that are least like what is there a frame later."""
        static = self.roles.static[seen.layer]
        heads = [head for head in range(self.roles.heads) if head not in static] or sorted(static)
        first = -(BEFORE + CANDIDATES)
        places_L = seen.tokens(window[first:-BEFORE])
        now, later = (
            k_BLND[:, seen.tokens(frames)][:, :, heads]
            .unflatten(1, (CANDIDATES * self.patches, -1))
            .flatten(3)
            for frames in (window[first:-BEFORE], window[first + 1 :][:CANDIDATES])
        )
        like_BP = cosine_similarity(now, later, dim=-1).mean(2)
        kept_BP = like_BP.topk(self.patches, largest=False).indices.sort().values
        return places_L.view(CANDIDATES * self.patches, -1)[kept_BP].flatten(1)


def _gathered(x_BLND: Tensor, at_BL: Tensor) -> Tensor:
    """These tokens of each row."""
    return x_BLND.gather(1, at_BL[:, :, None, None].expand(-1, -1, *x_BLND.shape[2:]))

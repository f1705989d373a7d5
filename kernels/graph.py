"""Operations as one node each of a graph that torch.compile makes, whichever implementation runs.

Imported, and registered with torch, only while a graph is made: called plainly such a node costs more than
some of the operations.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from .norm_rope import norm_rope
from .rebuild import Up, rebuild
from .rope import rotate
from .tiers import Latents, Tiers


@custom_op("rivulet::rotate", mutates_args=("out",))
def _rotate(x: Tensor, table: Tensor, impl: str, out: Tensor) -> None:
    rotate(x, table, impl, out)


@custom_op("rivulet::norm_rope", mutates_args=("out",))
def _norm_rope(
    x: Tensor,
    gain: Tensor | None,
    table: Tensor,
    eps: float,
    inverse_rms: Tensor | None,
    impl: str,
    out: Tensor,
) -> None:
    norm_rope(x, gain, table, eps, inverse_rms, out, impl)


@custom_op("rivulet::rebuild", mutates_args=("keys", "values"))
def _rebuild(
    codes: Tensor,
    scales: Tensor | None,
    tiers: list[int],
    up: list[Tensor],
    biases: list[Tensor],
    table: Tensor,
    inverse_rms: Tensor | None,
    impl: str,
    keys: Tensor,
    values: Tensor,
) -> None:
    latents = Latents(codes, scales, Tiers(*tiers) if tiers else None)
    rebuild(latents, Up(*up, *biases), table, keys, values, inverse_rms, impl)


for _op in (_rotate, _norm_rope, _rebuild):
    _op.register_fake(lambda *_: None)


def rotate_node(x: Tensor, table: Tensor, which: str, out: Tensor | None) -> Tensor:
    """`rotate` as a node."""
    room = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    torch.ops.rivulet.rotate(x, table, which, room)
    return room


def norm_rope_node(
    x: Tensor,
    gain: Tensor | None,
    table: Tensor,
    eps: float,
    inverse_rms: Tensor | None,
    out: Tensor,
    which: str,
) -> Tensor:
    """`norm_rope` as a node."""
    torch.ops.rivulet.norm_rope(x, gain, table, eps, inverse_rms, which, out)
    return out


def rebuild_node(
    latents: Latents,
    up: Up,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    inverse_rms: Tensor | None,
    which: str,
) -> None:
    """`rebuild` as a node."""
    tiers = [] if latents.tiers is None else [latents.tiers.wide, latents.tiers.narrow, latents.tiers.group]
    assert (up.key_bias is None) == (up.value_bias is None)
    biases = [] if up.key_bias is None or up.value_bias is None else [up.key_bias, up.value_bias]
    torch.ops.rivulet.rebuild(
        latents.codes,
        latents.scales,
        tiers,
        [up.key, up.value],
        biases,
        table,
        inverse_rms,
        which,
        keys,
        values,
    )

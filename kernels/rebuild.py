"""Rotated keys, and values, from cached latents.

B rows, L tokens, T tokens of all rows, N heads, D head width, R latent channels that the up-projections read,
E rotary channels that all heads share.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from .dispatch import uses_triton
from .projections import UpProjections
from .rope import rotate_reference, table_obstacle
from .tiers import Latents, Tiers


def rebuild(
    latents: Latents,
    up: UpProjections,
    table_L: Tensor,
    keys_BLND: Tensor,
    values_BLND: Tensor,
    inverse_rms_BL: Tensor | None = None,
    impl: str = "auto",
) -> None:
    """Write the keys and values of the latents c into the buffers keys and values [B, L, N, D].

    Without shared channels (latents.rank = R): keys = rotate((c U_k + b_k) * inverse_rms), the whole head
    rotated by table (cos, sin) [L, D/2, 2]. With them (latents.rank = R + E, the last E channels of a latent
    are the shared rotary key before RoPE): the first D-E channels of each head are (c U_k + b_k) *
    inverse_rms, the last E are the shared key rotated by table [L, E/2, 2]. Values = c U_v + b_v.
    inverse_rms: the stored 1/rms of each true key, floating point; None: 1. No gradients flow.
    """
    _check(latents, up, table_L, keys_BLND, values_BLND, inverse_rms_BL)
    if torch.compiler.is_compiling():
        return _rebuild_as_node(latents, up, table_L, keys_BLND, values_BLND, inverse_rms_BL, impl)
    weights = (up.key, up.value, up.key_bias, up.value_bias)
    tensors = (latents.codes, latents.scales, *weights, table_L, keys_BLND, values_BLND)
    obstacle = _obstacle(latents, up) or table_obstacle(table_L)
    if uses_triton("rebuild", impl, *tensors, obstacle=obstacle, multiplies=up.key):
        from ._triton.rebuild import rebuild_triton

        rebuild_triton(latents, up, table_L, keys_BLND, values_BLND, inverse_rms_BL)
    else:
        rebuild_reference(latents, up, table_L, keys_BLND, values_BLND, inverse_rms_BL)


@torch.no_grad()
def rebuild_reference(
    latents: Latents,
    up: UpProjections,
    table_L: Tensor,
    keys_BLND: Tensor,
    values_BLND: Tensor,
    inverse_rms_BL: Tensor | None = None,
) -> None:
    """Up-projection in the dtype of `up`; the rest in float32 (MLA, arXiv:2405.04434, section 2.1)."""
    c_BLR = latents.to_float(up.key.dtype)
    rank, shared = up.key.shape[0], c_BLR.shape[-1] - up.key.shape[0]
    table = table_L.to(torch.promote_types(table_L.dtype, torch.float32))
    c_TR = c_BLR.flatten(0, 1)[:, :rank]
    values_BLND.copy_(_project(c_TR, up.value, up.value_bias).view(values_BLND.shape))
    k_BLND = _project(c_TR, up.key, up.key_bias).view(*keys_BLND.shape[:3], -1)
    if inverse_rms_BL is not None:
        k_BLND = k_BLND * inverse_rms_BL.to(table.dtype)[:, :, None, None]
    if not shared:
        rotate_reference(k_BLND, table, keys_BLND)
        return
    keys_BLND[..., :-shared] = k_BLND
    keys_BLND[..., -shared:] = rotate_reference(c_BLR[:, :, None, rank:].to(table.dtype), table)


def _rebuild_as_node(
    latents: Latents,
    up: UpProjections,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    inverse_rms: Tensor | None,
    impl: str,
) -> None:
    """`rebuild` by its parts: a node takes tensors and plain numbers, no values of ours."""
    tiers = [] if latents.tiers is None else [latents.tiers.wide, latents.tiers.narrow, latents.tiers.group]
    assert (up.key_bias is None) == (up.value_bias is None)
    biases = [] if up.key_bias is None or up.value_bias is None else [up.key_bias, up.value_bias]
    parts = (latents.codes, latents.scales, tiers, [up.key, up.value], biases)
    _rebuild_node(*parts, table, inverse_rms, impl, keys, values)


# one node of a graph that torch.compile makes, whichever implementation runs
# the schema in words: torch 2.4 reads none from annotations that are not evaluated
@custom_op(
    "rivulet::rebuild",
    mutates_args=("keys", "values"),
    schema="(Tensor codes, Tensor? scales, int[] tiers, Tensor[] up, Tensor[] biases, Tensor table, "
    "Tensor? inverse_rms, str impl, Tensor(a!) keys, Tensor(b!) values) -> ()",
)
def _rebuild_node(
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
    rebuild(latents, UpProjections(*up, *biases), table, keys, values, inverse_rms, impl)


_rebuild_node.register_fake(lambda *_: None)


def _project(c_TR: Tensor, up: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None and bias.dtype == up.dtype:
        return torch.addmm(bias, c_TR, up)
    projected = c_TR @ up
    return projected if bias is None else projected + bias


def _obstacle(latents: Latents, up: UpProjections) -> str:
    if latents.tiers is None or latents.tiers.wide >= latents.rank or latents.rank == up.key.shape[0]:
        return ""
    return "a shared rotary key of int4 channels is read by the reference only."


def _check(
    latents: Latents,
    up: UpProjections,
    table_L: Tensor,
    keys_BLND: Tensor,
    values_BLND: Tensor,
    inverse_rms_BL: Tensor | None,
) -> None:
    latents.check("rebuild")
    if keys_BLND.ndim != 4 or keys_BLND.shape != values_BLND.shape:
        raise ValueError(
            f"rebuild: keys and values must be buffers [B, L, N, D] of one shape, "
            f"got {list(keys_BLND.shape)} and {list(values_BLND.shape)}."
        )
    rows, tokens, heads, width = keys_BLND.shape
    rank, shared = up.key.shape[0], latents.rank - up.key.shape[0]
    wanted = [rank, heads * (width - shared)], [rank, heads * width]
    if shared < 0 or shared >= width or (list(up.key.shape), list(up.value.shape)) != wanted:
        raise ValueError(
            f"rebuild: latents of {latents.rank} channels and {heads} heads of {width} need up-projections "
            f"{wanted[0]} and {wanted[1]}, got {list(up.key.shape)} and {list(up.value.shape)}."
        )
    if tuple(latents.codes.shape[:2]) != (rows, tokens):
        raise ValueError(
            f"rebuild: latents of {list(latents.codes.shape[:2])} tokens do not fit into keys of "
            f"{[rows, tokens]}."
        )
    rotated = shared or width
    if tuple(table_L.shape) != (tokens, rotated // 2, 2) or rotated % 2:
        raise ValueError(
            f"rebuild: {tokens} tokens with {rotated} rotary channels need a table "
            f"[{tokens}, {rotated // 2}, 2], got {list(table_L.shape)}."
        )
    if inverse_rms_BL is not None and tuple(inverse_rms_BL.shape) != (rows, tokens):
        raise ValueError(f"rebuild: inverse_rms must be {[rows, tokens]}, got {list(inverse_rms_BL.shape)}.")

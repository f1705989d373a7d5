"""The host's Wan model under the names the engine asks for, and the refusal of models it cannot run.

B batch, C channels, T latent frames, H/W of the latent, E text_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...model_patches.arch.rotary import RopeLayout
from ...model_patches.arch.tree import BlockTree, HeadTree, Layer
from ...model_patches.attention.forward import forward_bidirectional
from ...model_patches.attention.rope import layout_of
from ...model_patches.attention.sdpa import Attention
from ...model_patches.checkpoints.variants import variant_of
from ...model_patches.geometry import LATENT_CHANNELS

MODEL = (
    "patch_size",
    "freq_dim",
    "text_dim",
    "num_heads",
    "patch_embedding",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "blocks",
    "head",
    "dim",
    "ffn_dim",
    "in_dim",
    "out_dim",
)
BLOCK = ("norm1", "self_attn", "norm3", "cross_attn", "norm2", "ffn", "modulation")
ATTENTION = ("num_heads", "q", "k", "v", "o", "norm_q", "norm_k")
HEAD = ("norm", "head", "modulation")
ELSEWHERE = {  # parts whose forward needs an input that a stream does not have
    "img_emb": "an image-to-video model",
    "ref_conv": "a model with a reference picture",
    "vace_blocks": "a VACE model",
    "control_adapter": "a camera model",
}


class HostTree:
    """A `DiTTree` over the host's layers: called, never copied, so patches and offload keep working."""

    def __init__(self, model: Any) -> None:
        """model: the host's diffusion_model, which `why_not` has nothing against."""
        self._model = model
        self.patch_size: tuple[int, int, int] = tuple(model.patch_size)
        self.num_heads: int = model.num_heads
        self.freq_dim: int = model.freq_dim
        self.text_dim: int = model.text_dim
        self.text_embedding: Layer = model.text_embedding
        self.time_embedding: Layer = model.time_embedding
        self.time_projection: Layer = model.time_projection
        self.blocks: Sequence[BlockTree] = model.blocks
        self.head: HeadTree = model.head
        self.rope_layout: RopeLayout | None = layout_of(model)

    def patch_embedding(self, x_BCTHW: Tensor) -> Tensor:
        """Tokens on their grid; the host keeps this one layer in float32, whatever the rest is in."""
        return self._model.patch_embedding(x_BCTHW.float()).to(x_BCTHW.dtype)


def why_not(model: Any) -> str | None:
    """A sentence if the host's diffusion_model lacks what the stream's forward relies on, else None."""
    kind = type(model).__name__
    lacking = _lacking(model, "", MODEL)
    if not lacking and len(model.blocks):
        block = model.blocks[0]
        lacking = _lacking(block, "blocks[0].", BLOCK) or [
            *_lacking(block.self_attn, "blocks[0].self_attn.", ATTENTION),
            *_lacking(block.cross_attn, "blocks[0].cross_attn.", ATTENTION),
            *_lacking(model.head, "head.", HEAD),
        ]
    if lacking:
        return (
            f"Rivulet: the loaded model is a {kind}, which has no {', '.join(lacking)}; a stream needs Wan "
            f"2.1 text-to-video. Load such a checkpoint, or update Rivulet if this is one."
        )
    for name, what in ELSEWHERE.items():
        if getattr(model, name, None) is not None:
            return (
                f"Rivulet: the loaded model is a {kind} with {name}, {what}; a stream needs Wan 2.1 "
                f"text-to-video. Load a text-to-video checkpoint."
            )
    channels = (model.in_dim, model.out_dim)
    if channels != (LATENT_CHANNELS, LATENT_CHANNELS):
        return (
            f"Rivulet: the loaded model is a {kind}, {variant_of(*channels)}; a stream needs "
            f"{LATENT_CHANNELS} in and out, as Wan 2.1 text to video has. Load such a checkpoint."
        )
    return None


def _lacking(part: Any, path: str, names: Sequence[str]) -> list[str]:
    return [path + name for name in names if not hasattr(part, name)]


def check_forward(
    tree: HostTree,
    host_forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_BCTHW: Tensor,
    text_BLE: Tensor,
    attention: Attention,
) -> None:
    """Raises RuntimeError unless the engine's forward gives what the model's own gives, up to rounding.

    own: the model's forward of (latents, timestep [B], text). Two latent frames of two by two tokens are run
    through both; x and text only lend their channels, dtype and device.
    """
    shape = (1, x_BCTHW.shape[1], 2, *(2 * side for side in tree.patch_size[1:]))
    count = torch.Size(shape).numel()
    small = torch.sin(torch.arange(count, device=x_BCTHW.device) * 1.7).reshape(shape).to(x_BCTHW.dtype)
    timestep = torch.full((1,), 500.0)
    text = text_BLE[:1]
    theirs = host_forward(small, timestep.to(x_BCTHW.device), text).float()
    ours = forward_bidirectional(tree, small, timestep[:, None], text, attention).float()
    span = theirs.abs().max().item()
    # half precision may lose a few digits over forty layers; a wrong formula is wrong in the first
    allowed = (1e-3 if x_BCTHW.dtype == torch.float32 else 0.1) * span
    worst = (ours - theirs).abs().max().item()
    if not worst <= allowed:
        raise RuntimeError(
            f"Rivulet: on a tiny input its forward and the model's own differ by {worst:.3g}, values reach "
            f"{span:.3g} and {allowed:.3g} is allowed; ComfyUI or another node pack has changed the model's "
            f"forward. Take away other patches of this model, or update Rivulet."
        )

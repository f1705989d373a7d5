"""A LoRA in the host's form: patches of a MODEL's weights, wherever the host has them."""

from __future__ import annotations

from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from ...model_patches.checkpoints.lora import Lora

MODEL = "diffusion_model."  # begins the host's keys of the model's own parameters


def weight_key(layer: str) -> str:
    """The host's key of a layer's weight in a MODEL."""
    return f"{MODEL}{layer}.weight"


def patches_of(lora: Lora) -> dict[str, LoRAAdapter]:
    """The host's patch of each weight; the host multiplies by alpha / rank itself."""
    return {
        weight_key(layer): LoRAAdapter(
            set(), (factors.up, factors.down, factors.scale * factors.rank, None, None, None)
        )
        for layer, factors in lora.layers.items()
    }


def add_lora(model: Any, lora: Lora, strength: float = 1.0) -> None:
    """Has the host add a LoRA to the MODEL, which is changed. All of it must fit, see `Lora.fitting`."""
    bare = {name: change for name, change in lora.added.items() if _is_bare(model, name)}
    whole = {MODEL + name: ("diff", (change,)) for name, change in lora.added.items() if name not in bare}
    for patches in (patches_of(lora), whole):  # a weight may be in both
        model.add_patches(patches, strength)
    for name, change in bare.items():
        # an earlier LoRA's sum, where there is one
        old: Tensor = model.get_model_object(MODEL + name)
        wide = torch.promote_types(torch.float32, old.dtype) if old.dtype.itemsize > 1 else torch.float32
        new = old.to("cpu", wide) + strength * change.to("cpu", wide)
        model.add_object_patch(MODEL + name, nn.Parameter(new, requires_grad=False))


def _is_bare(model: Any, name: str) -> bool:
    """Whether a parameter lies beside layers, in a module of its own: a block's or the head's modulation.

    The host loads and patches weights layer by layer, and passes over a patch of such a one without a word
    (comfy/model_patcher.py, `_load_list`).
    """
    owner = model.model.get_submodule((MODEL + name).rpartition(".")[0])
    return any(True for _ in owner.children())

"""A LoRA in the host's form: patches of a MODEL's weights, wherever the host has them."""

from __future__ import annotations

from comfy.weight_adapter import LoRAAdapter

from ...model_patches.checkpoints.lora import Lora


def weight_key(layer: str) -> str:
    """The host's key of a layer's weight in a MODEL."""
    return f"diffusion_model.{layer}.weight"


def patches_of(lora: Lora) -> dict[str, LoRAAdapter]:
    """The host's patch of each weight; the host multiplies by alpha / rank itself."""
    return {
        weight_key(layer): LoRAAdapter(
            set(), (factors.up, factors.down, factors.scale * factors.rank, None, None, None)
        )
        for layer, factors in lora.layers.items()
    }

"""What a memory was trained with must come with it: positions, its keys' norm and the LoRA are one choice.

Echo-Infinity (arXiv 2606.04527) has two trainings: on clips of 5 seconds, whose memory comes in the base
file, and on long videos from there, whose memory comes beside a LoRA. Mixing their parts only makes the video
worse, without any error, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..attention.positions import PRESETS, PositionPreset
from .encoder import EncoderConfig, MemoryEncoder


@dataclass(frozen=True, slots=True)
class Training:
    """What one of the trainings goes with."""

    lora: bool  # the base weights are changed by one
    bounded_ids: bool  # keys are kept before RoPE and turned when read; else ids grow with the stream
    turned_keys: bool  # frames that leave give the encoder keys that have been turned
    recache: bool  # a new prompt has the memory begin again from the frames that stay


SHORT = Training(lora=False, bounded_ids=False, turned_keys=True, recache=False)
LONG = Training(lora=True, bounded_ids=True, turned_keys=False, recache=True)


def training_of(config: EncoderConfig) -> Training:
    """Which training an encoder is of: only the one on short clips norms the memory's keys."""
    return SHORT if config.normalize_keys else LONG


def why_not(encoder: MemoryEncoder, preset: PositionPreset, has_lora: bool) -> str | None:
    """A sentence for the user if the encoder was not trained with these positions and weights, else None.

    has_lora: the LoRA stored with the encoder is applied to the model, or has been merged into it.
    """
    config, training = encoder.config, training_of(encoder.config)
    if not preset.memory_frames:
        return f"Memory: preset {preset.name} has no place for a memory; take preset {_presets(config)}."
    if config.frames != preset.memory_frames:
        return (
            f"Memory: this memory stands for {config.frames} latent frames, preset {preset.name} has places "
            f"for {preset.memory_frames}; take a preset with as many, or the memory made for this one."
        )
    bounded = preset.last_id is not None
    if training is SHORT and bounded:
        return (
            f"Memory: this memory was trained on clips of 5 seconds whose positions count on, preset "
            f"{preset.name} keeps them bounded; take preset {_presets(config)}, or for longer videos the "
            f"long model's file with LoRA and memory."
        )
    if training is SHORT and has_lora:
        return (
            "Memory: this memory belongs to the base weights alone, but a LoRA for long videos is on the "
            "model; leave the LoRA out, or take the memory stored in the LoRA's own file."
        )
    if training is LONG and not bounded:
        return (
            f"Memory: this memory was trained on long videos with bounded positions, preset {preset.name} "
            f"lets them count on; take preset {_presets(config)}, or for clips of 5 seconds the memory in "
            f"the base file."
        )
    if training is LONG and not has_lora:
        return (
            "Memory: this memory was trained together with a LoRA, which is not on the model; load the file "
            "that holds both, or for clips of 5 seconds the memory in the base file."
        )
    return None


def _presets(config: EncoderConfig) -> str:
    """Names of the presets that the encoder was trained with."""
    bounded = training_of(config).bounded_ids
    fitting = [
        preset.name
        for preset in PRESETS.values()
        if preset.memory_frames == config.frames and (preset.last_id is not None) == bounded
    ]
    return " or ".join(fitting) or f"with places for {config.frames} latent frames of memory"

"""Checks that positions, key norm and LoRA are those that a memory was trained with.

Echo-Infinity (arXiv 2606.04527) has two trainings: on clips of 5 seconds, whose memory is in the base file,
and then on long videos, whose memory is in a file with a LoRA. A mixture of both gives worse videos without
any error, so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..attention.positions import PRESETS, PositionPreset
from .encoder import EncoderConfig, MemoryEncoder


@dataclass(frozen=True, slots=True)
class Training:
    """What one of the trainings requires."""

    lora: bool  # with a LoRA on the base weights
    bounded_ids: bool  # keys are stored before RoPE and rotated when read; else ids grow with the stream
    rotated_keys: bool  # the encoder reads evicted keys after RoPE
    recache: bool  # a prompt switch rebuilds the memory from the recached frames


SHORT = Training(lora=False, bounded_ids=False, rotated_keys=True, recache=False)
LONG = Training(lora=True, bounded_ids=True, rotated_keys=False, recache=True)


def training_of(config: EncoderConfig) -> Training:
    """The training of an encoder: only the one on short clips normalises the memory's keys."""
    return SHORT if config.normalize_keys else LONG


def why_not(encoder: MemoryEncoder, preset: PositionPreset, has_lora: bool) -> str | None:
    """A sentence for the user if the encoder was not trained with these positions and weights, else None.

    has_lora: the LoRA stored with the encoder is applied to the model or merged into it.
    """
    config, training = encoder.config, training_of(encoder.config)
    if not preset.memory_frames:
        return f"Memory: preset {preset.name} has no ids for a memory; take preset {_presets(config)}."
    if config.frames != preset.memory_frames:
        return (
            f"Memory: this memory stands for {config.frames} latent frames, preset {preset.name} has ids "
            f"for {preset.memory_frames}; take a preset with as many, or a memory trained with this one."
        )
    bounded = preset.last_id is not None
    if training is SHORT and bounded:
        return (
            f"Memory: this memory was trained on clips of 5 seconds with growing positions, preset "
            f"{preset.name} has bounded ones; take preset {_presets(config)}, or for longer videos the "
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
            f"has growing ones; take preset {_presets(config)}, or for clips of 5 seconds the memory in "
            f"the base file."
        )
    if training is LONG and not has_lora:
        return (
            "Memory: this memory was trained together with a LoRA, which is not on the model; load the file "
            "that holds both, or for clips of 5 seconds the memory in the base file."
        )
    return None


def _presets(config: EncoderConfig) -> str:
    """Names of the presets for the encoder's training."""
    bounded = training_of(config).bounded_ids
    names = [
        preset.name
        for preset in PRESETS.values()
        if preset.memory_frames == config.frames and (preset.last_id is not None) == bounded
    ]
    return " or ".join(names) or f"with ids for {config.frames} latent frames of memory"

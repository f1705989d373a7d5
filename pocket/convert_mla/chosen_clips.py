"""What a conversion goes along, as it was asked for: pools of the world's clips, or encoded prompts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...model_patches.arch.wan import WanModel
from ...model_patches.attention.positions import preset as positions_of
from ...model_patches.checkpoints.files import open_tensors
from ...model_patches.geometry import Geometry
from ...model_patches.stream.config import StreamConfig
from ..train_pocket.clips import FIRST_BATCH, PairedClips, load_or_draw
from ..train_pocket.dit import PocketTraining
from .clip_sources import PocketClips, StreamedClips
from .distil import ClipSource
from .presets import Preset
from .prompts import Prompts
from .student_rollouts import UNPROMPTED_SHARE

DRAWN, FIRST_DRAWN = 96, 768  # clips of a pool that is drawn, and first blocks


def clip_source(chosen: argparse.Namespace, preset: Preset, dense: WanModel, folder: Path) -> ClipSource:
    """Clips of the pocket world, or what the dense model streams from the prompts of --texts."""
    if chosen.texts is None:
        if chosen.preset != "pocket":
            raise ValueError(
                "a model other than the pocket one is converted along its own streams: give --texts, encoded "
                "prompts as safetensors with `texts` [prompts, tokens, text_dim]."
            )
        return PocketClips(
            load_pool(chosen.clips, folder, preset), _clip_training(chosen, preset), preset.batch
        )
    prompts = Prompts(read_texts("convert-mla", chosen.texts, dense))
    positions = positions_of(preset.positions)
    config = StreamConfig(
        Geometry(*preset.size, latent_channels=dense.config.in_channels, patch=dense.config.patch[1]),
        positions,
        preset.block_frames,
        dtype=dense.patch_embedding.weight.dtype,
    )
    frames = (positions.capacity_frames or positions.trained_frames) + 2 * preset.block_frames
    return StreamedClips(dense, prompts, config, frames // preset.block_frames, preset.batch)


def _clip_training(chosen: argparse.Namespace, preset: Preset) -> PocketTraining:
    """What clips and their noise are drawn by."""
    training = PocketTraining(size=preset.size[0])
    return training if chosen.shift is None else replace(training, shift=chosen.shift)


def first_blocks_source(source: ClipSource, preset: Preset, folder: Path) -> ClipSource:
    """Streams' first blocks alone, as the clips beside them are; more rows without a prompt."""
    if isinstance(source, StreamedClips):
        return StreamedClips(source.dense, source.prompts, source.config, 1, source.batch)
    assert isinstance(source, PocketClips)
    training = replace(source.training, no_text_share=UNPROMPTED_SHARE)
    return PocketClips(load_first_blocks(folder, preset), training, FIRST_BATCH * preset.batch)


def read_texts(caller: str, path: Path, dense: WanModel) -> Tensor:
    """Encoded prompts [prompts, tokens, text_dim], in a file alone under `texts`; refuses others."""
    with open_tensors(caller, path, "encoded prompts") as file:
        names = list(file.keys())
        if names != ["texts"] or len(file.get_slice("texts").get_shape()) != 3:
            raise ValueError(
                f"{path} holds {', '.join(names)}; it must hold `texts` alone, [prompts, tokens, text_dim]."
            )
        texts_PLE = file.get_tensor("texts")
    if texts_PLE.shape[-1] != dense.text_dim:
        raise ValueError(f"texts are {texts_PLE.shape[-1]} wide, the model reads {dense.text_dim}.")
    return texts_PLE


def load_pool(path: Path | None, folder: Path, preset: Preset) -> PairedClips:
    """The pool of this file, or one in the folder, drawn when first changed for."""
    if path and not path.exists():
        raise FileNotFoundError(f"no pool of clips at {path}; leave --clips out to have one drawn.")
    sizes = (PocketTraining().short_blocks, preset.block_frames, preset.size[0])
    return load_or_draw(path or folder / "clips.pt", DRAWN, *sizes, seed=5)


def load_first_blocks(folder: Path, preset: Preset) -> PairedClips:
    """Streams' first blocks in the folder, drawn when first changed for."""
    sizes = (1, preset.block_frames, preset.size[0])
    return load_or_draw(folder / "clips_first.pt", FIRST_DRAWN, *sizes, seed=6)

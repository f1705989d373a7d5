"""The command: files in, memory plan, both phases, export and figures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ...model_patches.arch.mla import MlaModel
from ...model_patches.arch.rotary import RopeLayout
from ...model_patches.arch.wan import TEXT_TOKENS, WanModel
from ...model_patches.attention.positions import preset as positions_of
from ...model_patches.checkpoints.checkpoint import DENSE, open_checkpoint
from ...model_patches.checkpoints.files import save_tensors
from ...model_patches.geometry import Geometry
from ...model_patches.stream.config import StreamConfig
from ...model_patches.vae.load import load_vae
from .. import models, text
from ..held_out import History
from ..train_pocket import distributed
from ..train_pocket.record import begin_or_go_on, digest
from .chosen_clips import clip_source, first_blocks_source, load_first_blocks, load_pool
from .clip_sources import PocketClips, StreamedClips
from .distil import ClipSource, Distiller, build_student
from .memory_estimate import Job, estimate, why_not
from .presets import PRESETS, Preset
from .prompts import Prompts
from .rollout import PairedRollout
from .student_rollouts import BATCHES, StudentRollouts
from .student_states import StudentSampling


def convert(chosen: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    device = torch.device(chosen.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder = chosen.run or models.RUNS / "mla"
    folder.mkdir(parents=True, exist_ok=True)
    path = chosen.dense or models.WEIGHTS / models.DIT_FILE
    try:
        preset = _preset(chosen)
        dtype = torch.bfloat16 if preset.recipe.half else torch.float32
        dense, metadata = load_dense("--dense", path, chosen.nest, dtype)
        _check_sizes(preset, dense)
        metadata = _checked(chosen, path, metadata, preset)
        refusal = _check_memory(chosen, preset, dense, device)
        if chosen.plan or refusal:
            print(refusal or "convert-mla: it fits", file=sys.stderr)
            return 1 if refusal else 0
        if chosen.texts is None and chosen.preset == "pocket":
            begin_or_go_on(folder, {})
        if chosen.processes > 1 and not distributed.is_worker():
            if not chosen.texts:
                load_pool(chosen.clips, folder, preset)  # drawn once, by one
                if preset.recipe.beginnings:
                    load_first_blocks(folder, preset)
            return distributed.run_workers(chosen.processes, distributed.same_command())
        with distributed.process_group():
            _convert(chosen, preset, dense.to(device), metadata, folder)
    except (ValueError, OSError) as error:
        print(f"convert-mla: {error}", file=sys.stderr)
        return 2
    return 0


def load_dense(
    option: str, path: Path, copy: str | None, dtype: torch.dtype
) -> tuple[WanModel, Mapping[str, str]]:
    """The dense model of a file, of any latent channels, and the file's metadata; option: begins an error."""
    checkpoint = open_checkpoint(path, caller=option, kind=DENSE, channels=None, copy=copy)
    return checkpoint.load(dtype), checkpoint.metadata


def export(student: MlaModel, out: Path, metadata: Mapping[str, str], results: dict[str, object]) -> Path:
    """Write the converted model, with the results of the conversion, as half-precision safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if "recipe" in metadata else torch.bfloat16
    stored = json.loads(metadata.get("config", "{}")).get("transformer", {})
    stored |= {"num_heads": student.num_heads, "rope_layout": asdict(student.rope_layout)}
    tensors = {
        key: value.detach().cpu().to(dtype).contiguous() for key, value in student.state_dict().items()
    }
    about = {"config": json.dumps({"transformer": stored}), "converted": json.dumps(results)}
    if "recipe" in metadata:
        recipe = json.loads(metadata["recipe"])
        trained = f"{recipe['trained']}; converted to {student.sizes.cache_channels} numbers a token"
        about["recipe"] = json.dumps(recipe | {"trained": trained})
    path = out / models.MLA_FILE
    save_tensors(tensors, path, about)
    return path


def _preset(chosen: argparse.Namespace) -> Preset:
    preset = PRESETS[chosen.preset]
    sizes, recipe = preset.sizes, preset.recipe
    rope = sizes.rope if chosen.turned is None else RopeLayout.truncated(sizes.rope.head_dim, chosen.turned)
    sizes = replace(
        sizes,
        rope=rope,
        kv_latent=chosen.latent or sizes.kv_latent,
        query_latent=chosen.query_latent or sizes.query_latent,
    )
    for name in ("own", "beginnings"):
        share = getattr(chosen, name)
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"--{name} {share}: a share of the rollouts, from 0 to 1.")
    if chosen.shift is not None and (chosen.texts or not chosen.shift > 0):
        raise ValueError(
            f"--shift {chosen.shift}: more than 0, and for clips alone; along --texts noise levels are those "
            f"of the model's steps."
        )
    names = ("local_steps", "flow_steps", "sampled_steps", "minutes", "whole", "beginnings")
    changes = {name: getattr(chosen, name) for name in names} | {"student_share": chosen.own}
    changed = {key: value for key, value in changes.items() if value is not None}
    recipe = replace(recipe, offload=chosen.offload, half=recipe.half or chosen.half, **changed)
    size = tuple(chosen.size) if chosen.size else preset.size
    return replace(preset, sizes=sizes, recipe=recipe, batch=chosen.batch or preset.batch, size=size)


def _checked(
    chosen: argparse.Namespace, path: Path, metadata: Mapping[str, str], preset: Preset
) -> Mapping[str, str]:
    """The dense file's metadata, its recipe with the combinations that the converted model was trained on.

    Refuses a model that clips of the pocket world are not for.
    """
    recipe = models.recipe_of("--dense", path, metadata)
    if recipe is None:
        return metadata
    history = History()  # of prompts that are not the pocket's own
    if chosen.texts is None and chosen.preset == "pocket":
        where = f"--dense {path}"
        history = recipe.history.trained_on(where, recipe.trained)
        models.refuse_other_recipe(where, recipe, preset.size[0], preset.block_frames, preset.positions)
        models.refuse_other_latents(where, path, recipe, load_vae(models.WEIGHTS / models.VAE_FILE))
    stored = json.loads(metadata["recipe"]) | asdict(history)
    return {**metadata, "recipe": json.dumps(stored)}


def _check_sizes(preset: Preset, dense: WanModel) -> None:
    """Refuses latents that are no smaller than what they stand for, and heads of another width."""
    sizes, config = preset.sizes, dense.config
    if max(sizes.kv_latent, sizes.query_latent) > config.dim:
        raise ValueError(
            f"latents of {sizes.kv_latent} and {sizes.query_latent} channels are wider than the model's "
            f"{config.dim}; give a smaller --latent or --query-latent."
        )
    if sizes.rope.head_dim != config.head_dim:
        raise ValueError(f"the model's heads have {config.head_dim} channels, converted ones 128.")


def _check_memory(
    chosen: argparse.Namespace, preset: Preset, dense: WanModel, device: torch.device
) -> str | None:
    """Print the memory plan; a sentence if it does not fit."""
    dtype = dense.patch_embedding.weight.dtype
    tokens = TEXT_TOKENS if chosen.preset == "wan" else 6
    geometry = Geometry(*preset.size, latent_channels=dense.config.in_channels, patch=dense.config.patch[1])
    recipe, positions = preset.recipe, positions_of(preset.positions)
    rows = 2 if chosen.texts is None else 1  # of a stream: guidance needs a second
    job = Job(
        dense.config,
        preset.sizes,
        positions,
        geometry,
        preset.block_frames,
        preset.batch * (rows if recipe.sampled_steps else 1),
        tokens,
        dtype,
        recipe.whole,
        recipe.offload,
        BATCHES * preset.batch * rows if recipe.student_share else 0,
        BATCHES if recipe.sampled_steps else 1,
    )
    needed = estimate(job)
    if distributed.rank() == 0:
        latent, full = preset.sizes.cache_channels, 2 * dense.config.dim
        print(
            f"{full} -> {latent} numbers of a token and layer: {full / latent:.1f} times fewer",
            file=sys.stderr,
        )
        print(needed, file=sys.stderr)
    return why_not(needed, device)


def _convert(
    chosen: argparse.Namespace, preset: Preset, dense: WanModel, metadata: Mapping[str, str], folder: Path
) -> None:
    student = build_student(dense, preset.sizes, preset.recipe.whole)
    rollout = PairedRollout(dense, positions_of(preset.positions), preset.block_frames)
    source = clip_source(chosen, preset, dense, folder)
    recipe = preset.recipe
    student_clips = _student_rollouts(source, student, metadata) if recipe.student_share else None
    beginnings = first_blocks_source(source, preset, folder) if recipe.beginnings else None
    sampling = None
    if recipe.sampled_steps:
        prompts, config = _stream_setup(source, metadata, "--sampled-steps")
        sampling = StudentSampling(rollout, student, prompts, config, preset.batch)
    others = (student_clips, beginnings, sampling)
    about = _about(chosen, preset)
    distiller = Distiller(rollout, student, source, recipe, folder, *others, about=about)
    started, figures = time.monotonic(), folder / "figures.json"
    if not (folder / "local.pt").exists():
        distiller.initialize()
        figures.write_text(json.dumps({"start": distiller.evaluate()}))
    distiller.train()
    if distributed.rank():
        return
    results = json.loads(figures.read_text()) | {"end": distiller.evaluate()}
    results |= {"seconds": round(time.monotonic() - started), "sizes": _plain_sizes(student)}
    figures.write_text(json.dumps(results))
    print(json.dumps(results))
    print(export(student, chosen.out or folder / "export", metadata, results))


def _about(chosen: argparse.Namespace, preset: Preset) -> dict[str, object]:
    """What beside the recipe may not change when a conversion goes on."""
    files = {"dense": chosen.dense or models.WEIGHTS / models.DIT_FILE, "clips": chosen.clips}
    files |= {"texts": chosen.texts}
    about = {name: None if path is None else digest(path) for name, path in files.items()}
    sizes = {"kv_latent": preset.sizes.kv_latent, "query_latent": preset.sizes.query_latent}
    about |= sizes | {"turned": preset.sizes.rope.turned, "size": preset.size, "shift": chosen.shift}
    return about | {"copy": chosen.nest, "batch": preset.batch * chosen.processes}


def _plain_sizes(student: MlaModel) -> dict[str, object]:
    sizes = student.sizes
    return {"kv_latent": sizes.kv_latent, "query_latent": sizes.query_latent, "turned": sizes.rope.turned}


def _student_rollouts(source: ClipSource, student: MlaModel, metadata: Mapping[str, str]) -> StudentRollouts:
    """Clips that the student streams, prompted and run as those beside them are."""
    prompts, config = _stream_setup(source, metadata, "--own")
    if isinstance(source, PocketClips):
        blocks = source.pool.latents_BVCTHW.shape[3] // config.block_frames
    else:
        assert isinstance(source, StreamedClips)
        blocks = source.blocks
    return StudentRollouts(student, prompts, config, source.levels, blocks, source.batch)


def _stream_setup(
    source: ClipSource, metadata: Mapping[str, str], option: str
) -> tuple[Prompts, StreamConfig]:
    """Prompts, and how streams of the student are run."""
    if isinstance(source, StreamedClips):
        return source.prompts, replace(source.config, dtype=torch.float32)  # of what is trained
    assert isinstance(source, PocketClips)
    recipe = models.recipe_of(option, Path("the dense file"), metadata)
    if recipe is None:
        raise ValueError(
            f"{option} streams the model as its recipe says, and the dense file has none in its metadata; "
            f"give one that `python run.py train-pocket` exported, or {option} 0."
        )
    config = recipe.config()
    negative = text.no_text() if config.guided else None
    return Prompts(source.pool.texts_BVLC.flatten(0, 1), negative), config

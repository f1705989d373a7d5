"""The decoder that draws the pocket world in soft light: the few tensors in which it differs from the VAE.

It makes pictures of twice the size from the VAE's own latents. Its coarse stages are the VAE's; those that
follow, and the head, are in a file of their own, which names the VAE that it belongs to.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..model_patches.checkpoints.files import first_few, open_tensors, save_tensors, shapes_of
from ..model_patches.checkpoints.limits import read_json
from ..model_patches.vae.wan import WanVAE
from .held_out import History
from .models import half_digest

LIT_FILE = "pocket_lit.safetensors"
UPSCALE = 2
FIRST_LIT = 7  # of the decoder's upsampling layers: those before it are the VAE's own
HEAD = "decoder.head."
RECORD = "lit"  # entry of the file's metadata
WANTED = "a decoder that `python run.py train-pocket --only lit` exported"


def enlarged(vae: WanVAE) -> WanVAE:
    """A VAE of the same tensors whose head draws every pixel as a square of four; its own decoder's copy."""
    like = next(vae.parameters())
    with torch.device("meta"):
        twice = WanVAE(vae.encoder.conv1.out_channels, vae.latent_channels, UPSCALE)
    state = {key: value.detach().clone() for key, value in vae.state_dict().items()}
    for key in ("decoder.head.2.weight", "decoder.head.2.bias"):
        state[key] = state[key].repeat_interleave(UPSCALE**2, 0)
    twice.load_state_dict(state, assign=True)
    return twice.to(like.device, like.dtype).requires_grad_(False).eval()


def is_lit(key: str) -> bool:
    """Whether a tensor of this name is the lit decoder's own."""
    layer = key.removeprefix("decoder.upsamples.")
    return key.startswith(HEAD) or (layer != key and int(layer.split(".")[0]) >= FIRST_LIT)


def fingerprint_of_vae(vae: WanVAE) -> str:
    """Of all its tensors, see `half_digest`."""
    return half_digest(vae)


def save_lit(lit: WanVAE, vae: WanVAE, trained: str, history: History, folder: Path) -> Path:
    """Write what a lit decoder has of its own, half precision, beside the VAE that it was trained from."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        key: value.detach().cpu().half().contiguous()
        for key, value in lit.state_dict().items()
        if is_lit(key)
    }
    record = {"vae": fingerprint_of_vae(vae), "trained": trained, **asdict(history)}
    save_tensors(own, folder / LIT_FILE, {RECORD: json.dumps(record)})
    return folder / LIT_FILE


def load_lit(vae: WanVAE, path: Path) -> WanVAE:
    """The VAE with the lit decoder of a file: `upscale` 2, frozen, the VAE's dtype.

    vae: float32 or half precision; its numbers are compared in the latter. Raises ValueError for a file of
    another VAE, or one with other tensors or numbers; FileNotFoundError without one.
    """
    with open_tensors("load_lit", path, WANTED) as file:
        metadata = file.metadata() or {}
        record = read_json("load_lit", path, metadata, RECORD) if RECORD in metadata else {}
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    _refuse_other_vae(path, record, vae)
    lit = enlarged(vae)
    _refuse_other_tensors(path, tensors, lit)
    like = next(vae.parameters())
    state = {key: value.to(like.device, like.dtype) for key, value in tensors.items()}
    lit.load_state_dict(state, strict=False)
    return lit


def _refuse_other_vae(path: Path, record: dict[str, object], vae: WanVAE) -> None:
    belongs, found = record.get("vae"), fingerprint_of_vae(vae)
    if belongs != found:
        raise ValueError(
            f"load_lit: {path} is the last stages of VAE {belongs or 'that it does not name'}, and the VAE "
            f"beside it is {found}. Give {WANTED}, with the VAE that it was trained from."
        )


def _refuse_other_tensors(path: Path, tensors: dict[str, Tensor], lit: WanVAE) -> None:
    needed = {key: shape for key, shape in shapes_of(lit.state_dict()).items() if is_lit(key)}
    given = shapes_of(tensors)
    if given != needed:
        wrong = sorted(key for key in needed.keys() | given.keys() if given.get(key) != needed.get(key))
        raise ValueError(
            f"load_lit: {path} has other tensors than it needs ({first_few(wrong)}). Give {WANTED}."
        )
    broken = [key for key, value in tensors.items() if not _is_weights(value)]
    if broken:
        raise ValueError(
            f"load_lit: {path} holds numbers that are no weights in half precision ({first_few(broken)}), "
            f"and its pictures would be black or noise. Copy it again, or give {WANTED}."
        )


def _is_weights(value: Tensor) -> bool:
    return value.is_floating_point() and bool(value.half().isfinite().all())

"""Reads a Wan 2.1 VAE checkpoint of any width, every key and shape accounted for."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .wan import WanVAE

WIDTH_KEY = "decoder.head.0.gamma"
WAN22_KEY = "decoder.upsamples.0.upsamples.0.residual.2.weight"


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> WanVAE:
    """The VAE of a .safetensors file, frozen, in `dtype`; its width is read from the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_vae: no file at {path}; give the path of a Wan 2.1 VAE .safetensors file.")
    try:
        tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(
            f"load_vae: {path} ({path.stat().st_size:,} bytes) is not a whole safetensors file: {error}. "
            f"Copy or download it again.") from error
    if WAN22_KEY in tensors or WIDTH_KEY not in tensors:
        kind = "a Wan 2.2 VAE" if WAN22_KEY in tensors else f"no Wan VAE (it lacks {WIDTH_KEY})"
        raise ValueError(f"load_vae: {path} is {kind}; needs the VAE of Wan 2.1.")
    with torch.device("meta"):
        vae = WanVAE(tensors[WIDTH_KEY].shape[0])
    needed = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    wrong = sorted(needed.items() ^ {key: tuple(value.shape) for key, value in tensors.items()}.items())
    if wrong:
        names = sorted({key for key, _ in wrong})
        raise ValueError(
            f"load_vae: {len(names)} keys of {path} are missing, unknown or of another shape than a Wan 2.1 VAE of "
            f"width {tensors[WIDTH_KEY].shape[0]} has: {', '.join(names[:4])}. Only files with the published names "
            f"can be read.")
    vae.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    return vae.requires_grad_(False).eval()

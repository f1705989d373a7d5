"""Reads a Wan 2.1 VAE checkpoint of any width, every key and shape accounted for."""

from pathlib import Path

import torch

from ..checkpoint import Shapes, match, open_tensors, shapes_in
from .wan import WanVAE

WIDTH_KEY = "decoder.head.0.gamma"
WAN22_KEY = "decoder.upsamples.0.upsamples.0.residual.2.weight"


def load_vae(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> WanVAE:
    """The VAE of a .safetensors file, frozen, in `dtype`; its width is read from the file."""
    path = Path(path)
    wanted = "a Wan 2.1 VAE .safetensors file"
    with open_tensors("load_vae", path, wanted, device=device) as file:
        shapes = shapes_in(file)
        width = _width(path, shapes)
        with torch.device("meta"):
            vae = WanVAE(width)
        sizes = f"{WIDTH_KEY} makes it a VAE of width {width}"
        match("load_vae", path, shapes, vae, "Wan 2.1 VAE files", sizes)
        vae.load_state_dict({key: file.get_tensor(key).to(dtype) for key in shapes}, assign=True)
    return vae.requires_grad_(False).eval()


def _width(path: Path, shapes: Shapes) -> int:
    if WAN22_KEY in shapes:
        raise ValueError(f"load_vae: {path} is a Wan 2.2 VAE; needs the VAE of Wan 2.1.")
    if not shapes.get(WIDTH_KEY):
        raise ValueError(
            f"load_vae: {path} is no Wan VAE (it has no width in {WIDTH_KEY}); needs the VAE of Wan 2.1."
        )
    return shapes[WIDTH_KEY][0]

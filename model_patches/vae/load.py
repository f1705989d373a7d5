"""Loads a Wan 2.1 VAE or a tiny decoder of any width; every key and shape is checked."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoints import wan22
from ..checkpoints.files import Shapes, check_shapes, first_few, open_tensors, shapes_in
from ..geometry import LATENT_CHANNELS
from .tiny import WIDTH_KEYS, TinyDecoder
from .wan import UPSCALES, WanVAE

WIDTH_KEY = "decoder.head.0.gamma"
HEAD_KEY = "decoder.head.2.weight"
TINY_KEY = "decoder.22.bias"  # the last layer of the TAEHV family's decoders
NEEDED = (
    f"a stream needs the VAE of Wan 2.1 ({LATENT_CHANNELS} channels, 8 pixels), such as "
    f"wan_2.1_vae.safetensors"
)
HEAD_CHANNELS = "3, a picture, or 12, one of twice its height and width"
# latent channels -> model of the family's other decoders
FAMILY = {24: "MiniMax H3", 32: "HunyuanVideo 1.5", wan22.CHANNELS_5B: wan22.NAME_5B, 128: "LTX 2"}


def load_vae(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> WanVAE:
    """The VAE of a .safetensors file, frozen, in `dtype`; its width and `upscale` are read from it."""
    path = Path(path)
    wanted = "a Wan 2.1 VAE .safetensors file"
    with open_tensors("load_vae", path, wanted, device=device) as file:
        shapes = shapes_in(file)
        width, upscale = _width(path, shapes), _upscale(path, shapes)
        with torch.device("meta"):
            vae = WanVAE(width, upscale=upscale)
        sizes = f"{WIDTH_KEY} makes it a VAE of width {width}"
        check_shapes("load_vae", path, shapes, vae, "Wan 2.1 VAE files", sizes)
        vae.load_state_dict({key: file.get_tensor(key).to(dtype) for key in shapes}, assign=True)
    return vae.requires_grad_(False).eval()


def load_tiny(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    takes_vae_units: bool | None = None,
) -> TinyDecoder:
    """The decoder of a TAEHV file for Wan 2.1 (.safetensors), frozen, in `dtype`; its encoder is left out.

    takes_vae_units: as `TinyDecoder`. None reads it from the file's name, since the published files have the
    same keys and shapes: lighttaew2_1 takes the VAE's units, taew2_1 the model's; another name is refused, as
    it may be HunyuanVideo's.
    """
    path = Path(path)
    wanted = "a tiny decoder for Wan 2.1, such as taew2_1.safetensors"
    remedy = "Copy or download it again; of a .pth file take the .safetensors of the same name."
    with open_tensors("load_tiny", path, wanted, remedy, device=device) as file:
        shapes = shapes_in(file)
        _refuse_other_kinds(path, shapes)
        if takes_vae_units is None:
            takes_vae_units = units_by_name(path)
        widths = [shapes[key][0] for key in WIDTH_KEYS]
        sizes = f"{first_few(WIDTH_KEYS)} give it the widths {widths}"
        with torch.device("meta"):
            model = TinyDecoder(widths, takes_vae_units)
        decoder_shapes = {key: shape for key, shape in shapes.items() if not key.startswith("encoder.")}
        check_shapes("load_tiny", path, decoder_shapes, model, "TAEHV decoders for Wan 2.1", sizes)
        model.load_state_dict({key: file.get_tensor(key).to(dtype) for key in decoder_shapes}, assign=True)
    return model.requires_grad_(False).eval()


def units_by_name(path: Path) -> bool:
    """Whether the decoder of this file takes the VAE's units; ValueError where its name does not tell."""
    name = path.stem.lower()
    if "taew2_1" in name:
        return "lighttaew2_1" in name
    raise ValueError(
        f"load_tiny: {path.name} is laid out like taew2_1, lighttaew2_1 and HunyuanVideo's taehv, whose "
        f"latents differ; only the name tells them apart. Rename it to its published name, or give "
        f"takes_vae_units: False for taew2_1, True for lighttaew2_1."
    )


def _refuse_other_kinds(path: Path, shapes: Shapes) -> None:
    """Raises ValueError unless the file has the family's keys and Wan 2.1's latents."""
    absent = [key for key in (TINY_KEY, *WIDTH_KEYS) if not shapes.get(key)]
    if absent:
        if WIDTH_KEY in shapes:
            raise ValueError(f"load_tiny: {path} is no tiny decoder but a whole VAE; read it with load_vae.")
        raise ValueError(
            f"load_tiny: {path} is no tiny decoder of the TAEHV family (it has no {first_few(absent)}); take "
            f"taew2_1 or lighttaew2_1."
        )
    channels = shapes[WIDTH_KEYS[0]][1]
    if channels != LATENT_CHANNELS:
        raise ValueError(
            f"load_tiny: {path} is a tiny decoder for {FAMILY.get(channels, 'another model')} ({channels} "
            f"latent channels); a stream has Wan 2.1's {LATENT_CHANNELS}. Take taew2_1 or lighttaew2_1."
        )


def _width(path: Path, shapes: Shapes) -> int:
    if wan22.VAE_KEY_5B in shapes:
        raise ValueError(f"load_vae: {path} is {wan22.VAE_5B}; {NEEDED}.")
    if TINY_KEY in shapes:
        raise ValueError(f"load_vae: {path} is a tiny decoder (TAEHV); read it with load_tiny.")
    if not shapes.get(WIDTH_KEY):
        raise ValueError(
            f"load_vae: {path} is no Wan VAE (it has no width in {WIDTH_KEY}); needs the VAE of Wan 2.1."
        )
    return shapes[WIDTH_KEY][0]


def _upscale(path: Path, shapes: Shapes) -> int:
    """How many times the usual size the decoder's pictures have; a file without the head's key has 1."""
    head = shapes.get(HEAD_KEY) or (3,)
    if head[0] not in UPSCALES:
        raise ValueError(f"load_vae: {path} {why_not_head(head[0])}.")
    return UPSCALES[head[0]]


def why_not_head(channels: int) -> str:
    """What is said of a VAE whose decoder ends in so many channels; it goes on after the VAE's name."""
    return (
        f"draws {channels} channels (its {HEAD_KEY}); a stream takes {HEAD_CHANNELS}. Take "
        f"wan_2.1_vae.safetensors or Wan2.1_VAE_upscale2x_imageonly_real_v1.safetensors"
    )

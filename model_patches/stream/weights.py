"""Whether a stream goes on with the weights that it was made with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..arch.fingerprint import difference, farthest
from .header import Header

Fingerprint = Mapping[str, Tensor]
# Of the kind of weights that differs most: sums rounded to bfloat16 in another order move one by up to 1.1 %
# (the pocket model; 0.9 % at the widths of Wan 1.3B), weights kept in float8 by 4.4 % and more.
ROUNDING = 0.02


def refuse_other_weights(made_with: Fingerprint, present: Fingerprint, source: str) -> None:
    """ValueError where the model's weights differ by more than rounding from those that made the file."""
    apart, kind = farthest(made_with, present)
    if not apart <= ROUNDING:
        raise ValueError(
            f"Resume: the take in {source} was made with weights that differ from this model's by "
            f"{100 * apart:.1f} % in {kind}, and would not go on as it began. Load the weights it was made "
            f"with, with the same adapters (LoRA) and kept in the same way, or begin a new stream."
        )


def refuse_other_pictures(header: Header, upscale: int, source: str) -> None:
    """ValueError where a VAE draws the pictures of the file's take larger or smaller than they are."""
    if header.upscale == upscale:
        return
    had, has = ("{}x{}".format(*header.config.geometry.picture_size(n)) for n in (header.upscale, upscale))
    raise ValueError(
        f"Resume: the pictures of the take in {source} are {had}, and this VAE draws {has} of its latents. "
        f"Connect the VAE it was made with (of Pocket Model: set the other look), or begin a new video with "
        f"its end (Start From)."
    )


def refuse_other_decoder(shown_by: Tensor, present: Tensor | None, source: str) -> None:
    """ValueError where another VAE made the pictures of the file's take; both as its fingerprint has it."""
    if present is None:
        return
    pairs = zip(shown_by.split(1), present.split(1), strict=False)
    same = shown_by.shape == present.shape
    apart = max((difference(*pair) for pair in pairs), default=0.0) if same else float("inf")
    if not apart <= ROUNDING:
        what = (
            f"one whose weights differ from this one's by {100 * apart:.1f} %"
            if same
            else "one of another kind"
        )
        raise ValueError(
            f"Resume: the pictures of the take in {source} were made by another VAE, {what}, so a seam would "
            f"show. Connect the VAE it was made with, or go on from its video with Start From."
        )

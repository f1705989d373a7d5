"""Streaming decoder and encoder: latents to frames and back, piece by piece.

C channels, F pixel frames, T latent frames, H/W of the picture or of the latent grid. The result does
not depend on the pieces; a VAE never sees more than `MAX_LATENTS` latents in one call, so its
working memory does not depend on how much arrives at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..transfer import to_device
from .fingerprint import fingerprint
from .reach import reach_of_tiny, reach_of_wan
from .tiny import TinyDecoder
from .wan import SPACE_STRIDE, TIME_STRIDE, LayerBuffers, SpentBuffers, WanVAE

MAX_LATENTS = 4


class VideoDecoder(Protocol):
    """Interface of a causal decoder, Wan's or a tiny one: its layer buffers are passed in and returned.

    Those in a tuple stay as they are; a list of them is given away, and used up.
    """

    latent_channels: int
    upscale: int  # times of SPACE_STRIDE that a latent's place measures in its pictures

    def decode(
        self, latents_BCTHW: Tensor, past: LayerBuffers | SpentBuffers | None = None
    ) -> tuple[Tensor, LayerBuffers]: ...

    def parameters(self) -> Iterator[Tensor]: ...


class VideoVae(VideoDecoder, Protocol):
    """A decoder that can also encode."""

    def encode(
        self, pixels_BCFHW: Tensor, past: LayerBuffers | SpentBuffers | None = None
    ) -> tuple[Tensor, LayerBuffers]: ...


@dataclass(frozen=True, slots=True)
class VaeBuffers:
    """Buffers of one direction of a stream between two pieces; replaced by each piece, never changed."""

    layers: tuple[
        Any, ...
    ]  # newest frames of every causal layer, in the order of the forward; a host's may be
    # words or None
    pending: Tensor | None = (
        None  # what waits for more: an encoder's pixels of a group that is not full, in the
    )
    # VAE's dtype and [-1, 1]; latents, where a host's decoder takes two at a time

    def on(self, device: torch.device) -> VaeBuffers:
        """The same buffers there; themselves where they are there already."""
        tensors = [part for part in (*self.layers, self.pending) if isinstance(part, Tensor)]
        if all(part.device == device for part in tensors):
            return self
        layers = tuple(part.to(device) if isinstance(part, Tensor) else part for part in self.layers)
        return VaeBuffers(layers, None if self.pending is None else self.pending.to(device))


class StreamDecoder(Protocol):
    """Decodes one stream block by block."""

    def decode(
        self, latents_BCTHW: Tensor, past: VaeBuffers | None, *, last: bool = False, exact: bool = False
    ) -> tuple[Tensor, VaeBuffers | None]:
        """(pixels [F, H, W, 3] on the VAE's device, uint8; past for the next call).

        latents: one stream [1, C, T, H, W] in the model's units, any T from 0, finite. past: None where a
        scene begins, else this stream's, on any device; it stays as it is. last: nothing follows, so nothing
        is held back. exact: something is added to the pixels, which may come in [0, 1], not yet rounded.
        """
        ...

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        """ValueError for buffers of another kind of decoder."""
        ...

    @property
    def forgets_after(self) -> int | None:
        """Latents after which nothing of what was before them is in the past; None where nobody knows."""
        ...

    @property
    def upscale(self) -> int:
        """Times of SPACE_STRIDE that a latent's place measures in its pictures."""
        ...

    @property
    def in_pairs(self) -> bool:
        """Whether its layers get a scene's latents as one, then two by two, whatever it is given at once."""
        ...

    def fingerprint(self) -> Tensor | None:
        """Of its weights, [tensors, 1, 4] on the CPU, taken once; None where it has none."""
        ...

    def weights(self) -> Iterator[Tensor]:
        """The tensors that decoding reads beside its inputs, wherever they are."""
        ...


class VaeDecoder:
    """StreamDecoder of the engine's own VAE; it holds no latents back and returns uint8."""

    def __init__(self, vae: VideoDecoder) -> None:
        self.vae = vae
        self._fingerprint: Tensor | None = None  # once it was asked for

    def decode(
        self, latents_BCTHW: Tensor, past: VaeBuffers | None, *, last: bool = False, exact: bool = False
    ) -> tuple[Tensor, VaeBuffers | None]:
        if past is not None:
            device = next(self.vae.parameters()).device
            past = VaeBuffers(tuple(layer.to(device) for layer in past.layers))
        return _decode(self.vae, latents_BCTHW, past)

    def refuse_foreign(self, past: VaeBuffers | None) -> None:
        """Does nothing: the first decode compares sizes and dtype."""

    in_pairs = False

    @property
    def upscale(self) -> int:
        return self.vae.upscale

    @property
    def forgets_after(self) -> int | None:
        if isinstance(self.vae, TinyDecoder):
            return reach_of_tiny(self.vae.decoder)
        return reach_of_wan(self.vae.decoder) if isinstance(self.vae, WanVAE) else None

    def fingerprint(self) -> Tensor:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.vae.parameters())
        return self._fingerprint

    def weights(self) -> Iterator[Tensor]:
        return self.vae.parameters()


@torch.no_grad()
def decode_stream(
    vae: VideoDecoder,
    latents_BCTHW: Tensor,
    past: VaeBuffers | None = None,
    max_latents: int = MAX_LATENTS,
    dtype: torch.dtype = torch.uint8,
) -> tuple[Tensor, VaeBuffers | None]:
    """(pixels [F, H, W, 3], past for the next call); a stream's first latent gives 1 frame, every other 4.

    latents: one stream [1, C, T, H, W] in the model's units, any T from 0; they are brought to the VAE's
    dtype and device. pixels: uint8 in 0..255, or a floating `dtype` in [0, 1], on the VAE's device. past:
    None at the start of a stream; it stays as it is. Beside it and the new one no other past is held: between
    two pieces each layer's buffer gives way to its next.
    """
    _check_piece(max_latents)
    _check_latents(vae, latents_BCTHW)
    _check_numbers(latents_BCTHW)
    return _decode(vae, latents_BCTHW, past, max_latents, dtype)


@torch.no_grad()
def _decode(
    vae: VideoDecoder,
    latents_BCTHW: Tensor,
    past: VaeBuffers | None,
    max_latents: int = MAX_LATENTS,
    dtype: torch.dtype = torch.uint8,
) -> tuple[Tensor, VaeBuffers | None]:
    """`decode_stream` of latents that a step has found to be numbers."""
    _check_latents(vae, latents_BCTHW)
    latents_BCTHW = latents_BCTHW.to(next(vae.parameters()))
    layers: LayerBuffers | SpentBuffers | None = None if past is None else past.layers
    _check_past(layers, latents_BCTHW, "latents")
    height, width = (length * SPACE_STRIDE * vae.upscale for length in latents_BCTHW.shape[3:])
    pieces = [torch.empty(0, height, width, 3, dtype=dtype, device=latents_BCTHW.device)]
    for piece_BCTHW in latents_BCTHW.split(max_latents, 2) if latents_BCTHW.shape[2] else ():
        pixels_BCFHW, after = vae.decode(piece_BCTHW, layers)
        pieces.append(_to_frames(pixels_BCFHW, dtype))
        layers = list(after)
        del after, pixels_BCFHW  # the next piece has the only reference to a past that nobody keeps
    return torch.cat(pieces), _buffers(layers)


@torch.no_grad()
def encode_stream(
    vae: VideoVae, pixels_FHWC: Tensor, past: VaeBuffers | None = None, max_latents: int = MAX_LATENTS
) -> tuple[Tensor, VaeBuffers | None]:
    """(latents [1, C, T, H/8, W/8], past for the next call); T counts the groups that have become full.

    pixels: uint8 in 0..255 or floating point in [0, 1], any F from 0. The first frame of a stream is a group
    of its own, then every four; frames of a group that is not full wait in the past. past: None at the start.
    """
    _check_piece(max_latents)
    _check_frames(pixels_FHWC)
    pixels_BCFHW = _from_frames(pixels_FHWC, next(vae.parameters()))
    layers: LayerBuffers | SpentBuffers | None = None if past is None else past.layers
    _check_past(layers, pixels_BCFHW, "frames")
    if past is not None and past.pending is not None:
        pixels_BCFHW = torch.cat([past.pending, pixels_BCFHW], 2)
    height, width = pixels_FHWC.shape[1] // SPACE_STRIDE, pixels_FHWC.shape[2] // SPACE_STRIDE
    pieces = [pixels_BCFHW.new_empty(1, vae.latent_channels, 0, height, width)]
    while frames := _full_frames(pixels_BCFHW.shape[2], layers is None, max_latents):
        latents_BCTHW, after = vae.encode(pixels_BCFHW[:, :, :frames], layers)
        layers = list(after)
        del after
        pieces.append(latents_BCTHW)
        pixels_BCFHW = pixels_BCFHW[:, :, frames:]
    # clone: a view would keep every frame of this call alive
    return torch.cat(pieces, 2), _buffers(layers, pixels_BCFHW)


def _buffers(layers: LayerBuffers | SpentBuffers | None, pending: Tensor | None = None) -> VaeBuffers | None:
    """What a stream keeps after a piece; None before its first."""
    if layers is None:
        return None
    return VaeBuffers(tuple(layers), None if pending is None else pending.clone())


def to_levels(pixels: Tensor) -> Tensor:
    """The nearest uint8 levels of numbers in [0, 1], on their device; others go to the nearer end."""
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)


def to_tensors(past: VaeBuffers | None) -> dict[str, Tensor]:
    """The buffers as named tensors, for a file; none before the first piece."""
    if past is None:
        return {}
    named: dict[str, Tensor] = {}
    for number, layer in enumerate(past.layers):
        if isinstance(layer, Tensor):
            named[f"layer_{number:03}"] = layer
        else:
            named[f"layer_{number:03}={layer or ''}"] = torch.empty(0)
    return named if past.pending is None else {**named, "held": past.pending}


def from_tensors(named: Mapping[str, Tensor]) -> VaeBuffers | None:
    """The buffers of `to_tensors`; ValueError for a missing layer."""
    if not named:
        return None
    layers = sorted(name for name in named if name != "held")
    if not layers or [name.partition("=")[0] for name in layers] != [
        f"layer_{number:03}" for number in range(len(layers))
    ]:
        raise ValueError(
            f"VAE past: got tensors {', '.join(sorted(named))}, needs layer_000 onwards without a gap; "
            f"the file is truncated or of another kind."
        )
    words = [name.partition("=") for name in layers]
    values = (
        word or None if equal else named[name] for name, (_, equal, word) in zip(layers, words, strict=True)
    )
    return VaeBuffers(tuple(values), named.get("held"))


def _full_frames(frames: int, start: bool, max_latents: int) -> int:
    """Pixel frames of the next call: full groups, at most max_latents; 0 if none is full."""
    groups = min((frames - start) // TIME_STRIDE, max_latents - start) if frames else 0
    return groups * TIME_STRIDE + (start and frames > 0)


def _to_frames(pixels_BCFHW: Tensor, dtype: torch.dtype) -> Tensor:
    pixels_FHWC = (pixels_BCFHW[0].permute(1, 2, 3, 0) + 1) / 2
    if dtype == torch.uint8:
        return to_levels(pixels_FHWC)
    return pixels_FHWC.clamp(0, 1).to(dtype)


def _from_frames(pixels_FHWC: Tensor, like: Tensor) -> Tensor:
    scale = 255 if pixels_FHWC.dtype == torch.uint8 else 1
    there_FHWC = to_device(pixels_FHWC, like.device).to(like.dtype)
    return (there_FHWC / scale * 2 - 1).permute(3, 0, 1, 2)[None]


def _check_piece(max_latents: int) -> None:
    if not 1 <= max_latents <= MAX_LATENTS:
        raise ValueError(
            f"VAE stream: max_latents must be 1 to {MAX_LATENTS}, got {max_latents}; "
            f"it changes the memory used, not the pixels."
        )


def _check_latents(vae: VideoDecoder, latents_BCTHW: Tensor) -> None:
    shape, channels = list(latents_BCTHW.shape), vae.latent_channels
    if len(shape) != 5 or shape[:2] != [1, channels] or not latents_BCTHW.is_floating_point():
        raise ValueError(
            f"VAE decode: needs floating-point latents of one stream [1, {channels}, T, H, W], "
            f"got {shape} of {latents_BCTHW.dtype}; decode the rows of a batch one by one."
        )


def _check_numbers(latents_BCTHW: Tensor) -> None:
    finite_T = latents_BCTHW.isfinite().all(1).flatten(2).all(2)[0]
    if not bool(finite_T.all()):  # the only wait for the device
        bad = [t for t, finite in enumerate(finite_T.tolist()) if not finite]
        raise ValueError(
            f"VAE decode: latent frames {bad} of {len(finite_T)} hold NaN or infinity and would spoil every "
            f"later frame; run the block again, or sample in float32 or bfloat16."
        )


def _check_frames(pixels_FHWC: Tensor) -> None:
    shape, dtype = list(pixels_FHWC.shape), pixels_FHWC.dtype
    if len(shape) != 4 or shape[3] != 3 or not (dtype == torch.uint8 or dtype.is_floating_point):
        raise ValueError(
            f"VAE encode: needs frames [F, H, W, 3] of uint8 or of floating point in [0, 1], "
            f"got {shape} of {dtype}."
        )
    if not shape[1] or not shape[2] or shape[1] % SPACE_STRIDE or shape[2] % SPACE_STRIDE:
        raise ValueError(
            f"VAE encode: width and height must be multiples of {SPACE_STRIDE} pixels, "
            f"got {shape[2]}x{shape[1]}; resize or crop the frames first."
        )
    if dtype != torch.uint8 and not pixels_FHWC.isfinite().all():
        raise ValueError("VAE encode: the frames hold NaN or infinity; give values in [0, 1].")


def _check_past(layers: LayerBuffers | SpentBuffers | None, x: Tensor, what: str) -> None:
    """ValueError unless the first layer's buffer has the input's size, dtype and device."""
    if layers is None:
        return
    first = layers[0]
    assert first is not None, "a past that a piece has used up"
    if first.shape[3:] != x.shape[3:]:
        raise ValueError(
            f"VAE stream: the past is of {what} of {list(first.shape[3:])}, the new {what} are of "
            f"{list(x.shape[3:])}; start a new stream with past=None."
        )
    if (first.dtype, first.device) != (x.dtype, x.device):
        raise ValueError(
            f"VAE stream: the past is {first.dtype} on {first.device}, the VAE is {x.dtype} on {x.device}; "
            f"load the past with the VAE it was made by."
        )

"""What the tensors of a snapshot can be: names, sizes and numbers, checked before anything is made of them.

B batch, C channels, T latent frames, H/W of the latent grid, L text tokens, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .config import StreamConfig
from .header import Header

PARTS = ("cache", "memory", "prompt", "blend", "past", "ledger")
# of keys, values and tokens: products of such numbers stay finite in every dtype but float16, whose own end
# is nearer; latents have unit spread
LARGEST = 1e6
LATENTS = ("tail", "under_way")
BOUNDS = {
    "tail": 1e3,
    "under_way": 1e3,
    "ledger": 255.0,
}  # pictures, and what was lost of them, are in levels or in 0..1
LONGEST_TEXT = 1 << 16  # tokens, and numbers in one


def check_names(file: Any, header: Header) -> None:
    """ValueError for tensors of other names, sizes or kinds than a state of this header has.

    file: an open safetensors file, of which no tensor is read.
    """
    names = list(file.keys())
    for name in names:
        part, dot, rest = name.partition(".")
        if name not in LATENTS and not (part in PARTS and dot and rest):
            raise ValueError(f"a tensor is called {name[:40]!r}")
    if "tail" not in names or not any(name.startswith("prompt.") for name in names):
        raise ValueError("its newest latents or its prompt are missing")
    geometry = header.config.geometry
    given, shown = ([geometry.height * times, geometry.width * times, 3] for times in (1, header.upscale))
    pictures = {"ledger.ending_HWC": (given, shown), "ledger.lost_HWC": (shown,)}
    for name in names:
        sizes = list(file.get_slice(name).get_shape())
        if name.startswith("ledger.") and sizes not in pictures.get(name, ()):
            raise ValueError(f"{name[:40]} is {sizes}")
        if name.startswith("past.") and not header.start_frame:
            raise ValueError("there is a past of a decoder before a scene has begun")


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """ValueError for numbers that are none, or so large that they would spoil the next block."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = (bound.item() for bound in tensor.aminmax())
            allowed = BOUNDS.get(name.partition(".")[0], LARGEST)
            if not (-allowed <= least and most <= allowed):
                raise ValueError(f"{name[:40]} holds numbers from {least:g} to {most:g}")
        elif tensor.is_complex():
            raise ValueError(f"{name[:40]} is {tensor.dtype}")


def check_tail(tail_BCTHW: Tensor, header: Header, batch: int) -> None:
    """ValueError unless these are the newest latents of such a scene."""
    config, start = header.config, header.start_frame
    count = tail_BCTHW.shape[2] if tail_BCTHW.ndim == 5 else -1
    least, most = min(start, config.tail_frames), min(start, config.kept_frames)
    if not least <= count <= most or tail_BCTHW.dtype != config.latent_dtype:
        raise ValueError(f"the newest latents are {tail_BCTHW.dtype} {list(tail_BCTHW.shape)}")
    if tuple(tail_BCTHW.shape) != config.geometry.latent_shape(count, batch):
        raise ValueError(f"the newest latents are {list(tail_BCTHW.shape)}")


def check_under_way(under_way_BCTHW: Tensor | None, header: Header, batch: int) -> None:
    """ValueError unless these are the blocks that are under way in such a scene; there may be none."""
    if under_way_BCTHW is None:
        return
    config = header.config
    needed = config.geometry.latent_shape(config.frames_under_way, batch)
    under_way = config.rolling and header.block and header.start_frame
    if (
        not under_way
        or tuple(under_way_BCTHW.shape) != needed
        or under_way_BCTHW.dtype != config.latent_dtype
    ):
        raise ValueError(f"blocks are under way as {under_way_BCTHW.dtype} {list(under_way_BCTHW.shape)}")


def check_text(parts: Mapping[str, Tensor]) -> None:
    """ValueError unless the tensors can be texts [B, L, E]."""
    for name, text_BLE in parts.items():
        fits = text_BLE.ndim == 3 and text_BLE.is_floating_point()
        if not fits or not all(1 <= size <= LONGEST_TEXT for size in text_BLE.shape):
            raise ValueError(f"the text {name[:40]} is {text_BLE.dtype} {list(text_BLE.shape)}")


def check_blend(old: Mapping[str, Tensor], new: Mapping[str, Tensor], blends: bool) -> None:
    """ValueError unless these texts can turn into those; there are none where nothing is blended."""
    if bool(old) != blends:
        raise ValueError(f"there are {len(old)} texts to blend from")
    for name, text_BLE in old.items():
        if name in new and _kind(text_BLE) != _kind(new[name]):
            raise ValueError(f"a blend from {_kind(text_BLE)} to {_kind(new[name])}")


def _kind(text_BLE: Tensor) -> tuple[object, ...]:
    return text_BLE.dtype, text_BLE.shape[0], text_BLE.shape[2]


def trimmed(table: Sequence[int], config: StreamConfig) -> tuple[int, ...]:
    """The slots of a table as they are allocated: free ones at its end only where the stream needs them next.

    More come when a block asks for them, so that a file cannot have more room taken than its frames and one
    window need.
    """
    last = max((slot + 1 for slot, frame in enumerate(table) if frame >= 0), default=0)
    most = (config.positions.capacity_frames or 0) + config.block_frames + 2 * last
    return tuple(table[: max(last, most)])

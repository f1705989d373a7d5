"""What a snapshot says of itself: types and bounds of every number, checked before anything is made of them.

T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..attention.positions import PositionPreset
from ..cache.format import call_of, recache_call
from ..geometry import Geometry
from ..vae.wan import UPSCALES
from .config import StreamConfig
from .ledger import FrameLedger
from .state_file import check_types, config_from_json

NONE, NUMBER = type(None), (int, float)
TYPES = {
    "kind": (str,),
    "version": (int,),
    "config": (dict,),
    "block": (int,),
    "start_frame": (int,),
    "ledger": (dict,),
    "text": (str, NONE),
    "followed": (bool,),
    "shrunk": (str, NONE),
    "cache": (dict,),
    "memory": (dict,),
    "weights": (dict, NONE),
    "decoder": (list, NONE),
    "shape": (dict,),
    "table": (list,),
    "blend": (list, NONE),
    "must_recache": (bool,),
    "steered": (bool,),
    "shot": (bool,),
    "upscale": (int,),
}
NOT_SAID: dict[str, Any] = {"shot": False, "upscale": 1}  # by takes of earlier releases
CONFIG = {
    "geometry": (dict,),
    "preset": (dict,),
    "block_frames": (int,),
    "sigmas": (list,),
    "first_sigmas": (list,),
    "cfg": NUMBER,
    "seed": (int,),
    "dtype": (str,),
    "fresh_noise": (bool,),
    "sampler": (str,),
}
PRESET = {f.name: (int, NONE) for f in fields(PositionPreset)} | {
    "name": (str,), "endless": (str,), "sink_within": (bool,)
}  # fmt: skip
LATER = ("sampler", "sink_within")  # are left out in earlier files, and stand for what they stood for then
GEOMETRY = {f.name: (int,) for f in fields(Geometry)}
PICTURES = ("ending_HWC", "lost_HWC")  # of the ledger, which are tensors
COUNTS = {f.name: (int,) for f in fields(FrameLedger) if f.name not in PICTURES}
LEDGER = COUNTS | {"limit": (int, NONE), "fps": (*NUMBER, NONE)}

# what no stream comes to: thousands of years of latent frames, pictures of 16 million pixels, and so on
MOST_FRAMES, MOST_PIXELS, MOST_COUNT = 1 << 40, 4096 * 4096, 4096
MOST_UPSCALE = max(UPSCALES.values())
MOST_CFG, MOST_FPS, LONGEST_WORD = 100.0, 1000.0, 200
SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Header:
    """What a snapshot says of itself before a tensor is read."""

    config: StreamConfig
    block: int  # blocks made
    start_frame: int  # latent frames of the scene
    ledger: FrameLedger  # without its pictures
    text: str | None  # the prompt that held
    followed: bool
    shrunk: str | None  # from which cache format and block it went over to a smaller one
    steered: bool  # the prompt that is due with the next block was gone over to already
    shot: bool  # the scene's sink is frames of the last shot
    upscale: int  # times of the stream's size that the video's pictures have
    cache: str  # names of the format and of the memory
    memory: str
    bytes: int  # of the file

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of the video's pictures in pixels."""
        return self.config.geometry.picture_size(self.upscale)

    @property
    def given(self) -> int:
        """Latents of the scene that were there before its first block."""
        return self.config.positions.sink_frames if self.shot else self.ledger.given

    @property
    def ahead(self) -> int:
        """Pixel frames of the newest latents that the video does not hold: the run ended before they came."""
        return self.ledger.next_frame(self.config.geometry, self.start_frame) - self.ledger.written


def header_of(about: Mapping[str, Any], size: int) -> Header:
    """The header of a file of so many bytes; KeyError, TypeError or ValueError where it cannot be true."""
    about = {**NOT_SAID, **about}
    check_types(about, TYPES)
    _refuse_unknown("header", about, TYPES)
    for name in ("cache", "memory"):
        check_types(about[name], {"name": (str,)})
        _within(f"the name of the {name}", len(about[name]["name"]), 1, LONGEST_WORD)
    config, ledger = _config(about["config"]), _ledger(about["ledger"])
    block, start = about["block"], about["start_frame"]
    _within("upscale", about["upscale"], 1, MOST_UPSCALE)
    _within("block", block, 0, MOST_FRAMES)
    _within("start_frame", start, config.positions.sink_frames if about["shot"] else 0, MOST_FRAMES)
    header = Header(
        config, block, start, ledger, about["text"], about["followed"], about["shrunk"], about["steered"],
        about["shot"], about["upscale"], about["cache"]["name"], about["memory"]["name"], size,
    )  # fmt: skip
    _within("frames beyond the video", header.ahead, 0, config.geometry.pixel_frames(start))
    (about["text"] or "").encode()  # half of a pair of characters is no text
    _within("shrunk", len(about["shrunk"] or ""), 0, LONGEST_WORD)
    _table(about, header)
    _blend(about["blend"])
    return header


def _config(about: Mapping[str, Any]) -> StreamConfig:
    for name, values, types in (
        ("config", about, CONFIG),
        ("geometry", about["geometry"], GEOMETRY),
        ("preset", about["preset"], PRESET),
    ):
        check_types(values, {key: kinds for key, kinds in types.items() if key in values or key not in LATER})
        _refuse_unknown(name, values, types)
    geometry, preset = about["geometry"], about["preset"]
    for name, value in geometry.items():
        _within(name, value, 1, MOST_PIXELS)
    _within("pixels", geometry["width"] * geometry["height"], 1, MOST_PIXELS)
    _within("latent_channels", geometry["latent_channels"], 1, MOST_COUNT)
    for name, value in preset.items():
        if type(value) is int:
            _within(name, value, 0, MOST_COUNT)
        _within(name, len(value) if isinstance(value, str) else 0, 0, LONGEST_WORD)
    for name in ("sink_frames", "trained_frames", "memory_frames"):
        check_types(preset, {name: (int,)})
    _within("block_frames", about["block_frames"], 1, MOST_COUNT)
    _within("seed", about["seed"], 0, SEEDS - 1)
    _within("cfg", about["cfg"], 0, MOST_CFG)
    for name in ("sigmas", "first_sigmas"):
        _within(name, len(about[name]), 0, MOST_COUNT)
        check_types(dict(enumerate(about[name])), dict.fromkeys(range(len(about[name])), NUMBER))
    return config_from_json(about)


def _ledger(about: Mapping[str, Any]) -> FrameLedger:
    check_types(about, LEDGER)
    _refuse_unknown("ledger", about, LEDGER)
    ledger = FrameLedger(**about)
    for name in COUNTS:
        if about[name] is not None and name != "fps":
            _within(name, about[name], -MOST_FRAMES if name == "scene" else 0, MOST_FRAMES)
    _within("scene", ledger.scene, -MOST_FRAMES, ledger.written)
    _within("file_frame", ledger.file_frame, 0, ledger.written)
    if ledger.fps is not None and not 0 < ledger.fps <= MOST_FPS:
        raise ValueError(f"fps is {ledger.fps}")
    return ledger


def _table(about: Mapping[str, Any], header: Header) -> None:
    """The cache holds the frames that the next block attends to, or those that a recache leaves."""
    table, positions, length = about["table"], header.config.positions, header.config.block_frames
    check_types(dict(enumerate(table)), dict.fromkeys(range(len(table)), (int,)))
    frames = tuple(sorted(frame for frame in table if frame != -1))
    if positions.window_frames is None:  # all frames are attended to
        _within("start_frame", header.start_frame, 0, MOST_PIXELS)
    opens = recache_call if about["must_recache"] else call_of
    needed = opens(positions, header.start_frame, length, shot=header.shot).cached
    if frames != tuple(sorted(needed)):
        raise ValueError(f"the cache is said to hold latent frames {str(list(frames))[:80]}")


def _blend(blend: list[Any] | None) -> None:
    if blend is not None:
        check_types(dict(enumerate(blend)), {0: (int,), 1: (int,)})
        _within("blend", len(blend), 2, 2)
        _within("blocks of the blend", blend[0], 1, MOST_FRAMES)
        _within("blend", blend[1], 0, blend[0] - 1)


def _within(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name} is {str(value)[:40]}")


def _refuse_unknown(what: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    if unknown := sorted(values.keys() - types.keys()):
        raise ValueError(f"the {what} has an unknown entry {unknown[0][:40]!r}")

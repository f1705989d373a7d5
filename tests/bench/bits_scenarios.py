"""The streams of `bench bits`, what they are given, and the fingerprint of what they make.

Nothing here knows the host, and of the engine the table of switches alone: how a stream is begun, stepped,
switched and gone on with is in `bits_engine` and `bits_host`.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...model_patches.stream.timeline import MODES

WIDTH, HEIGHT = 48, 32  # pixels; not the same, so that rows and columns cannot stand for each other
FPS = 16
SEED = 7
PROMPTS = (  # of a stream's beginning, then of each switch
    "a red circle and a blue square on a green ground",
    "a yellow triangle on a blue ground",
    "a magenta square and a cyan circle on a red ground",
    "an object on a green ground",
    "a blue circle behind a grey band on a red ground",
    "a green triangle and a yellow circle on a magenta ground",
)
EARLIER = "a green square on a yellow ground"  # of the take that another stream goes on from

ENGINE, HOST = "engine", "host"
BOTH, ALONE = (ENGINE, HOST), (ENGINE,)  # the host's streams take three times as long
PICTURE, VIDEO, TAKE, FOLLOW = "picture", "video", "take", "follow"
MLA = ("mla", "mla-int8")


@dataclass(frozen=True)
class Scenario:
    """One stream; what is left out is as the built-in model's recipe says."""

    name: str
    blocks: int = 8  # the window is full after four, so frames leave it and are remembered
    cache: str = "dense"
    exact: bool = False  # the sink is kept exact in a cache that rounds
    memory: str = "off"
    preset: str = ""
    block_frames: int = 0
    cfg: float = 0.0
    begin: str = ""  # what it begins with, where that is not the prompt alone
    strength: float = 0.85  # of noise over a video that is followed
    # before which block it goes over to the next prompt, and in which mode
    switches: Mapping[int, str] = field(default_factory=dict)
    resumes: tuple[int, ...] = ()  # saved and taken up before these blocks
    bfloat16: bool = False
    streams: int = 1  # side by side
    short_memory: bool = False  # the memory runs as the one of five-second clips does
    parts: tuple[str, ...] = BOTH  # that make it
    quick: bool = False


class Fingerprint:
    """Hashes latents and pictures as they come, however they are cut."""

    def __init__(self) -> None:
        self._latents, self._pictures = hashlib.sha256(), hashlib.sha256()
        self._each: list[str] = []
        self.frames = 0

    def latents(self, latents_BCTHW: Tensor) -> None:
        """Takes the next latents."""
        for frame_BCHW in latents_BCTHW.unbind(2):
            data = _bytes_of(frame_BCHW)
            self._latents.update(data)
            self._each.append(hashlib.sha256(data).hexdigest()[:8])

    def pictures(self, pixels_FHWC: Tensor) -> None:
        """Takes the next pictures, uint8 as a writer gets them."""
        assert pixels_FHWC.dtype == torch.uint8
        for picture_HWC in pixels_FHWC.unbind(0):
            self._pictures.update(_bytes_of(picture_HWC))
        self.frames += len(pixels_FHWC)

    def row(self) -> dict[str, Any]:
        """What a file of fingerprints holds of the stream; each: the beginning of every latent frame's."""
        return {
            "latents": self._latents.hexdigest(),
            "pictures": self._pictures.hexdigest(),
            "frames": self.frames,
            "each": self._each,
        }


def _bytes_of(tensor: Tensor) -> bytes:
    whole = tensor.detach().cpu().contiguous()
    return f"{whole.dtype} {list(whole.shape)} ".encode() + whole.view(torch.uint8).numpy().tobytes()


def moving(count: int, width: int = WIDTH, height: int = HEIGHT) -> Tensor:
    """Pictures [F, H, W, 3], uint8: a square that wanders over a slope of colours, in whole numbers alone."""
    f, y, x, c = torch.meshgrid(*map(torch.arange, (count, height, width, 3)), indexing="ij")
    ground = (2 * x + y + 50 * c + f) % 200
    left, top = 8 + f % 30, 20 - f % 12
    inside = (x >= left) & (x < left + 16) & (y >= top) & (y < top + 16)
    return torch.where(inside, 255 - 100 * c, ground).to(torch.uint8)


def kept() -> Iterator[Scenario]:
    """Every cache with every memory that it goes with."""
    for cache, memory in product(("dense", "int8", "latent", *MLA), ("off", "ema", "learned")):
        exact = memory == "ema" and cache not in ("dense", "mla")  # a thousandth of the sink at a time
        quick = (cache, memory) in (("dense", "off"), ("latent", "learned"), ("mla", "off"))
        parts = BOTH if cache in ("latent", "mla") or memory == "off" else ALONE
        yield Scenario(f"{cache}, {memory}", 8, cache, exact, memory, parts=parts, quick=quick)
    yield Scenario("int8 with an exact sink", cache="int8", exact=True, parts=ALONE)
    exact = {"cache": "latent", "exact": True}
    yield Scenario("latent with an exact sink, learned", memory="learned", **exact, parts=ALONE)
    for cache in ("dense", "int8", "latent"):
        yield Scenario(f"{cache} in bfloat16", cache=cache, bfloat16=True, parts=ALONE)


def switched() -> Iterator[Scenario]:
    """Every way to another prompt, once the window is full; then several, one upon another."""
    for mode, memory in product(MODES, ("off", "ema", "learned")):
        parts = BOTH if memory == "learned" or mode in ("cut", "recache") else ALONE
        quick, switches = memory == "learned", {6: mode}
        name = f"{mode}, {memory}"
        yield Scenario(name, 10, memory=memory, switches=switches, parts=parts, quick=quick)
    for mode in ("cut", "recache"):
        yield Scenario(f"{mode}, latent", 10, "latent", memory="learned", switches={6: mode})
        yield Scenario(f"{mode}, mla-int8", 10, "mla-int8", memory="learned", switches={6: mode}, parts=ALONE)
        yield Scenario(f"{mode} before the window is full", 6, switches={2: mode}, parts=ALONE)
    yield Scenario("recache without guidance", 10, cfg=1.0, memory="learned", switches={6: "recache"})
    yield Scenario("recache where ids grow", 8, preset="longlive", switches={5: "recache"}, parts=ALONE)
    journey = {2: "blend", 4: "smooth", 6: "blend", 8: "recache", 11: "cut"}
    for memory, parts in (("off", ALONE), ("learned", BOTH)):
        yield Scenario(f"all switches, {memory}", 16, memory=memory, switches=journey, parts=parts)


def begun() -> Iterator[Scenario]:
    """What a stream can begin with."""
    for begin in (PICTURE, VIDEO, TAKE, FOLLOW):
        yield Scenario(f"{begin}, off", begin=begin, quick=True)
        parts = BOTH if begin == VIDEO else ALONE
        yield Scenario(f"{begin}, learned", begin=begin, memory="learned", parts=parts)
    yield Scenario("picture, mla", begin=PICTURE, cache="mla", parts=ALONE)
    yield Scenario("picture, then cut", 8, begin=PICTURE, switches={5: "cut"})
    yield Scenario(
        "picture, another prompt before any block", 6, begin=PICTURE, switches={0: "cut"}, parts=ALONE
    )
    yield Scenario("video, latent and recache", 8, "latent", begin=VIDEO, switches={3: "recache"})
    yield Scenario("follow at full strength", 8, begin=FOLLOW, strength=1.0, parts=ALONE)
    yield Scenario("follow, then cut", 8, begin=FOLLOW, switches={4: "cut"})


def gone_on_with() -> Iterator[Scenario]:
    """Saved and taken up: in a full window, in a blend, after a cut, after what it began with, twice."""
    for cache, memory in (("dense", "off"), ("dense", "ema"), ("int8", "off"), ("latent", "learned")):
        name, parts = f"resume, {cache}, {memory}", ALONE if memory == "ema" else BOTH
        yield Scenario(name, 8, cache, memory=memory, resumes=(6,), parts=parts, quick=memory == "learned")
    yield Scenario("resume, mla-int8, learned", 8, "mla-int8", memory="learned", resumes=(6,))
    yield Scenario("resume in a blend", 10, memory="learned", switches={6: "blend"}, resumes=(8,))
    for mode in ("cut", "recache"):
        yield Scenario(f"resume after {mode}", 10, switches={6: mode}, resumes=(7,))
    for begin in (PICTURE, VIDEO):
        yield Scenario(f"resume after {begin}", 7, begin=begin, resumes=(1, 4))


def guided() -> Iterator[Scenario]:
    """Without guidance, and other strengths of it."""
    yield Scenario("without guidance", cfg=1.0, quick=True)
    small = {"cache": "latent", "memory": "learned"}
    yield Scenario("without guidance, latent, learned", **small, cfg=1.0, parts=ALONE)
    yield Scenario("strong guidance", cfg=4.5, parts=ALONE)


def placed() -> Iterator[Scenario]:
    """Position presets; blocks of one; streams side by side."""
    yield Scenario("preset infinity_rope", preset="infinity_rope")
    yield Scenario("preset longlive", preset="longlive", parts=ALONE)
    yield Scenario("preset reward_forcing, ema", preset="reward_forcing", memory="ema")
    for cache in ("dense", "latent"):
        yield Scenario(f"preset memrope, memrope, {cache}", 9, cache, preset="memrope", memory="memrope")
    yield Scenario("preset deep_forcing", 10, preset="deep_forcing", parts=ALONE)
    yield Scenario("preset self_forcing", 7, preset="self_forcing", quick=True)
    for preset, cache in (("videomla_6", "mla"), ("videomla_7", "mla-int8")):
        yield Scenario(f"preset {preset}", 12, cache, preset=preset, block_frames=1)
    one = {"preset": "infinity_rope", "block_frames": 1, "blocks": 14}
    yield Scenario("blocks of one", **one, parts=ALONE)
    yield Scenario("blocks of one, recache and resume", **one, switches={9: "recache"}, resumes=(11,))
    yield Scenario("preset echo", 9, preset="echo", memory="learned", parts=ALONE)
    short = {"preset": "echo_std", "memory": "learned", "short_memory": True, "parts": ALONE}
    yield Scenario("preset echo_std", 7, **short)
    yield Scenario("preset echo_std, recache", 7, **short, switches={5: "recache"})
    two = {"memory": "learned", "streams": 2, "parts": ALONE}
    yield Scenario("two streams side by side", **two, switches={5: "recache"})


SCENARIOS = tuple(
    scenario for group in (kept, switched, begun, gone_on_with, guided, placed) for scenario in group()
)


def chosen(part: str, only: str, quick: bool) -> list[Scenario]:
    """Those that the part can make and that were asked for."""
    return [
        each
        for each in SCENARIOS
        if part in each.parts and (each.quick or not quick) and only in full_name(part, each)
    ]


def full_name(part: str, scenario: Scenario) -> str:
    """How a file of fingerprints calls it."""
    return f"{part}: {scenario.name}"


def fingerprints(
    part: str, stream: Callable[[Scenario, Path], Fingerprint], only: str, quick: bool
) -> dict[str, dict[str, Any]]:
    """Fingerprints by the scenarios' names; `error` says why a stream could not be made.

    stream: makes one, with an empty folder for its files.
    """
    found: dict[str, dict[str, Any]] = {}
    with one_order():
        for how in chosen(part, only, quick):
            name, began = full_name(part, how), time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[name] = stream(how, Path(folder)).row()
                # a broken stream must not hide what the others came to
                except Exception as error:
                    traceback.print_exc()
                    found[name] = {"error": f"{type(error).__name__}: {error}"}
            print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return found


@contextmanager
def one_order() -> Iterator[None]:
    """Sums are made in one order: by one thread, and by no function that may change it."""
    threads, fixed = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(fixed)

"""Streams of a tiny model on a card that is not there: a `Case` names one value of every choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rivulet.model_patches.arch.mla import MlaAttention, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import preset
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.format import CacheFormat
from rivulet.model_patches.cache.formats import find_format
from rivulet.model_patches.cache.shapes import NO_EXACT, Exact
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.memory.memrope import MemRope
from rivulet.model_patches.memory.off import OFF
from rivulet.model_patches.memory.policy import MemoryPolicy
from rivulet.model_patches.sampler.rolling import BLOCK as ONE_BY_ONE
from rivulet.model_patches.sampler.rolling import ROLLING
from rivulet.model_patches.stream.caller import Caller
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.follow import Follow, encoder_of
from rivulet.model_patches.stream.incoming import Pictures
from rivulet.model_patches.stream.model_caller import ModelCaller, Texts
from rivulet.model_patches.stream.pipeline import Chunk, Prefill, run
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.start import from_video
from rivulet.model_patches.stream.state import StreamState
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.vae.decoder import StreamDecoder, VaeDecoder
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.model_patches.writer.frames import HostFrames
from rivulet.tests.card.faked import Card
from rivulet.tests.card.watch import Watch

SIZES = WanConfig(dim=256, ffn_dim=64, num_layers=2, text_dim=32)
MLA = MlaSizes(kv_latent=64, query_latent=128, rope=RopeLayout.truncated(128, 32))
GEOMETRY = Geometry(64, 48)
BLOCK = 3
STARTS = ("nothing", "latents", "follow", "resume")
PLAIN, FOLLOWS, SWITCHES, OTHER = "block", "follow", "switch", "other"  # labels of what is watched
DURING = (PLAIN, FOLLOWS, SWITCHES)


@dataclass(frozen=True)
class Case:
    """One stream."""

    format: str = "dense"
    memory: str = "off"
    preset: str = "infinity_rope"
    switch: str = "smooth"
    start: str = "nothing"
    vae: str = "wan"  # or tiny
    apart: bool = False  # the VAE on the other card
    second: bool = False  # the model on the second card
    half: torch.dtype = torch.bfloat16
    calls: int = 1  # noisy ones a block; the one at timestep 0 comes on top

    def __str__(self) -> str:
        words = [self.format, self.memory, self.preset, self.switch, self.start, self.vae]
        words += ["apart"] * self.apart + ["second"] * self.second
        return "-".join([*words, str(self.half).removeprefix("torch.")])


class Pictureless:
    """A writer that keeps nothing; what it gets lies on the CPU, or is on its way there."""

    def __init__(self, frames_written: int = 0) -> None:
        self.frames_written = frames_written

    def __enter__(self) -> Pictureless:
        return self

    def write(self, frames: HostFrames) -> None:
        assert len(frames.shape) == 4 and len(frames)
        self.frames_written += len(frames)

    def seal(self) -> None:
        """Nothing is on its way."""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class TinyStream:
    """A case's model, memory, VAE and prompts, on their cards."""

    def __init__(self, card: Card, case: Case) -> None:
        self.card, self.case = card, case
        self.device = card.other if case.second else card.device
        self.vae_device = {card.device: card.other, card.other: card.device}[self.device]
        self.vae_device = self.vae_device if case.apart else self.device
        mla = case.format.startswith("mla")
        with torch.device("meta"):
            model = WanModel(SIZES, _mla_attention if mla else None)
            self.vae = WanVAE(dim=8)
            self.decoding = self.vae if case.vae == "wan" else TinyDecoder((16, 8, 8, 8))
        card.carry(model, case.half, self.device)
        for each in {self.vae, self.decoding}:
            card.carry(each, case.half, self.vae_device)
        self.caller = ModelCaller(model, self.device)
        levels = sigmas_of(case.calls, case.start)
        sampler = ROLLING if preset(case.preset).sink_within else ONE_BY_ONE
        self.config = StreamConfig(GEOMETRY, case.preset, BLOCK, levels, dtype=case.half, sampler=sampler)
        self.memory = self._memory()
        self.format = cache_format(case, model)

    def text(self, tokens: int = 7) -> Texts:
        return (self.card.empty(1, tokens, SIZES.text_dim, dtype=self.case.half, device=self.device),)

    def start(self) -> StreamState:
        return init(self.caller, self.text(), self.config, cache=self.format, memory=self.memory)

    def run(self, folder: Path) -> StreamState:
        """Blocks until the window is full, two more, and two from a switch on; each under its label."""
        full = blocks_to_fill(self.case.preset)
        state, begin, follow = self.start(), None, None
        if self.case.start == "latents":
            pictures = torch.zeros(GEOMETRY.pixel_frames(4), GEOMETRY.height, GEOMETRY.width, 3)
            begin = from_video(self.vae, pictures.to(torch.uint8), GEOMETRY)
            begin = Prefill(begin.latents_BCTHW.to(self.device), begin.hidden, begin.ending_HWC)
        if self.case.start == "follow":
            frames = GEOMETRY.pixel_frames((full + 6) * BLOCK)
            source = Pictures(torch.zeros(frames, GEOMETRY.height, GEOMETRY.width, 3, dtype=torch.uint8))
            follow = Follow(source, encoder_of(self.vae), self.config, 0.9)
        if self.case.start == "resume":
            state = self._run(state, full, 1)
            save(self.caller, state, folder / "stream.safetensors")
            state = load(folder / "stream.safetensors", self.caller, cache=self.format, memory=self.memory)
        return self._run(state, full, full + 4 - state.block, begin=begin, follow=follow)

    def _run(self, state: StreamState, full: int, blocks: int, **more: object) -> StreamState:
        """`blocks` more; the switch is before block full + 2."""
        change = Prompt(0, "another", self.case.switch)
        script = Script(self.text(), changes={full + 2: change}, encode=lambda _: self.text(9))
        plain = FOLLOWS if self.case.start == "follow" else PLAIN
        decoder = VaeDecoder(self.decoding)
        return run_labelled(self.card.watch, self.caller, decoder, state, script, plain, blocks, **more)

    def _memory(self) -> MemoryPolicy:
        if self.case.memory == "ema":
            return EmaSink()
        if self.case.memory == "memrope":
            return MemRope(GEOMETRY.frame_tokens, self.case.half)
        if self.case.memory == "off":
            return OFF
        grid = GEOMETRY.grid_height, GEOMETRY.grid_width
        frames = preset(self.case.preset).memory_frames
        with torch.device("meta"):
            encoder = MemoryEncoder(EncoderConfig(SIZES.dim, SIZES.num_heads, frames, *grid))
        self.card.carry(encoder, self.case.half, self.device)
        return LearnedMemory(encoder, "tiny")


def run_labelled(
    watch: Watch,
    caller: Caller,
    decoder: StreamDecoder,
    state: StreamState,
    script: Script,
    plain: str,
    blocks: int,
    **more: object,
) -> StreamState:
    """So many blocks, watched under their labels: OTHER until the window is full, then `plain`, and the
    script's change."""
    (switched,) = script.changes
    full = switched - 2

    def label_next(chunk: Chunk) -> None:
        block = chunk.block + 1
        watch.begin(OTHER if block <= full else SWITCHES if block == switched else plain)

    writer = Pictureless(state.ledger.written - state.ledger.file_frame)
    watch.begin(OTHER)
    state = run(caller, decoder, state, [writer], blocks=blocks, script=script, on_chunk=label_next, **more)
    watch.begin(OTHER)
    return state


def sigmas_of(calls: int, start: str) -> tuple[float, ...]:
    """Noise levels of so many calls; a video is followed from the second level on."""
    levels = (1.0, 0.5, 0.25)
    return levels[: calls + 1] if start == "follow" else levels[:calls]


def blocks_to_fill(name: str) -> int:
    """Blocks under a preset after which the next one evicts; a window without an end has none."""
    capacity = preset(name).capacity_frames
    return 1 if capacity is None else -(-capacity // BLOCK)


def cache_format(case: Case, model: WanModel) -> CacheFormat:
    """The case's format; where the memory changes the sink, that is kept exact."""
    kind = find_format(case.format)
    exact = Exact(sink=3, newest=0) if case.memory == "ema" and kind.rounds else NO_EXACT
    return kind.build(model, exact, basis() if kind.source else None)


def basis() -> Basis:
    """Of the tiny model: the first layer's directions as they are."""
    dim = SIZES.dim
    layer = LayerBasis(torch.zeros(dim), torch.eye(dim), torch.eye(dim))
    return Basis((layer,) * SIZES.num_layers, (LayerPlan("latent", 192, 64),) * SIZES.num_layers)


def _mla_attention() -> MlaAttention:
    return MlaAttention(SIZES.dim, SIZES.num_heads, MLA, SIZES.eps)

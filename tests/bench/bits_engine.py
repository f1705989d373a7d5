"""Streams of `bench bits` made by the engine alone. Whatever of the engine's functions they use is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...model_patches.cache.dense import DENSE
from ...model_patches.cache.format import CacheFormat
from ...model_patches.cache.formats import FORMATS
from ...model_patches.cache.shapes import Exact
from ...model_patches.geometry import Geometry
from ...model_patches.memory.policy import MemoryPolicy
from ...model_patches.stream import pipeline
from ...model_patches.stream.caller import Prompt
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.follow import Follow, encoder_of
from ...model_patches.stream.incoming import Fitted, Pictures
from ...model_patches.stream.pipeline import Chunk, Prefill
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import load, save
from ...model_patches.stream.start import context_latents, from_picture, from_video
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import step
from ...model_patches.stream.switch import switch
from ...model_patches.stream.timeline import Prompt as TimedPrompt
from ...model_patches.vae.decoder import VaeBuffers, VaeDecoder, decode_stream
from ...model_patches.writer.frames import HostFrames
from ...pocket.choices import build
from ...pocket.models import DIT_FILE, MLA_FILE, MLA_MEMORY_FILE, Pocket, load_pocket
from .bits_scenarios import (
    EARLIER,
    FOLLOW,
    HEIGHT,
    MLA,
    PICTURE,
    PROMPTS,
    SEED,
    TAKE,
    VIDEO,
    WIDTH,
    Fingerprint,
    Scenario,
    moving,
)
from .remembering import remembering

SLOWER = 5  # pictures of a block that are missing where a followed video ends


@dataclass
class Taker:
    """A writer whose pictures go to a fingerprint."""

    taken: Fingerprint
    frames_written: int

    def __enter__(self) -> Taker:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, frames: HostFrames) -> None:
        """Takes the next pictures."""
        self.taken.pictures(frames.read())
        self.frames_written += len(frames)

    def seal(self) -> None:
        """Nothing waits here."""


@dataclass
class Engine:
    """One stream of the engine; `taken` gets all that it makes."""

    pocket: Pocket
    config: StreamConfig
    cache: CacheFormat
    memory: MemoryPolicy
    taken: Fingerprint
    state: StreamState
    begin: Prefill | None = None  # until it was shown to the stream
    follow: Follow | None = None
    script: Script | None = None  # with the prompt that the next block begins with
    pasts: list[VaeBuffers | None] = field(default_factory=list)  # of the decoder, of streams side by side

    def make(self, blocks: int) -> None:
        """Makes so many blocks."""
        if self.streams > 1:
            return self._make_side_by_side(blocks)
        writer = Taker(self.taken, self.state.ledger.written)

        def on_chunk(chunk: Chunk) -> None:
            self.taken.latents(newest(chunk.state, self.config.block_frames))

        caller, decoder = self.pocket.caller, VaeDecoder(self.pocket.vae)
        given = {"blocks": blocks, "on_chunk": on_chunk, "begin": self.begin, "follow": self.follow}
        self.state = pipeline.run(caller, decoder, self.state, [writer], script=self.script, **given)
        self.begin = self.script = None

    def switch(self, prompt: str, mode: str) -> None:
        """Goes over to another prompt: with the next block, in a stream whose pictures the pipeline makes."""
        if self.streams == 1 and self.state.block:
            changes = {self.state.block: TimedPrompt(0, prompt, mode)}
            self.script = Script(self.state.prompt, changes=changes, encode=self._encoded)
            return
        self.state = switch(self.pocket.caller, self.state, self._encoded(prompt), mode)

    def _encoded(self, prompt: str) -> Prompt:
        text = self.pocket.encode(prompt).to(self.config.dtype)
        return (text.expand(self.streams, -1, -1).contiguous(), *self.state.prompt[1:])

    def resume(self, folder: Path) -> None:
        """Saves the stream and takes it up again."""
        path = folder / "stream.safetensors"
        decoder = VaeDecoder(self.pocket.vae) if self.streams == 1 else None
        save(self.pocket.caller, self.state, path, decoder)
        given = {"cache": self.cache, "memory": self.memory, "decoder": decoder}
        self.state = load(path, self.pocket.caller, self.config, **given)

    @property
    def streams(self) -> int:
        """That run side by side."""
        return len(self.state.tail_BCTHW)

    def _make_side_by_side(self, blocks: int) -> None:
        self.pasts = self.pasts or [None] * self.streams
        for _ in range(blocks):
            latents_BCTHW, self.state = step(self.pocket.caller, self.state)
            self.taken.latents(latents_BCTHW)
            for row, past in enumerate(self.pasts):
                one_BCTHW = latents_BCTHW[row : row + 1]
                pixels_FHWC, self.pasts[row] = decode_stream(self.pocket.vae, one_BCTHW, past)
                self.taken.pictures(pixels_FHWC)


def begin(how: Scenario, taken: Fingerprint) -> Engine:
    """The scenario's stream before its first block, with what it begins with."""
    pocket, memory = models(how)
    config = contract(how, pocket)
    cache = cache_of(how, pocket, config)
    state = opened(pocket, config, cache, memory, PROMPTS[: how.streams])
    made = Engine(pocket, config, cache, memory, taken, state)
    if how.begin:
        BEGINNINGS[how.begin](made, how)
    return made


def contract(how: Scenario, pocket: Pocket) -> StreamConfig:
    """The scenario's stream, as the model's recipe has it where nothing else is said."""
    config = pocket.config(SEED, Geometry(WIDTH, HEIGHT))
    return replace(
        config,
        preset=how.preset or config.preset,
        block_frames=how.block_frames or config.block_frames,
        cfg=how.cfg or config.cfg,
        dtype=torch.bfloat16 if how.bfloat16 else torch.float32,
    )


def opened(
    pocket: Pocket, config: StreamConfig, cache: CacheFormat, memory: MemoryPolicy, prompts: tuple[str, ...]
) -> StreamState:
    """The state before anything was made or given."""
    text_BLE = torch.cat([pocket.encode(prompt) for prompt in prompts]).to(config.dtype)
    encoded = replace(pocket, no_text=lambda: pocket.no_text().to(config.dtype))
    return encoded.begin(text_BLE, config, cache=cache, memory=memory)


def models(how: Scenario) -> tuple[Pocket, MemoryPolicy]:
    """The built-in model that the cache needs, as it runs with the memory, and the memory."""
    mla = MLA_MEMORY_FILE if how.memory == "learned" else MLA_FILE
    dtype = torch.bfloat16 if how.bfloat16 else torch.float32
    pocket, memory = remembered(mla if how.cache in MLA else DIT_FILE, how.memory, dtype)
    if how.short_memory:
        short: Any = memory
        memory = replace(short, turned=True, recaches=False)
    return pocket, memory


@cache
def remembered(dit_file: str, memory: str, dtype: torch.dtype) -> tuple[Pocket, MemoryPolicy]:
    """Models and memories are read once; a stream changes neither."""
    pocket = load_pocket(dtype=dtype, dit_file=dit_file)
    return remembering(pocket, memory, geometry=Geometry(WIDTH, HEIGHT))


def cache_of(how: Scenario, pocket: Pocket, config: StreamConfig) -> CacheFormat:
    """How the scenario's frames are kept."""
    exact = Exact(sink=config.positions.sink_frames if how.exact else 0)
    return build(FORMATS[how.cache], pocket, exact=exact)


def newest(state: StreamState, frames: int) -> Tensor:
    """The latents made last, in the model's units."""
    return state.tail_BCTHW[:, :, -frames:]


def begin_with(made: Engine, begin: Prefill) -> None:
    """The stream begins with these latents, under its first prompt."""
    made.taken.latents(begin.latents_BCTHW.to(made.config.latent_dtype))
    made.begin = begin
    made.make(0)


def with_picture(made: Engine, how: Scenario) -> None:
    """A picture is the first of the video."""
    begin_with(made, from_picture(made.pocket.vae, moving(1)[0]))


def after_video(made: Engine, how: Scenario) -> None:
    """The stream goes on where a video ends."""
    geometry = made.config.geometry
    count = context_latents(made.config.positions, made.config.block_frames)
    begin_with(made, from_video(made.pocket.vae, moving(geometry.pixel_frames(count)), geometry))


def after_take(made: Engine, how: Scenario) -> None:
    """The stream goes on where a take of another seed, prompt and guidance ends."""
    pocket, config = made.pocket, replace(made.config, seed=SEED + 1, cfg=1.0)
    state = opened(pocket, config, DENSE, made.memory, (EARLIER,))
    for _ in range(6):
        _, state = step(pocket.caller, state)
    count = context_latents(config.positions, config.block_frames)
    begin_with(made, Prefill(newest(state, count), hidden=config.geometry.pixel_frames(count)))


def following(made: Engine, how: Scenario) -> None:
    """Every block begins with a video of another size, which ends in the middle of the last block."""
    frames = made.config.geometry.pixel_frames(how.blocks * made.config.block_frames) - SLOWER
    source = Fitted(Pictures(moving(frames, 80, 48)), WIDTH, HEIGHT)
    made.follow = Follow(source, encoder_of(made.pocket.vae), made.config, how.strength)


BEGINNINGS: dict[str, Callable[[Engine, Scenario], None]] = {
    PICTURE: with_picture,
    VIDEO: after_video,
    TAKE: after_take,
    FOLLOW: following,
}


def stream(how: Scenario, folder: Path) -> Fingerprint:
    """The fingerprint of the scenario's stream."""
    taken = Fingerprint()
    made, prompts = begin(how, taken), iter(PROMPTS[1:])
    borders = sorted({0, *how.switches, *how.resumes, how.blocks})
    for block, border in pairwise(borders):
        if block in how.resumes:
            made.resume(folder)
        if block in how.switches:
            made.switch(next(prompts), how.switches[block])
        made.make(border - block)
    return taken

"""Streams of tiny models through ComfyUI on a card that is not there: a `HostCase` is one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rivulet.model_patches.attention.positions import preset
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.basis_file import about_model
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
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.state import StreamState
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.tests.card.faked import Card
from rivulet.tests.card.tiny import BLOCK, FOLLOWS, PLAIN, blocks_to_fill, run_labelled, sigmas_of
from rivulet.tests.host.carried import carry, carry_vae

GEOMETRY = Geometry(64, 48)
FPS = 16.0


@dataclass(frozen=True)
class HostCase:
    """One stream."""

    format: str = "dense"
    memory: str = "off"
    preset: str = "infinity_rope"
    switch: str = "recache"
    start: str = "nothing"
    vae: str = "wan"  # or tiny
    apart: bool = False  # the VAE on the other card
    second: bool = False  # the model on the second card
    guided: bool = False
    half: torch.dtype = torch.bfloat16
    calls: int = 1  # noisy ones a block

    def __str__(self) -> str:
        words = [self.format, self.memory, self.preset, self.switch, self.start, self.vae]
        words += [name for name in ("apart", "second", "guided") if getattr(self, name)]
        return "-".join([*words, str(self.half).removeprefix("torch.")])


class HostStream:
    """A case's model, memory and VAE, loaded by the host and brought to their cards."""

    def __init__(
        self, card: Card, case: HostCase, model: Any, vae: Any, prompt: Callable[..., Any], monkeypatch: Any
    ) -> None:
        """model, vae: on the CPU; prompt: a function that gives CONDITIONING of a seed."""
        from rivulet.nodes.host.caller import HostCaller, HostPrompt
        from rivulet.nodes.host.decoder import decoder_for
        from rivulet.nodes.host.memory import managed

        self.card, self.case = card, case
        self.device, other = (card.other, card.device) if case.second else (card.device, card.other)
        self.model = carry(card, model, monkeypatch, case.half, self.device)
        self.vae = carry_vae(card, vae, monkeypatch, case.half, other if case.apart else self.device)
        self.caller = HostCaller(self.model)
        self.decoder = decoder_for(self.vae, self.caller.to_vae)
        self.prompt = lambda seed: HostPrompt(prompt(seed), prompt(1) if case.guided else [])
        sigmas, cfg = sigmas_of(case.calls, case.start), 3.0 if case.guided else 1.0
        self.config = StreamConfig(GEOMETRY, case.preset, BLOCK, sigmas, cfg=cfg, dtype=case.half)
        self.format = self._cache_format()
        self.memory = managed(self._memory(), self.device)

    def run(self, folder: Path) -> StreamState:
        """Blocks until the window is full, two more, and two from a switch on; each under its label."""
        full = blocks_to_fill(self.case.preset)
        script = Script(
            self.prompt(0), None, {full + 2: Prompt(0, "another", self.case.switch)}, lambda _: self.prompt(2)
        )
        begin = self._beginning(GEOMETRY.pixel_frames((full + 6) * BLOCK))
        parts = (script, self.config, self.format, self.memory, 8)
        state = begin.state(self.caller, *parts)
        if self.case.start == "resume":
            state = self._run(state, script, 1)
            path = folder / "stream.safetensors"
            save(self.caller, state, path)
            state = load(path, self.caller, self.config, cache=self.format, memory=self.memory)
            state = replace(state, prompt=script.first)
        with begin.follow(self.caller, self.vae, self.config, FPS) as follow:
            given = begin.prefill(self.caller, self.vae)
            return self._run(state, script, full + 4 - state.block, begin=given, follow=follow)

    def _run(self, state: StreamState, script: Script, blocks: int, **more: Any) -> StreamState:
        plain = FOLLOWS if self.case.start == "follow" else PLAIN
        return run_labelled(self.card.watch, self.caller, self.decoder, state, script, plain, blocks, **more)

    def _beginning(self, count: int) -> Any:
        """How the node begins; a video has so many pictures."""
        from rivulet.nodes.run.beginnings import FROM_NOTHING, Following, FromVideo

        if self.case.start in ("nothing", "resume"):
            return FROM_NOTHING
        pictures = torch.zeros(count, GEOMETRY.height, GEOMETRY.width, 3)
        if self.case.start == "follow":
            return Following(source=pictures, strength=0.9).read(self.vae, self.config, FPS, count)
        return FromVideo(source=pictures, context=13).read(self.vae, self.config, FPS, count)

    def _memory(self) -> MemoryPolicy:
        if self.case.memory == "ema":
            return EmaSink()
        if self.case.memory == "memrope":
            return MemRope(GEOMETRY.frame_tokens, self.case.half)
        if self.case.memory == "off":
            return OFF
        tree, grid = self.caller.tree, (GEOMETRY.grid_height, GEOMETRY.grid_width)
        frames = preset(self.case.preset).memory_frames
        with torch.device("meta"):
            encoder = MemoryEncoder(EncoderConfig(tree.dim, tree.num_heads, frames, *grid))
        self.card.carry(encoder, self.case.half, self.device)
        return LearnedMemory(encoder, "tiny")

    def _cache_format(self) -> CacheFormat:
        """The case's format; where the memory changes the sink, that is kept exact."""
        from rivulet.nodes.host.tree import HostTree

        kind, tree = find_format(self.case.format), self.caller.tree
        exact = Exact(sink=3, newest=0) if self.case.memory == "ema" and kind.rounds else NO_EXACT
        if kind.source is None:
            return kind.build(tree, exact, None)
        dim, count = tree.dim, len(tree.blocks)
        layer = LayerBasis(torch.zeros(dim), torch.eye(dim), torch.eye(dim))
        with self.card:
            about = about_model([HostTree(tree)], dim, self.case.half, self.device)
        plans = (LayerPlan("latent", dim * 3 // 4, dim // 4),) * count
        return kind.build(tree, exact, Basis((layer,) * count, plans, provenance=about))

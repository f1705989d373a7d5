"""How each published model wants to be run, one record per model, and which record a file gets.

Numbers are those of the released code and configuration files, read there unless `source` says otherwise; no
published checkpoint has been run here. Timesteps are out of 1000 and before the shift, counts are latent
frames. All of them are distilled to few steps and run without guidance.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass

from ..attention.positions import PRESETS, PositionPreset
from ..sampler.schedule import PUBLISHED_TIMESTEPS
from ..sampler.schedule import sigmas as sigmas_of
from . import wan22
from ._families import DENSE, OTHER_SIZE, VIDEO_MLA, Structure


@dataclass(frozen=True, slots=True)
class PublishedRecipe:
    """One published model."""

    name: str
    title: str
    file: str  # where it is published, and under which name
    gigabytes: float  # 10^9 bytes of one copy of its weights, computed from their number and dtype
    kind: str  # of self-attention, DENSE or VIDEO_MLA
    size: str
    positions: str  # of its release, a name of attention.positions.PRESETS
    names: re.Pattern[str]  # words that its files are called by
    source: str
    block_frames: int = 3  # denoised together
    timesteps: tuple[float, ...] = PUBLISHED_TIMESTEPS
    shift: float = 5.0
    cfg: float = 1.0
    memory: str = "off"  # or "ema": evicted frames into the sink; "learned": an encoder of its own
    switch: str = "smooth"  # what its release does at a new prompt: see nodes' and timeline's modes
    copy: str = "generator_ema"  # which of two copies its release runs
    lora: str = ""  # the file that goes with it
    note: str = ""  # what of it is not as published here

    @property
    def preset(self) -> str:
        """Positions to stream with: the published, or those that do the same without an end."""
        return PRESETS[self.positions].endless or self.positions

    @property
    def window(self) -> PositionPreset:
        """Sink, window and ids that a stream gets."""
        return PRESETS[self.preset]

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, one per call."""
        return sigmas_of(self.timesteps, self.shift)

    def __str__(self) -> str:
        levels = ", ".join(f"{1000 * level:g}" for level in (round(s, 5) for s in self.sigmas))
        window, positions = self.window, self.preset
        if self.preset != self.positions:
            trained = PRESETS[self.positions].trained_frames
            positions += f" (published: {self.positions}, for {trained} frames)"
        return (
            f"{self.title}: blocks of {self.block_frames} latent frames; {len(self.timesteps)} steps at "
            f"{levels}; cfg {self.cfg:g}; positions {positions}, sink {window.sink_frames}, window "
            f"{window.window_frames}; memory {self.memory}; new prompts: {self.switch}. Source: "
            f"{self.source}." + (f" {self.note}" if self.note else "")
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The record for a file, and why it is this one."""

    recipe: PublishedRecipe
    why: str  # a sentence
    by_name: bool  # by words of the file's name, where keys and shapes leave several


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("~", r"[ _.\-/]?"))


WAN_13B, WAN_13B_MLA = 5.68, 5.21  # float32
RECIPES = (
    PublishedRecipe(
        "self_forcing",
        "Self-Forcing",
        "gdhe17/Self-Forcing: checkpoints/self_forcing_dmd.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "self_forcing",
        _words("self~forcing|infinite~forcing"),
        "arXiv 2506.08009, configs/self_forcing_dmd.yaml",
    ),
    PublishedRecipe(
        "causal_forcing",
        "Causal-Forcing, chunk-wise",
        "zhuhz22/Causal-Forcing: chunkwise/causal_forcing.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "self_forcing",
        _words("causal~forcing|chunkwise"),
        "arXiv 2602.02214, configs/causal_forcing_dmd_chunkwise.yaml",
        copy="generator",
    ),
    PublishedRecipe(
        "causal_forcing_framewise",
        "Causal-Forcing, frame-wise",
        "zhuhz22/Causal-Forcing: framewise/causal_forcing.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "self_forcing",
        _words("(causal~forcing.*)?frame~wise(.*causal~forcing)?"),
        "arXiv 2602.02214, configs/causal_forcing_dmd_framewise.yaml",
        block_frames=1,
    ),
    PublishedRecipe(
        "longlive",
        "LongLive",
        "Efficient-Large-Model/LongLive-1.3B: models/longlive_base.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "longlive",
        _words("long~live"),
        "LongLive v1.0, configs/longlive_inference.yaml",
        switch="recache",
        copy="generator",
        lora="lora.pt, rank 256, alpha 256: give it as lora_file",
    ),
    PublishedRecipe(
        "infinity_rope",
        "Infinity-RoPE",
        "training-free: the weights of Self-Forcing or Causal-Forcing",
        WAN_13B,
        DENSE,
        "1.3B",
        "infinity_rope",
        _words("infinity~rope"),
        "the author's released configuration (local_attn_size 6, sink_size 1)",
    ),
    PublishedRecipe(
        "reward_forcing",
        "Reward Forcing",
        "JaydenLu666/Reward-Forcing-T2V-1.3B: rewardforcing.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "reward_forcing",
        _words("reward~forcing"),
        "the authors' released configs/reward_forcing.yaml",
        memory="ema",
    ),
    PublishedRecipe(
        "causvid",
        "CausVid",
        "tianweiy/CausVid: autoregressive_checkpoint/model.pt",
        WAN_13B,
        DENSE,
        "1.3B",
        "self_forcing",
        _words("caus~vid|autoregressive~checkpoint"),
        "arXiv 2412.07772, configs/wan_causal_dmd.yaml, which takes its timesteps as they are",
        timesteps=(1000.0, 757.0, 522.0),
        shift=1.0,
        copy="generator",
        note="Its scheduler rounds noise levels to a table of 1000: to 0.7568 and 0.5217.",
    ),
    PublishedRecipe(
        "krea_realtime",
        "Krea Realtime 14B",
        "krea/krea-realtime-video: krea-realtime-video-14b.safetensors",
        28.6,
        DENSE,
        "14B",
        "infinity_rope",
        _words("krea"),
        "configs/self_forcing_server_14b.yaml of krea-ai/realtime-video",
        copy="generator",
        note="Its server attends to 3 past frames that it runs anew for every block, and ends a block with a "
        "call at timestep 0; a stream keeps the first and 2 past frames instead, and makes no such call.",
    ),
    PublishedRecipe(
        "videomla",
        "VideoMLA",
        "Hidir/VideoMLA: stage3_la6_sink1/model.pt, stage3/model.pt",
        WAN_13B_MLA,
        VIDEO_MLA,
        "1.3B",
        "videomla_7",
        _words("video~mla|la6~sink1"),
        "arXiv 2605.30351, sections 3 and 4",
        # its model card runs stage3_la6_sink1/model.pt with --use_ema and Causal-Forcing's arguments, whose
        # code takes this nest then; the file itself could not be opened
        copy="generator_ema",
        note="The author's earlier code counts 6 frames in all: preset videomla_6.",
    ),
    PublishedRecipe(
        "echo_infinity",
        "Echo-Infinity",
        "Echo-Team/Echo-Infinity: checkpoints/echo_infinity.pt",
        WAN_13B + 0.27,
        DENSE,
        "1.3B",
        "echo",
        _words("echo~infinity"),
        "arXiv 2606.04527, configs/echo_infinity-long_inference.yaml",
        memory="learned",
        switch="recache",
        copy="generator",
        lora="one file of LoRA and memory for long videos, which Evolving Memory adds",
    ),
)
DEFAULTS = {(DENSE, "1.3B"): "self_forcing", (DENSE, "14B"): "krea_realtime", (VIDEO_MLA, "1.3B"): "videomla"}
CAUTIONS = (  # words of a file's name that speak of weights which few steps or a stream do not suit
    (
        wan22.EXPERT,
        f"an expert of {wan22.NAME_14B}, which is made for half of the steps alone",
    ),
    (_words("bidirectional"), "a bidirectional model, which was not trained to go on block by block"),
    (_words("ar~diffusion|stage1"), "weights before distillation, which need tens of steps and guidance"),
    (_words("ode~init|causal~ode"), "weights in the middle of their distillation"),
)
LA6 = (  # of VideoMLA's file: a local attention of 6, as the code it comes from counts
    "Its name says la6, and the code it comes from counts the sink inside those 6: preset videomla_6 is the "
    "alternative, if pictures drift with videomla_7."
)
PLAIN = _words("wan2[._]?1~t2v")  # Wan itself, where no other model is named


def find_recipe(name: str) -> PublishedRecipe:
    """The record of that name; ValueError, with the list of those there are, for any other."""
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise ValueError(
        f"Recipe: no record is called {reprlib.repr(name)}; there are "
        f"{', '.join(each.name for each in RECIPES)}."
    )


def recipes_in_name(file: str) -> list[PublishedRecipe]:
    """Records whose words are in a file's name, folders included; the longest words first."""
    matches = [(match.end() - match.start(), r) for r in RECIPES if (match := r.names.search(file.lower()))]
    return [recipe for _, recipe in sorted(matches, key=lambda each: -each[0])]


def choose(structure: Structure, file: str, name: str | None = None) -> Choice:
    """The record for a file of this structure: keys and shapes first, its name only where they leave several.

    file: its name, folders included. name: the record that a user chose, which must be for this kind of
    self-attention. A size that nobody has published may be any, by default the 1.3B's.
    """
    if name is not None:
        return Choice(_chosen(structure, file, name), "Your choice.", False)
    unknown = structure.size == OTHER_SIZE
    echo = find_recipe("echo_infinity")
    if structure.memory:
        return Choice(echo, "The memory encoder in the file says so.", False)
    fits = [
        r
        for r in RECIPES
        if r.kind == structure.kind and (unknown or r.size == structure.size) and r.memory != "learned"
    ]
    others = ", ".join([*(recipe.title for recipe in fits), "Wan 2.1 itself"])
    if not fits:
        raise ValueError(
            f"Recipe: {file} is {structure}, and no model of that kind and size has been published; choose a "
            f"recipe yourself."
        )
    if structure.kind == VIDEO_MLA:
        why = "It is the only published model with such keys and shapes."
        return Choice(fits[0], f"{why} {LA6}" if _words("la6").search(file.lower()) else why, False)
    if structure.kind == echo.kind and echo in recipes_in_name(file):
        why = "The file's name says so, but there is no memory encoder in it: without one, memory stays off."
        return Choice(echo, why, True)
    if named := [recipe for recipe in recipes_in_name(file) if recipe in fits]:
        why = f"The file's name says so; its keys and shapes are those of {others} alike."
        return Choice(named[0], why, True)
    default = find_recipe(DEFAULTS[structure.kind, "1.3B" if unknown else structure.size])
    why = (
        f"A guess: keys and shapes are those of {others} alike, and the file's name says none of them. If it "
        f"is another one, choose its recipe."
    )
    return Choice(default, why, False)


def _chosen(structure: Structure, file: str, name: str) -> PublishedRecipe:
    recipe = find_recipe(name)
    if recipe.kind != structure.kind:
        raise ValueError(
            f"Recipe: the recipe {name} is for another self-attention than {file} has, which is {structure}; "
            f"have the file recognised, or choose another recipe."
        )
    return recipe


def caution(file: str) -> str:
    """A sentence if a file's name speaks of weights that are not meant for a stream, else ''."""
    plain = (PLAIN, "Wan 2.1 itself, which was not trained to go on block by block")
    for words, what in CAUTIONS if recipes_in_name(file) else (*CAUTIONS, plain):
        if match := words.search(file.lower()):
            return f"Caution: the name says {match[0]!r}: perhaps {what}."
    return ""

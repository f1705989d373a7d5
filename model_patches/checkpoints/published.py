"""Every published model, one record each: where its file lies and how it wants to be run.

Numbers are those of the released code and configuration files, read there unless `source` says otherwise; no
published checkpoint has been run here. Timesteps are out of 1000 and before the shift, counts are latent
frames. All of them are distilled to few steps and run without guidance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..attention.positions import PRESETS, PositionPreset
from ..sampler.rolling import BLOCK, ROLLING
from ..sampler.schedule import PUBLISHED_TIMESTEPS, first_sigmas
from ..sampler.schedule import sigmas as sigmas_of
from ._families import DENSE, VIDEO_MLA

WAN_13B = 5.68  # float32


@dataclass(frozen=True, slots=True)
class PublishedRecipe:
    """One published model."""

    name: str
    title: str
    file: str  # where it is published, and under which name
    positions: str  # of its release, a name of attention.positions.PRESETS
    names: re.Pattern[str]  # words that its files are called by
    source: str
    gigabytes: float = WAN_13B  # 10^9 bytes of one copy of its weights, computed from their number and dtype
    kind: str = DENSE  # of self-attention, or VIDEO_MLA
    size: str = "1.3B"
    block_frames: int = 3  # denoised together
    timesteps: tuple[float, ...] = PUBLISHED_TIMESTEPS
    first_timesteps: tuple[float, ...] = ()  # of a scene's first block; (): timesteps
    shift: float = 5.0
    cfg: float = 1.0
    memory: str = "off"  # or "ema": evicted frames into the sink; "learned": an encoder of its own
    switch: str = "smooth"  # what its release does at a new prompt: see nodes' and timeline's modes
    copy: str = "generator_ema"  # which of two copies its release runs
    lora: str = ""  # the file that goes with it
    note: str = ""  # what of it is not as published here
    sampler: str = BLOCK  # or ROLLING: as many blocks as there are steps are denoised together

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

    @property
    def first_sigmas(self) -> tuple[float, ...]:
        """Noise levels of a scene's first block, () where they are those of all others."""
        return first_sigmas(self.first_timesteps, self.shift)

    @property
    def steps(self) -> str:
        """How many calls a block has, the first of a scene apart where it has others."""
        first = f" (first block {len(self.first_timesteps)})" if self.first_timesteps else ""
        together = ", blocks together" if self.sampler == ROLLING else ""
        return f"{len(self.timesteps)} step{'s' if len(self.timesteps) > 1 else ''}{first}{together}"

    def __str__(self) -> str:
        levels = _in_thousands(self.sigmas)
        if self.first_timesteps:
            levels += f" (a scene's first block: {_in_thousands(self.first_sigmas)})"
        window, positions = self.window, self.preset
        if self.preset != self.positions:
            trained = PRESETS[self.positions].trained_frames
            positions += f" (published: {self.positions}, for {trained} frames)"
        frames = f"{self.block_frames} latent frame{'s' if self.block_frames > 1 else ''}"
        return (
            f"{self.title}: blocks of {frames}; {self.steps} at {levels}; cfg {self.cfg:g}; positions "
            f"{positions}, sink {window.sink_frames}, window {window.window_frames}; memory "
            f"{self.memory}; new prompts: {self.switch}. Source: {self.source}."
            + (f" {self.note}" if self.note else "")
        )


def _in_thousands(sigmas: tuple[float, ...]) -> str:
    return ", ".join(f"{1000 * level:g}" for level in (round(sigma, 5) for sigma in sigmas))


def called(pattern: str) -> re.Pattern[str]:
    """Words of a file's name, in small letters; ~ stands for what may be between two of them."""
    return re.compile(pattern.replace("~", r"[ _.\-/]?"))


STEPS = (
    r"((causal~forcing.*)?frame~wise|causal~forcing~(\+\+|pp|plus)).*(?<!\d)(?<!\d\.)({})~steps?(?![a-z\d])"
)
SELF_GRADIENT = "(self~gradient~forcing|(?<![a-z])sgf(?![a-z]))"
UNTIL_AN_END = (
    "Its release has fewer blocks under way where a video ends; a stream's end is not known before."
)
RECIPES = (
    PublishedRecipe(
        "self_forcing",
        "Self-Forcing",
        "gdhe17/Self-Forcing: checkpoints/self_forcing_dmd.pt",
        "self_forcing",
        called("self~forcing|infinite~forcing"),
        "arXiv 2506.08009, configs/self_forcing_dmd.yaml",
    ),
    PublishedRecipe(
        "causal_forcing",
        "Causal-Forcing, chunk-wise",
        "zhuhz22/Causal-Forcing: chunkwise/causal_forcing.pt",
        "self_forcing",
        called("causal~forcing|chunkwise"),
        "arXiv 2602.02214, configs/causal_forcing_dmd_chunkwise.yaml",
        copy="generator",
    ),
    PublishedRecipe(
        "causal_forcing_framewise",
        "Causal-Forcing, frame-wise",
        "zhuhz22/Causal-Forcing: framewise/causal_forcing.pt",
        "self_forcing",
        called("(causal~forcing.*)?frame~wise(.*causal~forcing)?"),
        "arXiv 2602.02214, configs/causal_forcing_dmd_framewise.yaml",
        block_frames=1,
    ),
    PublishedRecipe(
        "causal_forcing_2step",
        "Causal-Forcing++, frame-wise, 2 steps",
        "zhuhz22/Causal-Forcing: causal-forcing++/framewise-2step.pt",
        "self_forcing",
        called(STEPS.format("2|two")),
        "arXiv 2605.15141, configs/causal_forcing_dmd_framewise_2step.yaml",
        block_frames=1,
        timesteps=(1000.0, 500.0),
        first_timesteps=PUBLISHED_TIMESTEPS,
    ),
    PublishedRecipe(
        "causal_forcing_1step",
        "Causal-Forcing++, frame-wise, 1 step",
        "zhuhz22/Causal-Forcing: causal-forcing++/framewise-1step.pt",
        "self_forcing",
        called(STEPS.format("1|one")),
        "arXiv 2605.15141, configs/causal_forcing_dmd_framewise_1step.yaml",
        block_frames=1,
        timesteps=(1000.0,),
        first_timesteps=PUBLISHED_TIMESTEPS,
    ),
    PublishedRecipe(
        "self_gradient_forcing",
        "Self Gradient Forcing, chunk-wise",
        "JunhaoZhuang/Self_Gradient_Forcing: chunkwise/ar/model.pt",
        "self_gradient",
        called(f"{SELF_GRADIENT}(.*chunk~wise)?|chunk~wise/ar/"),
        "arXiv 2607.20368, configs/self_gradient_forcing_chunkwise.yaml and its script for long videos",
        note="Its code for long videos was read, not run beside a stream.",
    ),
    PublishedRecipe(
        "self_gradient_forcing_framewise",
        "Self Gradient Forcing, frame-wise",
        "JunhaoZhuang/Self_Gradient_Forcing: framewise/ar/model.pt",
        "self_gradient_framewise",
        called(f"{SELF_GRADIENT}.*frame~wise|frame~wise.*{SELF_GRADIENT}|frame~wise/ar/"),
        "arXiv 2607.20368, configs/self_gradient_forcing_framewise.yaml and its script for long videos",
        block_frames=1,
        note="Its code for long videos was read, not run beside a stream.",
    ),
    PublishedRecipe(
        "rolling_forcing",
        "Rolling Forcing",
        "TencentARC/RollingForcing: checkpoints/rolling_forcing_dmd.pt",
        "rolling_forcing",
        called("rolling~forcing"),
        "arXiv 2509.25161, configs/rolling_forcing_dmd.yaml",
        timesteps=(1000.0, 800.0, 600.0, 400.0, 200.0),
        note=UNTIL_AN_END,
        sampler=ROLLING,
    ),
    PublishedRecipe(
        "causal_forcing_longvideo",
        "Causal-Forcing, for long videos",
        "zhuhz22/Causal-Forcing: chunkwise/longvideo.pt",
        "rolling_forcing",
        called(r"(causal~forcing|chunk~wise).*long~video|(^|/)long~video\."),
        "arXiv 2602.02214, long_video/configs/rolling_forcing_dmd.yaml",
        note=UNTIL_AN_END,
        sampler=ROLLING,
    ),
    PublishedRecipe(
        "streamdiffusion_v2",
        "StreamDiffusionV2",
        "jerryfeng/StreamDiffusionV2: wan_causal_dmd_v2v/model.pt",
        "self_forcing",
        called("stream~diffusion|causal~dmd~v2v"),
        "arXiv 2511.07399, configs/wan_causal_dmd_t2v.yaml, which takes its timesteps as they are",
        shift=1.0,
        copy="generator",
        note="Its scheduler rounds noise levels to a table of 1000, to 0.7503, 0.4997 and 0.25. For another "
        "video, in Start From's mode follow, its release makes blocks of 1 in calls at 700, 500, 400 and "
        "200, and remembers what the last of them leaves.",
    ),
    PublishedRecipe(
        "longlive",
        "LongLive",
        "Efficient-Large-Model/LongLive-1.3B: models/longlive_base.pt",
        "longlive",
        called("long~live"),
        "LongLive v1.0, configs/longlive_inference.yaml",
        switch="recache",
        copy="generator",
        lora="lora.pt, rank 256, alpha 256: give it as lora_file",
    ),
    PublishedRecipe(
        "infinity_rope",
        "Infinity-RoPE",
        "training-free: the weights of Self-Forcing or Causal-Forcing",
        "infinity_rope",
        called("infinity~rope"),
        "the author's released configuration (local_attn_size 6, sink_size 1)",
    ),
    PublishedRecipe(
        "reward_forcing",
        "Reward Forcing",
        "JaydenLu666/Reward-Forcing-T2V-1.3B: rewardforcing.pt",
        "reward_forcing",
        called("reward~forcing"),
        "the authors' released configs/reward_forcing.yaml",
        memory="ema",
    ),
    PublishedRecipe(
        "causvid",
        "CausVid",
        "tianweiy/CausVid: autoregressive_checkpoint/model.pt",
        "self_forcing",
        called("caus~vid|autoregressive~checkpoint"),
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
        "infinity_rope",
        called("krea"),
        "configs/self_forcing_server_14b.yaml of krea-ai/realtime-video",
        gigabytes=28.6,
        size="14B",
        copy="generator",
        note="Its server attends to 3 past frames that it runs anew for every block, and ends a block with a "
        "call at timestep 0; a stream keeps the first and 2 past frames instead, and makes no such call.",
    ),
    PublishedRecipe(
        "videomla",
        "VideoMLA",
        "Hidir/VideoMLA: stage3_la6_sink1/model.pt, stage3/model.pt",
        "videomla_7",
        called("video~mla|la6~sink1"),
        "arXiv 2605.30351, sections 3 and 4",
        gigabytes=5.21,  # float32
        kind=VIDEO_MLA,
        # its model card runs stage3_la6_sink1/model.pt with --use_ema and Causal-Forcing's arguments, whose
        # code takes this nest then; the file itself could not be opened
        copy="generator_ema",
        note="The author's earlier code counts 6 frames in all: preset videomla_6.",
    ),
    PublishedRecipe(
        "echo_infinity",
        "Echo-Infinity",
        "Echo-Team/Echo-Infinity: checkpoints/echo_infinity.pt",
        "echo",
        called("echo~infinity"),
        "arXiv 2606.04527, configs/echo_infinity-long_inference.yaml",
        gigabytes=WAN_13B + 0.27,
        memory="learned",
        switch="recache",
        copy="generator",
        lora="one file of LoRA and memory for long videos, which Evolving Memory adds",
    ),
)

"""Files with the keys, shapes and nesting of each published family, filled with random numbers or with none.

No published file could be read here: layouts are those that the released training and inference code saves
and reads, as far as it is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]
WAN_13B, WAN_14B = WanConfig(1536, 8960, 30), WanConfig(5120, 13824, 40)
SHALLOW = WanConfig(1536, 8960, 2)  # true widths, for the files that differ in nesting alone
SMALL = WanConfig(dim=256, ffn_dim=192, num_layers=2, text_dim=64)  # heads of 128, as hosts take them
MLA = MlaSizes()
SMALL_MLA = MlaSizes(20, 40, RopeLayout.truncated(128, 32))
SHARDED = "model._fsdp_wrapped_module."


def prototype(tensors: Tensors) -> Tensors:
    """VideoMLA's layers as its author's public prototype laid them: bare (in, out), latent and key fused."""
    made = {key: value for key, value in tensors.items() if ".self_attn." not in key}
    for layer in sorted({key.split(".")[1] for key in tensors if key.startswith("blocks.")}):
        pre = f"blocks.{layer}.self_attn."
        a = {key.removeprefix(pre): value for key, value in tensors.items() if key.startswith(pre)}
        heads = len(a["v_up.weight"]) // _head_dim(a)
        own = {
            "W_q_downsampled": a["q_down.weight"].T,
            "W_q_upsampled": _by_head(heads, a["q_up.weight"], a["q_rope.weight"]).T,
            "W_kv_downsampled": torch.cat([a["kv_down.weight"], a["k_rope.weight"]]).T,
            "W_kv_upsampled": _by_head(heads, a["k_up.weight"], a["v_up.weight"]).T,
        }
        kept = ("norm_q_latent.weight", "norm_kv_latent.weight", "o.weight", "o.bias")
        own |= {name: a[name] for name in kept if name in a}
        made |= {pre + name: value.contiguous() for name, value in own.items()}
    return made


def _head_dim(attention: Mapping[str, Tensor]) -> int:
    """Of value rows, still rows and turned rows: all heads share the rotary key's width."""
    turned = len(attention["k_rope.weight"])
    heads = len(attention["q_rope.weight"]) // turned
    return len(attention["v_up.weight"]) // heads


def _by_head(heads: int, *parts: Tensor) -> Tensor:
    return torch.cat([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 1)


def nested(name: str, prefix: str = "model.", other: str | None = None) -> Callable[[Tensors], object]:
    """What a trainer saves: the weights under a name, perhaps another copy and a step beside them."""

    def wrap(tensors: Tensors) -> object:
        own = {prefix + key: value for key, value in tensors.items()}
        copy = {key: torch.zeros(()).expand_as(value) for key, value in own.items()}
        return {name: own, **({other: copy} if other else {}), "step": 400}

    return wrap


def flat(tensors: Tensors) -> object:
    """The weights alone, under the name that the trainer's wrapper gives the model."""
    return {"model." + key: value for key, value in tensors.items()}


@dataclass(frozen=True, slots=True)
class Family:
    """How the files of one published model look."""

    recipe: str  # the record that it must get
    file: str
    config: WanConfig = SHALLOW
    mla: bool = False
    memory: bool = False
    wrap: Callable[[Tensors], object] | None = None  # None: safetensors, flat
    prefix: str = ""  # of the keys there

    def model(self, small: bool) -> WanModel:
        """The family's model: of true sizes on the meta device, or a small one of random weights."""
        config = SMALL if small else self.config
        with torch.device("cpu" if small else "meta"):
            made = MlaModel(config, SMALL_MLA if small else MLA) if self.mla else WanModel(config)
        if small:
            for parameter in made.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        return made.requires_grad_(False).eval()

    def encoder(self, small: bool) -> Tensors:
        """Tensors of the memory encoder, under its prefix."""
        if not self.memory:
            return {}
        config = EncoderConfig(256, 2, 3, 2, 2) if small else EncoderConfig(1536, 12, 3, 30, 52)
        with torch.device("cpu" if small else "meta"):
            state = MemoryEncoder(config).state_dict()
        return {f"query_memory_encoder.{key}": value for key, value in state.items()}

    def tensors(self, model: WanModel, small: bool) -> Tensors:
        """As they lie in the file; without bytes of their own where the model has none."""
        state = {**model.state_dict(), **self.encoder(small)}
        if not small:
            state = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
        return prototype(state) if self.mla else state

    def write(self, folder: Path, model: WanModel | None = None, file: str | None = None) -> Path:
        """The file of a small model; without one, of true keys and shapes with no bytes behind them."""
        path = folder / (file or self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors(model or self.model(small=False), small=model is not None)
        tensors = {self.prefix + key: value for key, value in tensors.items()}
        if self.wrap is not None:
            torch.save(self.wrap(tensors), path)
        elif model is not None:
            save_file(tensors, path)
        else:
            sparse(tensors, path)
        return path


FAMILIES = (
    Family(
        "self_forcing",
        "checkpoints/self_forcing_dmd.pt",
        WAN_13B,
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family("causal_forcing", "chunkwise/causal_forcing.pt", wrap=nested("generator", other="generator_ema")),
    Family(
        *("causal_forcing_framewise", "framewise/causal_forcing.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("causal_forcing_2step", "causal-forcing++/framewise-2step.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("causal_forcing_1step", "causal-forcing++/framewise-1step.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("self_gradient_forcing", "chunkwise/ar/model.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("self_gradient_forcing_framewise", "framewise/ar/model.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("rolling_forcing", "checkpoints/rolling_forcing_dmd.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family(
        *("causal_forcing_longvideo", "chunkwise/longvideo.pt"),
        wrap=nested("generator_ema", SHARDED, "generator"),
    ),
    Family("streamdiffusion_v2", "wan_causal_dmd_v2v/model.pt", wrap=nested("generator", prefix="")),
    Family("longlive", "models/longlive_base.pt", wrap=nested("generator")),
    Family("infinity_rope", "infinity_rope/self_forcing_dmd.pt", wrap=nested("generator_ema", SHARDED)),
    Family("reward_forcing", "rewardforcing.pt", wrap=flat),
    Family("causvid", "autoregressive_checkpoint/model.pt", wrap=nested("generator")),
    Family(
        *("krea_realtime", "krea-realtime-video-14b.safetensors", WanConfig(5120, 13824, 2)), prefix="model."
    ),
    Family(
        "videomla",
        "stage3_la6_sink1/model.pt",
        WanConfig(1536, 8960, 1),
        mla=True,
        wrap=nested("generator_ema", other="generator"),
    ),
    Family("echo_infinity", "checkpoints/echo_infinity.pt", memory=True, wrap=nested("generator", SHARDED)),
)
BY_NAME = {family.recipe: family for family in FAMILIES}


def sparse(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file in bfloat16 of these shapes whose bytes are a hole in the disk."""
    header: dict[str, object] = {}
    at = 0
    for key, value in tensors.items():
        end = at + 2 * value.numel()
        header[key] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def lora_of(model: WanModel, rank: int, seed: int = 0) -> Tensors:
    """PEFT's dictionary of a LoRA on every linear layer of the blocks."""
    generator = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks."):
            pre = f"base_model.model.{name}."
            made[pre + "lora_A.weight"] = 0.1 * torch.randn(rank, layer.in_features, generator=generator)
            made[pre + "lora_B.weight"] = 0.1 * torch.randn(layer.out_features, rank, generator=generator)
    return made


def extracted(model: WanModel, rank: int, seed: int = 0) -> tuple[Tensors, dict[str, tuple[Tensor, Tensor]]]:
    """What LightX2V's extractor writes of a model and a changed one, without its prefix, and the changes.

    Pairs for matrices of the blocks' layers, differences for all else. The changes by the keys of the model,
    in float64, each with the sum of its terms' sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    for key, value in model.state_dict().items():
        layer, _, part = key.rpartition(".")
        if part == "weight" and value.ndim == 2 and layer.startswith("blocks."):
            down, up = (
                0.1 * torch.randn(size, generator=generator)
                for size in ((rank, value.shape[1]), (value.shape[0], rank))
            )
            made |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            changes[key] = up.double() @ down.double(), up.double().abs() @ down.double().abs()
        else:
            own = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}[part]
            change = 0.1 * torch.randn(value.shape, generator=generator)
            made[f"{layer}.{own}"], changes[key] = change, (change.double(), change.double().abs())
    return made, changes


def variant(**changes: int) -> WanModel:
    """A small model of other sizes."""
    with torch.device("meta"):
        return WanModel(replace(SMALL, **changes))

"""Runs one family's released inference pipeline on a small model, and writes down every call of the model.

Started by `peer.run` in a process of its own: python released.py FOLDER. The folder holds `job.json` and
`given.safetensors` (weights, texts, noise); `made.safetensors` is written beside them.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from standins import Options, Text, in_float64, see_checkout, stand_in, without_a_gpu
from torch import Tensor, nn

Tensors = dict[str, Tensor]
OF_A_CACHE = (
    *("local_attn_size", "sink_size", "recent_size", "use_block_rope"),
    *("compression_method", "ema_alpha_long", "ema_alpha_short", "ema_adaptive"),
)


@dataclass
class Job:
    """One run; see `peer.Peer`."""

    checkout: str
    pipeline: str
    models: list[str]
    bare: list[str]
    absent: list[str]
    configs: list[str]
    kwargs: dict[str, bool | float]
    sizes: dict[str, int]
    frame_tokens: int
    calls: list[int]
    prompt: str
    words: list[str]
    switch_frame: int
    dtype: str


def options(job: Job) -> Options:
    """The configuration files, later ones over earlier ones."""
    merged: dict[str, object] = {}
    for name in job.configs:
        merged |= yaml.safe_load((Path(job.checkout) / name).read_text(encoding="utf-8"))
    if job.kwargs:
        merged["model_kwargs"] = {**merged["model_kwargs"], **job.kwargs}
    return Options(merged)


def small(job: Job) -> None:
    """Models are made in the job's sizes, instead of from files of Wan's."""

    def make(cls: type[nn.Module], *_: object, **given: object) -> nn.Module:
        if not cls.__name__.startswith("Causal"):
            return nn.Module()  # Wan itself, which a wrapper makes first and puts the causal one over
        return cls(**job.sizes, **{key: given[key] for key in OF_A_CACHE if key in given})

    for name in job.models:
        module = importlib.import_module(name)
        for owner in ("WanModel", "CausalWanModel"):
            if hasattr(module, owner):
                getattr(module, owner).from_pretrained = classmethod(make)


def pipeline_of(job: Job, weights: Tensors, cache: str = "kv_cache1") -> nn.Module:
    """Their pipeline around a small model with these weights. cache: the name they keep it under."""
    small(job)
    module_name, class_name = job.pipeline.split(":")
    module = importlib.import_module(module_name)
    stand_in(Path(job.checkout))
    made = getattr(module, class_name)(options(job), device="cpu")
    put(made.generator, weights)
    made.num_transformer_blocks = job.sizes["num_layers"]
    narrow(made, "_initialize_kv_cache", cache, job.sizes["num_heads"])
    return made


def put(generator: nn.Module, weights: Tensors) -> None:
    """The weights in their wrapper, under their names, in their dtype; none missing, none left over."""
    generator.load_state_dict({f"model.{key}": value for key, value in weights.items()}, strict=True)
    generator.to(next(iter(weights.values())).dtype)


def narrow(pipeline: nn.Module, method: str, attribute: str, heads: int) -> None:
    """Their cache is made for 12 heads; it keeps as many as the model has."""
    begin = getattr(pipeline, method)

    def cut(*given: object, **named: object) -> None:
        begin(*given, **named)
        for layer in getattr(pipeline, attribute):
            for name in layer.keys() & {"k", "v", "q", "k_original", "v_original"}:
                layer[name] = layer[name][:, :, :heads].contiguous()

    setattr(pipeline, method, cut)


def watch(generator: nn.Module, frames: int) -> dict[str, list[Tensor]]:
    """What every call for so many latent frames is given and gives: latents [1, C, T, H, W], timesteps."""
    seen: dict[str, list[Tensor]] = {"x": [], "timestep": [], "flow": [], "x0": []}

    def on_model(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], flow: Tensor) -> None:
        if flow.shape[2] == frames:
            seen["x"].append(args[0].clone())
            seen["timestep"].append(named["t"].double())
            seen["flow"].append(flow.clone())

    def on_generator(_: nn.Module, __: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
        x0 = out if isinstance(out, Tensor) else out[1]
        if x0.shape[1] == frames:
            seen["x0"].append(x0.transpose(1, 2).clone())

    generator.model.register_forward_hook(on_model, with_kwargs=True)
    generator.register_forward_hook(on_generator)
    return seen


def written(seen: dict[str, list[Tensor]], scheduler: Any) -> Tensors:
    """What is handed back of it, and the scheduler's table."""
    made = {name: torch.stack(parts) for name, parts in seen.items()}
    return {**made, "sigmas": scheduler.sigmas, "timesteps": scheduler.timesteps}


def run(job: Job, weights: Tensors, noise: Tensor) -> Tensors:
    """Every call of the pipeline, and its cache [layers, 2, 1, L, N, D] at the end.

    noise: [blocks, calls, T, C, H, W]; the first of a block is what it begins with. A block takes as many as
    it has calls.
    """
    pipeline = pipeline_of(job, weights)
    fresh = (draw for block, calls in zip(noise, job.calls, strict=True) for draw in block[1:calls])
    torch.randn_like = lambda like: next(fresh).reshape(like.shape)
    seen = watch(pipeline.generator, noise.shape[2])
    asked = {"text_prompts": [job.prompt]}
    if job.switch_frame:
        asked = {
            "text_prompts_list": [[words] for words in job.words],
            "switch_frame_indices": [job.switch_frame],
        }
    with torch.no_grad():
        pipeline.inference(noise[:, 0].flatten(0, 1)[None], **asked)
    assert next(fresh, None) is None, "noise is left over"
    cache = [torch.stack([layer["k"], layer["v"]]) for layer in pipeline.kv_cache1]
    return {**written(seen, pipeline.generator.scheduler), "cache": torch.stack(cache)}


def main(folder: Path, run: Callable[[Job, Tensors, Tensor], Tensors]) -> None:
    """The job of that folder."""
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    given = load_file(folder / "given.safetensors")
    torch.set_num_threads(1)
    without_a_gpu()
    if job.dtype == "float64":
        in_float64()
    dtype = getattr(torch, job.dtype)
    see_checkout(Path(job.checkout), job.frame_tokens, job.bare, job.absent)
    weights = {key[8:]: value.to(dtype) for key, value in given.items() if key.startswith("weights.")}
    Text.known = {key[5:]: value.to(dtype) for key, value in given.items() if key.startswith("text.")}
    made = run(job, weights, given["noise"].to(dtype))
    save_file({key: value.contiguous() for key, value in made.items()}, folder / "made.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), run)

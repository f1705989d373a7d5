"""A take as it stood after a whole block, in one file; another run goes on from it without a seam.

Beside what the model remembers it holds the decoder's past, so that the pictures go on without a seam, and
how many pictures of the video are written. Prompts and models come from the graph that goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...model_patches.arch.fingerprint import read_back, written
from ...model_patches.cache.format import CacheShape
from ...model_patches.stream.state import Blend
from ...model_patches.stream.state_file import config_of, plain, read, write
from ..host.stream import HostState, HostStream
from ..host.vae import HostVaePast
from .switch import recached

KIND, VERSION = "rivulet take", 1
ENDING = ".snapshot.safetensors"
CACHE, MEMORY, LAYER = "cache.", "memory.", "vae.layer."


@dataclass(frozen=True, slots=True)
class Kept:
    """All that a take needs to go on, beside the graph."""

    state: HostState
    past: HostVaePast | None  # None: the next latent is a scene's first
    scene: int  # pixel frame of the whole video at which the scene began
    frames: int  # pixel frames of the whole video that are written
    prompt: str | None  # what holds now; None: the graph's fixed one
    given: int = 0  # latent frames before the first block
    recaches: bool = False  # the frames beside the sink are to be run again under the prompt
    hidden: int = 0  # pixel frames of the given latents that are not in the video
    lost_HWC: Tensor | None = None  # what the VAE lost of the picture before the video's first; see `join`
    followed: bool = False  # its newest block began with an incoming video, which is not in here


@torch.inference_mode()
def save(kept: Kept, stream: HostStream, path: Path) -> None:
    """Write the take; OSError where that fails, RuntimeError where the state is spent."""
    state, past = kept.state, kept.past
    tensors = {CACHE + name: tensor for name, tensor in state.cache.tensors().items()}
    tensors["tail"] = state.tail_BCTHW
    layers: list[Any] = [] if past is None else list(past.layers)
    tensors |= {f"{LAYER}{i}": layer for i, layer in enumerate(layers) if isinstance(layer, Tensor)}
    if past is not None and past.held_BCTHW is not None:
        tensors["vae.held"] = past.held_BCTHW
    if kept.lost_HWC is not None:
        tensors["lost"] = kept.lost_HWC
    tensors |= {MEMORY + name: tokens.contiguous() for name, tokens in state.memory.tensors().items()}
    if state.blend is not None:
        tensors |= {"blend.old": state.blend.old[0], "blend.new": state.blend.new[0]}
    about = {
        "config": plain(stream.config),
        "shape": asdict(state.cache.shape),
        "table": state.cache.table,
        **_specs(stream),
        "blend": state.blend and [state.blend.blocks, state.blend.done],
        "block": state.block,
        "start_frame": state.start_frame,
        "layers": None if past is None else [each if isinstance(each, str) else None for each in layers],
        "scene": kept.scene,
        "frames": kept.frames,
        "prompt": kept.prompt,
        "given": kept.given,
        "recaches": kept.recaches,
        "hidden": kept.hidden,
        "followed": kept.followed,
    }
    if stream.weights.sketch_LKR is not None:
        about["weights"] = written(stream.weights.sketch_LKR)
    write(path, KIND, VERSION, about, tensors)


@torch.inference_mode()
def taken_up(path: Path, stream: HostStream) -> Kept:
    """The saved take on this stream's model; refused where the stream is another.

    Whether the weights are those it was made with is found out in the first call, where they are loaded.
    Seed, noise levels and strength of guidance may differ: the blocks from here on are made with them.
    """
    about, tensors = read(path, KIND, VERSION)
    _check(path, about, stream)
    if "weights" in about:
        stream.weights.take, stream.weights.sketch_LKR = path.name, read_back(about["weights"])
    rooms, tokens = (
        {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
        for prefix in (CACHE, MEMORY)
    )
    cache, device = stream.restored(tuple(about["table"]), rooms), stream.model.load_device
    memory = stream.policy.restored({name: part.to(device) for name, part in tokens.items()})
    texts = [(tensors[f"blend.{side}"],) for side in ("old", "new")] if about["blend"] else []
    blend = Blend(*texts, *about["blend"]) if texts else None
    state = HostState(about["block"], about["start_frame"], cache, tensors["tail"], memory, blend)
    past = _past(about["layers"], tensors)
    counts = about["scene"], about["frames"], about["prompt"], about["given"], about["recaches"]
    later = about.get("hidden", 0), tensors.get("lost"), about.get("followed", False)
    return Kept(state, past, *counts, *later)


def settled(kept: Kept, stream: HostStream) -> HostState:
    """The state that the next block begins from; the stream already has the prompt that holds."""
    return recached(stream, kept.state) if kept.recaches else kept.state


def _past(layers: list[Any] | None, tensors: Mapping[str, Tensor]) -> HostVaePast | None:
    if layers is None:
        return None
    found = [tensors.get(f"{LAYER}{i}", layer) for i, layer in enumerate(layers)]
    return HostVaePast(tuple(found), tensors.get("vae.held"))


def _check(path: Path, about: Mapping[str, Any], stream: HostStream) -> None:
    saved, config = config_of(about["config"]), stream.config
    differs = {
        name: (getattr(saved, name), getattr(config, name))
        for name in ("geometry", "preset", "block_frames", "dtype", "fresh_noise")
        if getattr(saved, name) != getattr(config, name)
    }
    was = asdict(CacheShape(**about["shape"])) | {name: about.get(name) for name in _specs(stream)}
    differs |= {
        name: (had, has)
        for name, has in (asdict(stream.shape) | _specs(stream)).items()
        if (had := was.get(name)) != has
    }
    if differs:
        told = "; ".join(f"{name} {had}, not {has}" for name, (had, has) in differs.items())
        raise ValueError(
            f"Resume Stream: the take in {path.name} was made with {told}. Give it the same model, size, "
            f"preset, block, cache and memory, and guidance where it had guidance; or begin a new stream."
        )


def _specs(stream: HostStream) -> dict[str, object]:
    return {"cache": dict(stream.format.spec()), "memory": dict(stream.policy.spec())}

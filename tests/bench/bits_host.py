"""Streams of `bench bits` made by ComfyUI's nodes. Whatever of nodes and host they use is here.

Run in a process of ComfyUI's Python, see `bits`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from .bits_scenarios import (
    EARLIER,
    FOLLOW,
    FPS,
    HEIGHT,
    HOST,
    MLA,
    PICTURE,
    PROMPTS,
    SEED,
    TAKE,
    VIDEO,
    WIDTH,
    Fingerprint,
    Scenario,
    fingerprints,
    moving,
)
from .load_once import import_host

BUILT_IN, NO_FILE, FROM_MODEL = "built in (Pocket Model)", "none", "as the model was trained"
LATENTS = (HEIGHT // 8, WIDTH // 8)
ATTENTION = {False: "VideoMLA's", True: "VideoMLA's, for Evolving Memory"}  # by whether it remembers


@dataclass
class Graph:
    """One scenario's nodes; what they make of model, text and start is ready for Stream Video."""

    model: Any
    clip: Any
    vae: Any
    cache: Any
    how: Scenario

    def stream(self, pictures: int, text: str, start: Any = None, **changed: Any) -> str:
        """Runs Stream Video; returns where its snapshot lies in the output folder."""
        from rivulet.nodes.prompts import RivuletPrompts
        from rivulet.nodes.stream import RivuletStream

        inputs = {
            "width": WIDTH,
            "height": HEIGHT,
            "seconds": pictures / FPS,
            "fps": float(FPS),
            "seed": SEED,
            "preset": self.how.preset or FROM_MODEL,
            "num_frame_per_block": self.how.block_frames,
            "cfg": self.how.cfg,
            "filename_prefix": "bits",
            "negative": self.clip.encode_from_tokens_scheduled(""),
            "snapshot": "always",
            "cache": self.cache,
            **changed,
        }
        prompts = RivuletPrompts.execute(self.clip, text, "smooth", 5.0).args[0]
        node = RivuletStream.PREPARE_CLASS_CLONE(None)
        made = node.execute(self.model, self.vae, prompts=prompts, start=start, **inputs)
        return "/".join(Path(made.args[3]).parts[-2:])


def graph(how: Scenario) -> Graph:
    """The nodes before Stream Video, each with a model of its own."""
    from rivulet.nodes.memory import RivuletMemory
    from rivulet.nodes.pocket_model import RivuletPocketModel
    from rivulet.nodes.small_cache import RivuletLatentCache

    learned = how.memory == "learned"
    attention = ATTENTION[learned] if how.cache in MLA else "Wan's"
    model, clip, vae = RivuletPocketModel.execute(attention).args
    if how.memory != "off":
        (model,) = RivuletMemory.execute(model, how.memory, BUILT_IN if learned else NO_FILE).args
    cache = None
    if how.cache != "dense":
        basis = BUILT_IN if how.cache == "latent" else NO_FILE
        (cache,) = RivuletLatentCache.execute(how.cache, basis, how.exact, False).args
    return Graph(model, clip, vae, cache, how)


@contextmanager
def taking(vae: Any, taken: Fingerprint) -> Iterator[None]:
    """What the VAE is given to decode, and what a writer is given, go to the fingerprint."""
    from rivulet.model_patches.writer.frames import HostFrames
    from rivulet.model_patches.writer.video import Mp4Writer

    write, newest = Mp4Writer.write, torch.empty(0)

    def watched(writer: Mp4Writer, frames: HostFrames) -> None:
        taken.pictures(frames.read())
        write(writer, frames)

    def given(_: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal newest
        # a decoder first tries itself on latents of another size
        if inputs[0].shape[3:] != LATENTS:
            return
        for frame_BCTHW in inputs[0].split(1, 2):
            # a take that ends decodes a latent without its pair, and once more when it is gone on with
            if not torch.equal(frame_BCTHW, newest):
                taken.latents(frame_BCTHW)
            newest = frame_BCTHW.clone()

    with ExitStack() as until_made:
        until_made.callback(vae.first_stage_model.conv2.register_forward_pre_hook(given).remove)
        until_made.enter_context(patch.object(Mp4Writer, "write", watched))
        yield


def with_picture(made: Graph) -> Any:
    """A picture is the first of the video."""
    return start_node(image=moving(1) / 255)


def after_video(made: Graph) -> Any:
    """The stream goes on where a video ends."""
    return start_node(image=moving(40) / 255, mode="go on")


def after_take(made: Graph) -> Any:
    """The stream goes on where a take of another seed, prompt and guidance ends."""
    return start_node(take=made.stream(69, EARLIER, seed=SEED + 1, cfg=1.0), mode="go on")


def following(made: Graph) -> Any:
    """Every block begins with a video of another size, which ends in the middle of the last block."""
    pixels_FHWC = moving(pictures_of(made.how, made.how.blocks) - 5, 80, 48)
    return start_node(image=pixels_FHWC / 255, mode="follow", strength=made.how.strength)


BEGINNINGS: dict[str, Callable[[Graph], Any]] = {
    PICTURE: with_picture,
    VIDEO: after_video,
    TAKE: after_take,
    FOLLOW: following,
}


def start_node(**inputs: Any) -> Any:
    """What Start From gives."""
    from rivulet.nodes.start_from import RivuletStartFrom

    return RivuletStartFrom.execute(**inputs).args[0]


def resumed(snapshot: str) -> Any:
    """What Resume Stream gives."""
    from rivulet.nodes.resume import RivuletResume

    return RivuletResume.execute(snapshot).args[0]


def pictures_of(how: Scenario, blocks: int) -> int:
    """Pictures of so many blocks that begin with nothing."""
    return 1 + 4 * (blocks * (how.block_frames or 3) - 1)


def timeline(how: Scenario) -> str:
    """The prompts as they are typed, each at a time in the middle of the block before its own."""
    half = 2 * (how.block_frames or 3)
    lines = [f"[0s] {PROMPTS[0]}"]
    for (block, mode), prompt in zip(sorted(how.switches.items()), PROMPTS[1:], strict=False):
        lines.append(f"[{(pictures_of(how, block) - half) / FPS:.3f}s {mode}] {prompt}")
    return "\n".join(lines)


def stream(how: Scenario, folder: Path) -> Fingerprint:
    """The fingerprint of the scenario's stream."""
    import folder_paths

    taken, made, snapshot = Fingerprint(), graph(how), ""
    with patch.object(folder_paths, "get_output_directory", lambda: str(folder)), torch.inference_mode():
        start = BEGINNINGS[how.begin](made) if how.begin else None
        with taking(made.vae, taken):
            for blocks in (*how.resumes, how.blocks):
                start = resumed(snapshot) if snapshot else start
                snapshot = made.stream(pictures_of(how, blocks), timeline(how), start)
    return taken


def main(arguments: list[str]) -> int:
    """Writes the fingerprints: COMFYUI OUT ONLY quick|all."""
    comfyui, out, only, how_many = arguments
    import_host(Path(comfyui))
    made = fingerprints(HOST, stream, only, how_many == "quick")
    Path(out).write_text(json.dumps(made), encoding="utf-8")
    return 0

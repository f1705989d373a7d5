"""One contender of `bench vs-core` in a process of ComfyUI's Python, see `vs_core`; Linux only.

A number of latents on a line of standard input is a video to make; what it took comes back as a line of JSON.
FOLDER holds model.safetensors, vae.safetensors and settings.json, see `vs_core.write`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .load_once import import_host

GLANCE_SECONDS = 0.002
# what ComfyUI takes on a CUDA card; its choice for a processor is another
ATTENTION = "--use-pytorch-cross-attention"


@dataclass(frozen=True)
class Given:
    """What both contenders are given."""

    model: Any
    vae: Any
    positive: Any
    sigmas: Any
    settings: dict[str, Any]
    out: Path  # folder of the videos


def given(folder: Path) -> Given:
    """Loads the files with the host's own nodes."""
    import folder_paths
    import torch
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    import nodes

    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    for kind in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(kind, str(folder))
    folder_paths.set_output_directory(str(folder))
    (model,) = nodes.UNETLoader().load_unet("model.safetensors", "default")
    (vae,) = nodes.VAELoader().load_vae("vae.safetensors")
    sigmas = BasicScheduler.execute(model, "simple", settings["steps"], 1.0).result[0]
    generator = torch.Generator().manual_seed(settings["seed"])
    text = torch.randn(1, settings["text_tokens"], settings["text_dim"], generator=generator)
    return Given(model, vae, [[text, {}]], sigmas, settings, folder)


def core(given: Given) -> Callable[[int], dict[str, float]]:
    """What ComfyUI alone has: the clip is sampled, then decoded, then written."""
    from comfy_extras.nodes_ar_video import EmptyARVideoLatent, SamplerARVideo
    from comfy_extras.nodes_custom_sampler import BasicGuider, RandomNoise, SamplerCustomAdvanced
    from comfy_extras.nodes_video import CreateVideo

    import nodes

    def make(latents: int) -> dict[str, float]:
        start, how = time.perf_counter(), given.settings
        latent = EmptyARVideoLatent.execute(how["width"], how["height"], pictures(latents), 1).result[0]
        sampler = SamplerARVideo.execute(how["block_frames"]).result[0]
        guider = BasicGuider.execute(given.model, given.positive).result[0]
        noise = RandomNoise.execute(how["seed"]).result[0]
        made = SamplerCustomAdvanced.execute(noise, guider, sampler, given.sigmas, latent).result[0]
        (images,) = nodes.VAEDecode().decode(given.vae, made)
        first = time.perf_counter() - start
        CreateVideo.execute(images, how["fps"]).result[0].save_to(str(given.out / "core.mp4"))
        whole = time.perf_counter() - start
        return {
            "made_frames": len(images),
            "first_seconds": first,
            "decoded_seconds": first,
            "seconds": whole,
        }

    return make


def ours(given: Given) -> Callable[[int], dict[str, float]]:
    """Stream Video as its node runs it; a picture is there once a viewer could fetch it from the file."""
    from rivulet.nodes.host.recipe import FROM_MODEL
    from rivulet.nodes.stream import RivuletStream

    def make(latents: int) -> dict[str, float]:
        start, how = time.perf_counter(), given.settings
        with FirstPicture() as first:
            video = RivuletStream.PREPARE_CLASS_CLONE(None).execute(
                given.model, given.vae, how["width"], how["height"], pictures(latents) / how["fps"],
                how["fps"], how["seed"], FROM_MODEL, how["block_frames"], 1.0, "ours",
                positive=given.positive, sigmas=given.sigmas,
            ).args[0]  # fmt: skip
            whole = time.perf_counter() - start
        path = Path(video.get_stream_source())
        frames = video.get_frame_count()
        path.unlink()
        return {
            "made_frames": frames,
            "first_seconds": first.at - start,
            "decoded_seconds": whole,
            "seconds": whole,
        }

    return make


class FirstPicture:
    """When the newest stream had its first picture on disk: `at`, by `time.perf_counter`."""

    def __enter__(self) -> FirstPicture:
        from rivulet.nodes.run.session import STREAMS

        self.streams, self.known = STREAMS, set(map(id, STREAMS.all()))
        self.at, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.done.wait(GLANCE_SECONDS):
            new = [live for live in self.streams.all() if id(live) not in self.known]
            index = new[0].writer.index if new else None
            if index is not None and index.frames:
                self.at = time.perf_counter()
                return


class Sampling:
    """Seconds that the host's guiders have sampled since the last question."""

    def __init__(self) -> None:
        from comfy.samplers import CFGGuider

        sample, self._seconds, self._worked = CFGGuider.sample, 0.0, 0.0

        def timed(*given: Any, **named: Any) -> Any:
            start, worked = time.perf_counter(), time.process_time()
            try:
                return sample(*given, **named)
            finally:
                self._seconds += time.perf_counter() - start
                self._worked += time.process_time() - worked

        CFGGuider.sample = timed

    def taken(self) -> dict[str, float]:
        """On the clock, and the processor's own."""
        found = {"sampling_seconds": self._seconds, "sampling_processor_seconds": self._worked}
        self._seconds = self._worked = 0.0
        return found


def pictures(latents: int) -> int:
    """Pixel frames of a clip of so many latents of Wan's VAE."""
    return 1 + 4 * (latents - 1)


def measured(make: Callable[[int], dict[str, float]], latents: int, sampling: Sampling) -> dict[str, float]:
    """Makes a video; its times, and the most memory that the process held meanwhile."""
    import torch

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew (proc(5))
    before, worked = held("VmRSS"), time.process_time()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    sampling.taken()
    found = make(latents)
    found |= sampling.taken()
    found |= {"processor_seconds": time.process_time() - worked, "before_bytes": before}
    found["peak_bytes"] = held("VmHWM")
    if torch.cuda.is_available():
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def held(name: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def serve(make: Callable[[int], dict[str, float]], lines: TextIO, answers: TextIO) -> None:
    """Makes a video for each line."""
    sampling = Sampling()
    for line in lines:
        print(json.dumps(measured(make, int(line), sampling)), file=answers, flush=True)


def main(arguments: list[str]) -> int:
    """Answers until its input ends: COMFYUI FOLDER core|ours."""
    comfyui, folder, name = arguments
    # what packages print goes to the other stream
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    import_host(Path(comfyui), *(() if torch.cuda.is_available() else ("--cpu",)), ATTENTION)

    with torch.inference_mode():
        serve({"core": core, "ours": ours}[name](given(Path(folder))), sys.stdin, answers)
    return 0

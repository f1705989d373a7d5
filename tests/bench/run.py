"""`python run.py bench NAME`: measurements as JSON lines on stdout."""

from __future__ import annotations

import argparse
import importlib

import torch

from .records import Rows, machine

BENCHES = {
    "bits": "whether streams are still the same bits: --out FILE records them, --against FILE compares",
    "cache": "what each cache format costs and loses: bytes, attention, pictures, time",
    "card": "what a stream asks of a card, counted without one: operators, bytes, waits, peak, predictions",
    "clients": "comfy-cli and comfy_api_simplified get template 01's MP4: --comfyui PATH --python PYTHON",
    "decode": "speed, memory and quality of Wan's VAE and of a tiny decoder: --vae FILE --tiny FILE",
    "families": "the engine beside each family's released inference code: --peers FOLDER",
    "field": "caches and memories in pairs with plain: cost, time, quality, recall; kept in a file; --table",
    "heads": "what heads look at, and leaving out keys by head: attended tokens, error; --profiles FILE",
    "host": "whether ComfyUI's process grows during a long video: --comfyui PATH --python PYTHON",
    "load": "time and memory of loading a 1.3B checkpoint into ComfyUI: --comfyui PATH --python PYTHON",
    "plan": "what a stream is computed to need at real sizes, and prediction against measurement here",
    "picture": "the moving picture of the README",
    "registry": "icon and banner of the pack in the registry: --out docs",
    "start": "streams that begin with a picture, a video or an earlier take, and video to video",
    "stream": "time per block and memory, early and late, against a cache that keeps the whole clip",
    "kernels": "each kernel against its reference and the card; --aot compiles for cards that are not here",
    "gpu": "all that needs a GPU, in eight minutes: streams by cache format, decoders, kernels, tests",
    "recall": "whether what left the window is remembered: colour and shape of what a band has hidden",
    "quality": "whether the video shows what the prompt says, at the start and much later: --memory NAME",
    "memory": "what remembering costs a block by cache format, and whether it stays that for --blocks N",
    "vs-core": "ComfyUI's own autoregressive nodes beside Stream Video: --comfyui PATH --python PYTHON",
    "watch": "what the drift watch sees, how often it is wrong, and what it costs: --videos FOLDER",
    "shot": "whether an object comes along into another scene, by the kind of switch",
    "snapshots": "what a snapshot every ten seconds of video adds to the time of a block, by cache format",
    "switch": "how soon each kind of prompt switch shows the new prompt, and how hard it jumps",
}
MODULES = {
    "memory": "memory_cost",
    "shot": "recall_shot",
    "snapshots": "snapshot_cost",
    "vs-core": "vs_core",
}  # where the bench's name is another module's


def main(arguments: list[str]) -> int:
    """Returns the exit status of one benchmark."""
    names = argparse.ArgumentParser(
        prog="run.py bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:<8} {what}" for name, what in BENCHES.items()),
    )
    names.add_argument("name", choices=BENCHES, metavar="NAME", help="one of those below")
    name = names.parse_args(arguments[:1]).name
    bench = importlib.import_module(f".{MODULES.get(name, name)}", __package__)
    options = argparse.ArgumentParser(prog=f"run.py bench {name}", description=BENCHES[name])
    options.add_argument("--quick", action="store_true", help="about a minute on two cores; rows are marked")
    bench.add_arguments(options)
    chosen = options.parse_args(arguments[1:])
    if chosen.quick:
        torch.set_num_threads(1)  # at these sizes a second one costs more in hand-over than it brings
    rows = Rows(name, chosen.quick)
    if getattr(chosen, "case", None) is None and not getattr(chosen, "table", False):
        rows("machine", **machine())
    return bench.run(chosen, rows)

"""Whether ComfyUI's process grows while the pocket model makes a long video in it; Linux only."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from ..host.comfy_server import Server, Stream
from ..host.graphs import stream_graph
from .memory import settled, slope
from .records import Rows
from .soak import NOISE_BYTES

FULL_SECONDS, QUICK_SECONDS = 1800.0, 30.0
SHOWN = 20  # samples as rows
PARTS = 10  # of the video; a block's working memory comes and goes, what stays is the least of a part
GLANCE_SECONDS = 0.1


def add_arguments(options: argparse.ArgumentParser) -> None:
    """Adds what this benchmark can be told."""
    options.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    options.add_argument("--python", required=True, help="the Python that this ComfyUI runs with")
    options.add_argument("--seconds", type=float, help="of video; default 1800, quick 30")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when the video is whole and the process did not grow."""
    seconds = chosen.seconds or (QUICK_SECONDS if chosen.quick else FULL_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(chosen.comfyui.resolve(), Path(folder), python=chosen.python)
        with server:
            before = resident(server)
            began = time.perf_counter()
            prompt_id = server.queue(stream_graph("host", seconds=seconds, cfg=0.0, negative=["3", 0]))
            at, values, first = watched(server, server.stream(prompt_id), seconds, began, rows)
            took = time.perf_counter() - began
            whole = server.done(prompt_id)["status"]["status_str"] == "success"
            figures = {"seconds": took, "first_picture_seconds": first, "before_bytes": before}
            figures |= {"resident_bytes": resident(server), "video_seconds": seconds}
            return verdict(rows, at, values, whole, **figures)


def watched(
    server: Server, stream: Stream, seconds: float, began: float, rows: Rows
) -> tuple[list[float], list[int], float]:
    """Returns (seconds of video, bytes of the process there, seconds until the first picture was on disk)."""
    at: list[float] = []
    values: list[int] = []
    first = 0.0
    while (state := stream.state())["phase"] in ("starting", "running"):
        if made := state["frames"] / state["fps"]:
            first = first or time.perf_counter() - began
            at.append(made)
            values.append(resident(server))
            if shown(at, seconds):
                rows("sample", video_seconds=made, resident_bytes=values[-1])
        time.sleep(GLANCE_SECONDS)
    return at, values, first


def shown(at: list[float], seconds: float) -> bool:
    """Whether the newest sample is the first in its twentieth of the video."""
    return len(at) < 2 or int(at[-1] * SHOWN / seconds) > int(at[-2] * SHOWN / seconds)


def verdict(rows: Rows, at: list[float], values: list[int], is_whole: bool, **figures: float) -> int:
    """Prints the result; returns the exit status."""
    later, kept = settled(*least(at, values))
    growth = slope(later, kept) * (later[-1] - later[0]) if later else 0.0
    checks = {"is_whole": is_whole, "is_flat": growth <= NOISE_BYTES}
    ok = all(checks.values())
    rows("result", **figures, growth_bytes=growth, samples=len(at), **checks, ok=ok)
    return 0 if ok else 1


def least(at: list[float], values: list[int]) -> tuple[list[float], list[int]]:
    """Returns the smallest sample of each part of the video, and where it lies."""
    parts: dict[int, tuple[int, float]] = {}
    for place, value in zip(at, values, strict=True):
        part = int(PARTS * place / (at[-1] + 1))
        parts[part] = min(parts.get(part, (value, place)), (value, place))
    return [place for _, place in parts.values()], [value for value, _ in parts.values()]


def resident(server: Server) -> int:
    """Returns the bytes of physical memory that the ComfyUI process occupies."""
    status = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii")
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")

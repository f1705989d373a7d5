"""`python run.py soak`: a long stream, decoded and written to a file; does anything grow or break?"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from ...model_patches.attention.positions import plan
from ...model_patches.stream import step
from ...model_patches.vae.decoder import decode_stream
from ...model_patches.writer.video import Mp4Writer
from ...pocket.detector import adherence
from .memory import children_peak_bytes, peak_bytes, resident_bytes, settled, slope
from .playback import frame_count, last_frame, psnr_db
from .records import Rows, machine
from .subject import Subject, subject

FPS = 16
SAMPLES = 400
SHOWN = 20  # of the samples, as rows while it runs
NOISE_BYTES = 16 << 20  # what an allocator may keep without a leak: 839 bytes a block over 20,000 blocks
LEAST_DB = 20.0  # of the file's last frame against the streamed one
LEAST_SEEN_SHARE = 0.5  # of the frames in the last tenth of the samples that show the prompt
OUT = Path(__file__).resolve().parents[2] / "out"


@dataclass
class Watch:
    """What was seen of a stream while it ran."""

    at_blocks: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)  # share of a chunk's frames that show the prompt
    blocks: int = 0
    frames: int = 0  # of pixels
    highest_id: int = 0
    bad_blocks: int = 0  # with a NaN or an infinity in their latents

    def block(self, given: Subject, latents_BCTHW: Tensor, pixels_FHWC: Tensor) -> None:
        """Takes in one block."""
        frames = given.config.block_frames
        self.highest_id = max(self.highest_id, *plan(given.preset, self.blocks * frames, frames).query)
        self.bad_blocks += not latents_BCTHW.isfinite().all()
        self.blocks += 1
        self.frames += len(pixels_FHWC)

    def sample(self, given: Subject, pixels_FHWC: Tensor) -> None:
        """Takes one measurement; random weights show no prompt, so none is looked for."""
        self.at_blocks.append(self.blocks)
        self.resident.append(resident_bytes())
        if given.trained:
            self.seen.append(adherence(pixels_FHWC, given.prompt))

    def newest(self) -> dict[str, float]:
        """Returns where the stream is."""
        seen = {"seen_share": self.seen[-1]} if self.seen else {}
        return {
            "at_blocks": self.blocks,
            "resident_bytes": self.resident[-1],
            "highest_id": self.highest_id,
            "bad_blocks": self.bad_blocks,
        } | seen

    def growth(self) -> tuple[float, float]:
        """Returns (bytes per block after the warm-up, what that adds up to in bytes)."""
        at, values = settled(self.at_blocks, self.resident)
        per_block = slope(at, values)
        return per_block, per_block * (at[-1] - at[0]) if at else 0.0

    def seen_shares(self) -> tuple[float, float]:
        """Returns the share of frames that show the prompt, in the first and in the last tenth."""
        tenth = max(1, len(self.seen) // 10)
        first, last = self.seen[:tenth], self.seen[-tenth:]
        return sum(first) / len(first), sum(last) / len(last)


def main(arguments: list[str]) -> int:
    """Returns 0 when nothing grew, broke or was forgotten."""
    parser = argparse.ArgumentParser(prog="run.py soak", description=__doc__)
    parser.add_argument("--blocks", type=int, help="blocks to make; default 20000, quick 150")
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores; rows are marked")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the video")
    chosen = parser.parse_args(arguments)
    blocks = chosen.blocks or (150 if chosen.quick else 20000)
    if blocks < 2:
        parser.error(f"--blocks must be at least 2, got {blocks}: growth needs two places")
    rows, given = Rows("soak", chosen.quick), subject()
    rows("machine", **machine())
    path = chosen.out / f"soak-{datetime.now():%Y%m%d-%H%M%S}.mp4"
    watch, start = Watch(), time.perf_counter()
    last_FHWC = soak(given, blocks, path, watch, rows)
    return 0 if verdict(given, watch, path, last_FHWC, time.perf_counter() - start, rows) else 1


def soak(given: Subject, blocks: int, path: Path, watch: Watch, rows: Rows) -> Tensor:
    """Returns the last chunk of pixels [F, H, W, 3]; Ctrl-C ends the stream early and keeps the file."""
    geometry, state, past, pixels_FHWC = given.config.geometry, given.start(), None, torch.empty(0)
    with Mp4Writer(path, width=geometry.width, height=geometry.height, fps=FPS) as writer:
        while watch.blocks < blocks:
            try:
                latents_BCTHW, state = step(given.dit, state)
                pixels_FHWC, past = decode_stream(given.vae, latents_BCTHW, past)
            except KeyboardInterrupt:
                break
            writer.write(pixels_FHWC)
            watch.block(given, latents_BCTHW, pixels_FHWC)
            if watch.blocks % max(1, blocks // SAMPLES) == 0:
                watch.sample(given, pixels_FHWC)
            if watch.blocks % max(1, blocks // SHOWN) == 0:
                rows("sample", **watch.newest())
    return pixels_FHWC


def verdict(given: Subject, watch: Watch, path: Path, last_FHWC: Tensor, seconds: float, rows: Rows) -> bool:
    """Prints the result; returns whether memory is flat, all is finite, and file and prompt are there."""
    per_block, growth = watch.growth()
    geometry, frames = given.config.geometry, frame_count(path)
    db = psnr_db(last_frame(path, geometry.width, geometry.height), last_FHWC[-1].cpu())
    checks = {
        "is_flat": growth <= NOISE_BYTES,
        "is_finite": watch.bad_blocks == 0,
        "is_bounded": watch.highest_id < given.preset.trained_frames,
        "is_playable": frames == watch.frames and db >= LEAST_DB,
    }
    figures: dict[str, float | str | bool] = {}
    if watch.seen:
        figures["first_tenth_seen_share"], figures["last_tenth_seen_share"] = watch.seen_shares()
        checks["is_prompt_seen"] = watch.seen_shares()[1] >= LEAST_SEEN_SHARE
    rows(
        "result", weights=given.weights, preset=given.preset.name, prompt=given.prompt, file=path.name,
        blocks=watch.blocks, frames=watch.frames, video_seconds=watch.frames / FPS, seconds=seconds,
        made_fps=watch.frames / seconds, growth_bytes_per_1000_blocks=1000 * per_block, growth_bytes=growth,
        resident_bytes=resident_bytes(), peak_bytes=peak_bytes(), encoder_peak_bytes=children_peak_bytes(),
        file_bytes=path.stat().st_size, file_frames=frames, last_frame_db=db, highest_id=watch.highest_id,
        bad_blocks=watch.bad_blocks, **figures, **checks, ok=all(checks.values()),
    )  # fmt: skip
    return all(checks.values())

"""`python run.py soak`: a long stream, decoded and written to a file; does anything grow or break?

All of it is decoded, unless `--decode-every N` says that a day is wanted sooner: then every Nth block is,
after the block before it, and the file shows those blocks alone. With `--keep FOLDER` such a run may end and
be gone on with, each time with a file of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ...model_patches.attention.positions import plan
from ...model_patches.stream.pipeline import Chunk, run
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import step
from ...model_patches.vae.decoder import VaeDecoder, decode_stream
from ...model_patches.writer.video import Mp4Writer
from ...pocket.defaults import DEFAULT
from ...pocket.detector import adherence
from ...pocket.ram import peak_bytes, resident_bytes
from .memory import settled, slope
from .playback import frame_count, last_frame, psnr_db
from .records import Rows, machine
from .soak_full import Beside, Faults, Noting, digest, now_and_then
from .soak_kept import Kept, names_in, taken_up
from .subject import Subject, subject

LEAST_BLOCKS = 2  # growth needs two places
SAMPLES = 400
SHOWN = 20  # of the samples, as rows while it runs
NOISE_BYTES = 16 << 20  # what an allocator may keep without a leak: 839 bytes a block over 20,000 blocks
QUICK_SECONDS = 30  # half of it where the stream is made a second time
KEEP_BLOCKS = 1000  # about so often a kept soak writes where it stands
LASTING = ("seen", "highest_id", "most_latents")  # of a watch, over all goes; memory is each process's own
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
    frames: int = 0  # of pixels, decoded and written
    highest_id: int = 0
    most_latents: int = 0  # frames that the cache held at once
    fault: str = ""  # what ended it, if not its length, the clock or Ctrl-C
    last_HWC: Tensor | None = None  # the newest picture

    def take(self, given: Subject, state: StreamState) -> None:
        """Takes in one block: the state after it."""
        block_frames = given.config.block_frames
        ids = plan(given.preset, (state.block - 1) * block_frames, block_frames).query
        self.highest_id = max(self.highest_id, *ids)
        self.most_latents = max(self.most_latents, len(state.cache.frames))
        self.blocks = state.block

    def show(self, pixels_FHWC: Tensor) -> None:
        """Takes in pictures that were written."""
        self.frames += len(pixels_FHWC)
        self.last_HWC = pixels_FHWC[-1]

    def sample(self, given: Subject, pixels_FHWC: Tensor) -> None:
        """Takes one measurement; random weights show no prompt, so none is looked for."""
        self.at_blocks.append(self.blocks)
        self.resident.append(resident_bytes())
        if given.trained:
            self.seen.append(adherence(pixels_FHWC, given.prompt))

    def newest(self) -> dict[str, float]:
        """Returns where the stream is."""
        seen = {"seen_share": self.seen[-1]} if self.seen else {}
        place = {"at_blocks": self.blocks, "resident_bytes": self.resident[-1]}
        return place | {"highest_id": self.highest_id, "most_latents": self.most_latents} | seen

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


def read(arguments: list[str]) -> argparse.Namespace:
    """Returns the options, their defaults filled in."""
    more = "--fuzz: changed files, messages and texts, no long stream; --fuzz --help tells its options"
    parser = argparse.ArgumentParser(prog="run.py soak", description=__doc__, epilog=more)
    parser.add_argument("--blocks", type=int, help="blocks to make; default 20000, quick 150")
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores; rows are marked")
    parser.add_argument(
        "--decode-every", type=int, default=1, help="decode every Nth block alone; default all"
    )
    parser.add_argument(
        "--oom", action="store_true", help="the card is full at random operations; CPU, every block decoded"
    )
    parser.add_argument("--keep", type=Path, help="folder to go on from and to keep the stream in")
    parser.add_argument("--seconds", type=float, help="stop after so long; default never, quick 30")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the built-in ones")
    for name, usual in DEFAULT._asdict().items():
        text = f"{name} of the stream, as the demo knows them; default {usual}, or that of the kept stream"
        parser.add_argument(f"--{name}", metavar="NAME", help=text)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the video")
    chosen = parser.parse_args(arguments)
    blocks = chosen.blocks = chosen.blocks or (150 if chosen.quick else 20000)
    if blocks < LEAST_BLOCKS:
        parser.error(f"--blocks must be at least {LEAST_BLOCKS}, got {blocks}: growth needs two places")
    if not 1 <= chosen.decode_every <= blocks // LEAST_BLOCKS:
        parser.error(
            f"--decode-every must be 1 to {blocks // LEAST_BLOCKS} (two looks), got {chosen.decode_every}"
        )
    if chosen.keep and chosen.decode_every == 1:
        parser.error("--keep is for --decode-every 2 and more; a stream that is decoded whole is one file")
    if chosen.oom and chosen.decode_every != 1:
        parser.error("--oom is for a stream that is decoded whole; leave --decode-every out")
    return chosen


def main(arguments: list[str]) -> int:
    """Returns 0 when nothing grew, broke or was forgotten."""
    if "--faults" in arguments:
        return import_module(".soak_faults", __package__).main(arguments)
    if "--fuzz" in arguments:
        return import_module(".soak_fuzz", __package__).main(arguments)
    chosen = read(arguments)
    blocks = chosen.blocks
    rows, given = Rows("soak", chosen.quick), subject_of(chosen)
    rows("machine", **machine())
    path = chosen.out / f"soak-{datetime.now():%Y%m%d-%H%M%S}.mp4"
    watch, start = Watch(), time.perf_counter()
    end = start + (chosen.seconds or (QUICK_SECONDS / (1 + chosen.oom) if chosen.quick else math.inf))
    faults = Faults() if chosen.oom else None
    if chosen.decode_every == 1:
        soak(given, blocks, path, watch, rows, end, faults)
        kept = None
    else:
        kept = sparse_soak(given, blocks, path, watch, rows, end, chosen.decode_every, chosen.keep)
    if watch.last_HWC is None:
        why = watch.fault or "it was interrupted, or the kept stream is as long already"
        sys.exit(f"soak: no picture was made; {why}")
    is_good = verdict(given, watch, path, time.perf_counter() - start, rows, kept)
    if faults is not None:
        rows("full_card", **faults.figures())
        is_good &= faults.figures()["is_undisturbed"] is True
    return 0 if is_good else 1


def subject_of(chosen: argparse.Namespace) -> Subject:
    """What is streamed; ends the program in a sentence where it cannot be."""
    cache, memory = names_in(chosen.keep) or (None, None)
    try:
        return subject(chosen.weights, chosen.cache or cache, chosen.memory or memory)
    except (ValueError, FileNotFoundError) as why:
        raise SystemExit(f"soak: {why}") from why


def soak(
    given: Subject,
    blocks: int,
    path: Path,
    watch: Watch,
    rows: Rows,
    end: float = math.inf,
    faults: Faults | None = None,
) -> None:
    """Makes the video; its length, the clock (`end`), Ctrl-C or a fault end it, and the file is whole.

    faults: the card is full now and then; they are counted here.
    """

    def on_chunk(chunk: Chunk) -> None:
        with _disable_current_modes():
            watch.show(chunk.pixels_FHWC)
            watch.take(given, chunk.state)
            look(given, blocks, chunk.pixels_FHWC, watch, rows)
        if faults is not None:
            faults.digests.append(digest(chunk.pixels_FHWC))

    clock = Noting(lambda: watch.blocks >= LEAST_BLOCKS and time.perf_counter() >= end)
    writer, decoder, card = (
        Beside(writer_of(given, path)),
        VaeDecoder(given.vae),
        now_and_then(given.config.seed),
    )
    state = given.start()
    with ended(watch, rows), nullcontext() if faults is None else card:
        run(given.caller, decoder, state, [writer], blocks=blocks, on_chunk=on_chunk, viewers=clock)
    if faults is not None:
        faults.operations, faults.raised, faults.told = card.operations, card.raised, clock.sentences
        faults.compare(given)


def sparse_soak(
    given: Subject,
    blocks: int,
    path: Path,
    watch: Watch,
    rows: Rows,
    end: float,
    decode_every: int,
    folder: Path | None = None,
) -> Kept:
    """Makes every block, and decodes, writes and looks at every Nth, after the one before it as its past.

    folder: to go on from, and to write to on the way.
    """
    begun = time.perf_counter()
    kept, state, seen = taken_up(folder, given, path.name)
    vars(watch).update(seen, blocks=state.block)
    before_BCTHW = torch.empty(given.config.geometry.latent_shape(0, 1))
    keep_every = max(1, KEEP_BLOCKS // decode_every) * decode_every
    with ended(watch, rows), writer_of(given, path) as writer:
        while state.block < blocks and (watch.last_HWC is None or time.perf_counter() < end):
            latents_BCTHW, state = step(given.caller, state)
            watch.take(given, state)
            if state.block % decode_every == 0:
                _, past = decode_stream(given.vae, before_BCTHW)
                pixels_FHWC, _ = decode_stream(given.vae, latents_BCTHW, past)
                writer.write(pixels_FHWC)
                watch.show(pixels_FHWC)
                look(given, blocks, pixels_FHWC, watch, rows, decode_every)
            if folder and (state.block % keep_every == 0 or state.block == blocks):
                go = kept.go
                go.blocks, go.frames, go.growth_bytes = watch.blocks, watch.frames, watch.growth()[1]
                go.seconds = time.perf_counter() - begun
                kept.write(folder, given.caller, state, {name: getattr(watch, name) for name in LASTING})
            before_BCTHW = latents_BCTHW
    return kept


@contextmanager
def ended(watch: Watch, rows: Rows) -> Iterator[None]:
    """Ctrl-C and a fault end a soak and are told; what was made counts."""
    try:
        yield
    except KeyboardInterrupt:
        rows("interrupted", at_blocks=watch.blocks)
    except RuntimeError as why:
        watch.fault = str(why)


def writer_of(given: Subject, path: Path) -> Mp4Writer:
    """The video's file."""
    width, height = given.picture_size
    return Mp4Writer(path, width=width, height=height, fps=given.fps)


def look(
    given: Subject, blocks: int, pixels_FHWC: Tensor, watch: Watch, rows: Rows, decode_every: int = 1
) -> None:
    """Takes a sample, and prints one, where they are due: only every Nth block has pictures."""
    sampled, shown = (max(1, blocks // count // decode_every) * decode_every for count in (SAMPLES, SHOWN))
    if watch.blocks % sampled == 0:
        watch.sample(given, pixels_FHWC)
    if watch.blocks % shown == 0 and watch.resident:
        rows("sample", **watch.newest())


def verdict(
    given: Subject, watch: Watch, path: Path, seconds: float, rows: Rows, kept: Kept | None = None
) -> bool:
    """Prints the result; returns whether memory is flat, nothing broke, and file and prompt are there.

    kept: earlier goes of the same stream; growth is the most of any, seconds are all of theirs.
    """
    per_block, growth = watch.growth()
    earlier = kept.earlier if kept else []
    growth = max([growth, *(go.growth_bytes for go in earlier)])
    seconds += sum(go.seconds for go in earlier)
    file_frames, db = played(given, watch, path)
    made = given.config.geometry.pixel_frames(watch.blocks * given.config.block_frames)
    checks = {
        "is_flat": growth <= NOISE_BYTES,
        "is_bounded": watch.highest_id < given.preset.trained_frames
        and watch.most_latents <= (given.preset.capacity_frames or math.inf),
        "is_faultless": not watch.fault,
        "is_playable": file_frames == watch.frames
        and db >= LEAST_DB
        and all(go.is_playable(path.parent) for go in earlier),
    }
    figures: dict[str, float | str | bool] = {"why": watch.fault} if watch.fault else {}
    if watch.seen:
        figures["first_tenth_seen_share"], figures["last_tenth_seen_share"] = watch.seen_shares()
        checks["is_prompt_seen"] = watch.seen_shares()[1] >= LEAST_SEEN_SHARE
    rows(
        "result", weights=given.weights, format=given.cache.name, memory=given.memory.name,
        preset=given.preset.name, prompt=given.prompt, file=path.name,
        goes_samples=1 + len(earlier), blocks=watch.blocks, frames=watch.frames,
        video_seconds=made / given.fps, seconds=seconds,
        made_fps=made / seconds, growth_bytes_per_1000_blocks=1000 * per_block, growth_bytes=growth,
        resident_bytes=resident_bytes(), peak_bytes=peak_bytes(),
        file_bytes=path.stat().st_size, file_frames=file_frames, last_frame_db=db,
        highest_id=watch.highest_id, most_latents=watch.most_latents, **figures, **checks,
        ok=all(checks.values()),
    )  # fmt: skip
    return all(checks.values())


def played(given: Subject, watch: Watch, path: Path) -> tuple[int, float]:
    """Returns the finished file's frames, and how close its last one is to the streamed one, in dB."""
    assert watch.last_HWC is not None
    shown_HWC = last_frame(path, *given.picture_size)
    return frame_count(path), psnr_db(shown_HWC, watch.last_HWC.cpu())

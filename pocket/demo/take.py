"""One take of the demo: a page in the browser, a file, and four numbers at the end."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from ...model_patches.geometry import Geometry, blocks_for
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import Texts
from ...model_patches.stream.pipeline import Chunk
from ...model_patches.stream.script import Script
from ...model_patches.stream.snapshot import Header, load
from ...model_patches.stream.state import StreamState
from ...model_patches.stream.step import init
from ...model_patches.stream.timeline import Prompt as TimedPrompt
from ...model_patches.takes.folder import TakeFolder
from ...model_patches.takes.keeper import Policy
from ...model_patches.takes.make import Making, Offers, Opening, make_take
from ...model_patches.takes.point import find_point
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.mailbox import Redo
from ...model_patches.viewers.session import Session
from ...model_patches.viewers.streams import Streams
from ...model_patches.writer.encoding import Encoding
from ...model_patches.writer.video import Mp4Writer
from ..choices import Choice, choose
from ..defaults import FLAT, LIT
from ..ram import peak_bytes
from .files import find_take, next_path, video_path
from .prompt import PROMPT
from .server import DemoServer
from .watching import CtrlC, Page, linger, say, serving

SWITCH = "smooth"  # the text changes and nothing is forgotten
PAGE = "demo"  # its client and its node: there is one page and one stream
LEAD_SECONDS = 3.0  # how far an endless stream may run ahead of the clock, so that a new prompt shows soon
BUDGET_BYTES = 256 << 20  # of one take's snapshots


@dataclass
class Meter:
    """How long the blocks of a run were worked on, and what came of it."""

    seconds: float = 0.0
    frames: int = 0  # a video that is gone on with has more
    first_seconds: float | None = None  # what the first block took

    def count(self, chunk: Chunk) -> None:
        """Takes in one more block."""
        self.seconds += chunk.seconds
        self.frames += len(chunk.frames)
        if self.first_seconds is None:
            self.first_seconds = chunk.seconds


def take(options: argparse.Namespace) -> int:
    """Returns the exit status after a take, and those that the page asks for after it."""
    began = time.perf_counter()
    folder = TakeFolder(video_path(options.out))
    header = None
    if options.resume is not None:
        folder = TakeFolder(find_take(options.resume, options.out))
        header = find_point(folder).header
    chosen, config = chosen_for(options, header)
    recipe = chosen.pocket.recipe
    if header is None:
        begin = first_state(chosen, config, options.prompt or PROMPT)
    else:
        frame = None if options.since is None else round(options.since * recipe.fps)
        begin = Redo(frame, options.prompt or "", SWITCH, options.seed)
    server = DemoServer(Streams(), options.port)
    server.check = chosen.pocket.encode
    say(f"model ready after {time.perf_counter() - began:.1f} s ({recipe.trained})")
    say("cache {}, memory {}, look {}".format(*chosen.names, chosen.look))
    with serving(server), CtrlC() as ctrl_c:
        page = Page(server, ctrl_c, wants_browser=not options.no_browser)
        _make(chosen, config, folder, options, page, begin)
        while (prompt := linger(server, ctrl_c, page.opened)) is not None:
            options.prompt, config = prompt, replace(config, seed=config.seed + 1)
            folder = TakeFolder(next_path(folder.video))
            _make(chosen, config, folder, options, page, first_state(chosen, config, prompt))
    return 0


def _make(
    chosen: Choice,
    config: StreamConfig,
    folder: TakeFolder,
    options: argparse.Namespace,
    page: Page,
    begin: StreamState | Redo,
) -> None:
    """Makes one video and reports it."""
    frames, meter = math.ceil(options.seconds * chosen.pocket.recipe.fps) or None, Meter()
    making = making_of(chosen, config, folder, options, page.show, page.server.streams, frames)
    try:
        make_take(making, begin, pictures=frames, on_chunk=partial(note, meter, page.ctrl_c))
    finally:
        if page.ctrl_c.session is not None:
            report(page.ctrl_c.session.live, meter)
        if folder.snapshots():
            say(f'go on with it: python run.py demo --resume "{folder.video}"')


def chosen_for(options: argparse.Namespace, header: Header | None) -> tuple[Choice, StreamConfig]:
    """Returns model, look, cache and memory, and the contract: a take's own, where it is gone on with."""
    size = Geometry(*options.size) if options.size else None
    cache, memory, seed, look = options.cache, options.memory, options.seed or 0, options.look
    if header is not None:
        cache, memory = cache or header.cache, memory or header.memory
        size, seed = size or header.config.geometry, header.config.seed
        own = FLAT if header.upscale == 1 else LIT
        if look not in (None, own):
            raise ValueError(
                f"Resume: the video was made with --look {own}, not {look}, and its pictures have one size. "
                f"Leave --look out, or begin a new video without --resume."
            )
        look = own
    chosen = choose(cache, memory, options.weights, geometry=size, look=look)
    recipe = chosen.pocket.recipe
    return chosen, chosen.pocket.config(seed, size or Geometry(recipe.size, recipe.size))


def first_state(chosen: Choice, config: StreamConfig, prompt: str) -> StreamState:
    """Returns the state before the first block."""
    pocket = chosen.pocket
    first = pocket.prompt(pocket.encode(prompt), config)
    state = init(pocket.caller, first, config, cache=chosen.cache, memory=chosen.memory)
    return replace(state, ledger=replace(state.ledger, fps=float(pocket.recipe.fps)))


def making_of(
    chosen: Choice,
    config: StreamConfig,
    folder: TakeFolder,
    options: argparse.Namespace,
    opened: Callable[[Session], None],
    streams: Streams,
    frames: int | None,
) -> Making:
    """Returns how the take is made; frames: of the whole video, None without end."""
    pocket, geometry = chosen.pocket, config.geometry
    planned = frames and blocks_for(geometry, pocket.recipe.block_frames, frames)
    prompt = options.prompt or PROMPT

    def encode(text: str) -> Texts:
        return pocket.prompt(pocket.encode(text), config)

    def load_snapshot(path: Path) -> StreamState:
        kept = {"cache": chosen.cache, "memory": chosen.memory, "decoder": VaeDecoder(pocket.vae)}
        return load(path, pocket.caller, config, **kept)

    def open_writer(opening: Opening) -> Mp4Writer:
        width, height = geometry.picture_size(pocket.vae.upscale)
        size = {"width": width, "height": height, "fps": pocket.recipe.fps}
        place = {"start_frame": opening.start_frame, "go_on": opening.go_on, "lock": opening.lock}
        parts = {"part_hours": options.part_hours, "part_gigabytes": options.part_gigabytes}
        return Mp4Writer(folder.video, **size, **place, **parts, encoding=Encoding(enlarge=True))

    def open_session(writer: Mp4Writer, opening: Opening, offers: Offers) -> Session:
        named = {"node": PAGE, "prompt_id": "", "client": PAGE, "block": opening.block}
        live = LiveStream(writer, **named, blocks=planned, modes=(SWITCH,), switch=SWITCH)
        return Session(live, streams, rewind=offers.rewind, mark=offers.mark, lead_seconds=LEAD_SECONDS)

    def close(session: Session) -> None:
        session.writer.describe(description(session.live, config.seed))

    script = Script(encode(prompt), prompt, {0: TimedPrompt(0, prompt, SWITCH)}, encode, SWITCH)
    policy = None if options.no_snapshots else Policy(budget_bytes=BUDGET_BYTES)
    return Making(
        pocket.caller, VaeDecoder(pocket.vae), folder, config, script, policy, load_snapshot,
        open_writer, open_session, opened=opened, stop_on_drift=options.stop_on_drift, close=close,
    )  # fmt: skip


def note(meter: Meter, ctrl_c: CtrlC, chunk: Chunk) -> None:
    """Counts a block, and says so where somebody reads."""
    meter.count(chunk)
    if sys.stderr.isatty() and ctrl_c.session is not None:
        print(f"\r{line(ctrl_c.session.live)} ", end="", file=sys.stderr, flush=True)


def description(live: LiveStream, seed: int) -> dict[str, str]:
    """What the finished file says of itself: seed and prompts."""
    prompts = [{"second": each["first_frame"] / live.fps, "prompt": each["prompt"]} for each in live.prompts]
    if not prompts:
        return {}
    told = {"seed": seed, "prompts": prompts}
    return {"title": f"Rivulet: {prompts[0]['prompt']}", "comment": json.dumps(told, ensure_ascii=False)}


def line(live: LiveStream) -> str:
    """One line for a terminal."""
    state = live.state(prompts=False)
    made = f"block {live.block}, {state['frames'] / live.fps:.1f} s, {state['made_per_second']:.1f} frames/s"
    if (left := state["left_seconds"]) is None:
        return made
    at = time.strftime("%H:%M", time.localtime(time.time() + left))
    return f"{made}, {timedelta(seconds=round(left))} left, done at {at}"


def report(live: LiveStream, meter: Meter) -> None:
    """Prints what was made, how fast, and where it lies."""
    writer, fps, lag = live.writer, live.fps, meter.first_seconds
    frames = writer.frames_written
    if lag is None:
        so = "the video is as long as it was" if frames else "there is no video"
        say(f"no block was finished, so {so}")
    else:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        speed = meter.frames / meter.seconds
        print(
            f"frames per second: {speed:.1f} ({speed / fps:.2f}x as fast as it plays)\n"
            f"first chunk: {lag:.2f} s\n"
            f"peak memory: {peak_bytes() / 2**20:.0f} MiB"
        )
    if not frames:
        return
    print(
        f"video: {frames} frames, {frames / fps:.1f} s, "
        f"{writer.result or 'in parts beside ' + str(writer.path)}",
        flush=True,
    )

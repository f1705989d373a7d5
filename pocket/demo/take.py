"""One take of the demo: a page in the browser, a file, and four numbers at the end."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ...model_patches.geometry import Geometry, blocks_for
from ...model_patches.stream.config import StreamConfig
from ...model_patches.stream.model_caller import Texts
from ...model_patches.stream.pipeline import Chunk, run
from ...model_patches.stream.script import Script
from ...model_patches.stream.step import init
from ...model_patches.stream.timeline import Prompt as TimedPrompt
from ...model_patches.vae.decoder import VaeDecoder
from ...model_patches.viewers.live import LiveStream
from ...model_patches.viewers.session import Session
from ...model_patches.viewers.streams import Streams
from ...model_patches.writer.parts import find_parts
from ...model_patches.writer.protocol import OpenWriter
from ...model_patches.writer.video import Mp4Writer
from ..choices import Choice, choose
from ..ram import peak_bytes
from .server import DemoServer

SWITCH = "smooth"  # the text changes and nothing is forgotten
PAGE = "demo"  # its client and its node: there is one page and one stream
LEAD_SECONDS = 3.0  # how far an endless stream may run ahead of the clock, so that a new prompt shows soon
LINGER_SECONDS = 40.0  # a page that has not asked for so long is closed
POLL_SECONDS = 0.05
STOPPING = b"\nstopping after this block; Ctrl+C again stops at once, and keeps the video too\n"


@dataclass
class Meter:
    """How long the blocks of a take were worked on."""

    seconds: float = 0.0
    first_seconds: float | None = None  # what the first block took

    def count(self, chunk: Chunk) -> None:
        """Takes in one more block."""
        self.seconds += chunk.seconds
        if self.first_seconds is None:
            self.first_seconds = chunk.seconds


def take(options: argparse.Namespace) -> int:
    """Returns the exit status after a whole take."""
    began = time.perf_counter()
    size = Geometry(*options.size) if options.size else None
    chosen = choose(options.cache, options.memory, options.weights, geometry=size)
    pocket, recipe = chosen.pocket, chosen.pocket.recipe
    geometry = Geometry(*(options.size or (recipe.size, recipe.size)))
    config = pocket.config(options.seed, geometry)
    frames = math.ceil(options.seconds * recipe.fps)
    writer = Mp4Writer(video_path(options.out), width=geometry.width, height=geometry.height, fps=recipe.fps)
    planned = blocks_for(geometry, recipe.block_frames, frames) if frames else None
    named = {"node": PAGE, "prompt_id": "", "client": PAGE}
    live = LiveStream(writer, **named, blocks=planned, modes=(SWITCH,), switch=SWITCH)
    streams = Streams()
    session = Session(live, streams, lead_seconds=LEAD_SECONDS)
    meter = Meter()
    server = DemoServer(streams, options.port)
    say(f"model ready after {time.perf_counter() - began:.1f} s ({recipe.trained})")
    with serving(server), CtrlC(session) as ctrl_c:
        try:
            with session:
                say(f"watch and steer it at {server.url} - Ctrl+C stops and keeps the video")
                opened = not options.no_browser and has_screen() and webbrowser.open(server.url)
                make(chosen, config, options.prompt, session, meter)
        finally:
            report(live, meter)
        linger(server, ctrl_c, opened)
    return 0


def make(chosen: Choice, config: StreamConfig, prompt: str, session: Session, meter: Meter) -> None:
    """Streams until the take is long enough or stopped."""
    pocket = chosen.pocket

    def encode(text: str) -> Texts:
        return pocket.prompt(pocket.encode(text), config)

    def on_chunk(chunk: Chunk) -> None:
        meter.count(chunk)
        if sys.stderr.isatty():
            print(f"\r{line(session.live)} ", end="", file=sys.stderr, flush=True)

    script = Script(encode(prompt), prompt, {0: TimedPrompt(0, prompt, SWITCH)}, encode, SWITCH)
    state = init(pocket.caller, script.first, config, cache=chosen.cache, memory=chosen.memory)
    blocks, writers = session.live.blocks, [OpenWriter(session.writer)]
    try:
        run(
            pocket.caller,
            VaeDecoder(pocket.vae),
            state,
            writers,
            blocks=blocks,
            script=script,
            viewers=session,
            on_chunk=on_chunk,
        )
    finally:
        session.writer.metadata.update(description(session.live, config.seed))


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
    return f"block {live.block}, {state['frames'] / live.fps:.1f} s, {state['made_per_second']:.1f} frames/s"


def report(live: LiveStream, meter: Meter) -> None:
    """Prints what was made, how fast, and where it lies."""
    writer, fps, lag = live.writer, live.fps, meter.first_seconds
    if lag is None:
        return say("no block was finished, so there is no video")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    frames = writer.frames_written
    speed = frames / meter.seconds
    print(
        f"frames per second: {speed:.1f} ({speed / fps:.2f}x as fast as it plays)\n"
        f"first chunk: {lag:.2f} s\n"
        f"peak memory: {peak_bytes() / 2**20:.0f} MiB\n"
        f"video: {frames} frames, {frames / fps:.1f} s, "
        f"{writer.result or 'in parts beside ' + str(writer.path)}",
        flush=True,
    )


class CtrlC:
    """The first Ctrl+C ends the stream after its block, the second one at once."""

    def __init__(self, session: Session) -> None:
        self.session, self.pressed = session, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self.obey) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def obey(self, number: int, frame: FrameType | None) -> None:
        """Takes the signal; no lock may be waited for here."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if not self.session.stopping:
            self.session.stopping = True
            # print must not be interrupted by itself, and this may come in the middle of one
            os.write(2, STOPPING)


def linger(server: DemoServer, ctrl_c: CtrlC, opened: bool) -> None:
    """Returns when no page looks any more, so that the end can be watched; Ctrl+C ends it too."""
    ended = time.monotonic()
    if ctrl_c.pressed or (server.last_asked is None and not opened):
        return
    say("the page stays open until you close it; Ctrl+C ends it")
    while not ctrl_c.pressed:
        if time.monotonic() - max(server.last_asked or ended, ended) > LINGER_SECONDS:
            return
        time.sleep(POLL_SECONDS)


def has_screen() -> bool:
    """Tells whether a browser has a window to open; a text browser would take the terminal."""
    named = {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    return os.name == "nt" or sys.platform == "darwin" or bool(named)


def video_path(out: Path) -> Path:
    """Returns where the video goes: the file that was named, or the next free number in a folder."""
    if out.suffix.lower() == ".mp4":
        return out
    number = 1
    while (path := out / f"rivulet-{number:04d}.mp4").exists() or find_parts(path):
        number += 1
    return path


@contextmanager
def serving(server: DemoServer) -> Iterator[DemoServer]:
    """Answers the page from a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def say(sentence: str) -> None:
    """Writes a line for the person at the keyboard."""
    print(sentence, file=sys.stderr, flush=True)

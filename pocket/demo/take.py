"""One take of the demo: a page in the browser, a file, and four numbers at the end."""

import argparse
import math
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...model_patches.geometry import Geometry
from ...model_patches.stream.pipeline import Chunk, blocks_for, run
from ...model_patches.stream.step import StreamConfig
from ...model_patches.writer.parts import parts_of
from ...model_patches.writer.video import Mp4Writer
from ..models import Pocket, load_pocket
from ..ram import peak_bytes
from .controls import GLANCE_SECONDS, Controls
from .server import DemoServer
from .session import Session

EXAMPLES = (
    "a yellow triangle on a blue ground",
    "a magenta square and a cyan circle on a green ground",
    "a blue circle behind a grey band on a red ground",
)
LINGER_SECONDS = 20.0  # a page that has not asked for so long is closed
STOPPING = b"\nstopping after this block; Ctrl+C again stops at once, and keeps the video too\n"


def take(options: argparse.Namespace) -> int:
    """Returns the exit status after a whole take."""
    began = time.perf_counter()
    pocket = load_pocket(options.weights)
    recipe = pocket.recipe
    geometry = Geometry(*(options.size or (recipe.size, recipe.size)))
    config = pocket.config(options.seed, geometry)
    frames = math.ceil(options.seconds * recipe.fps)
    writer = Mp4Writer(video_path(options.out), width=geometry.width, height=geometry.height, fps=recipe.fps)
    session = Session(
        Controls(pocket.encode, options.prompt),
        writer,
        seed=options.seed,
        examples=EXAMPLES,
        blocks=blocks_for(geometry, recipe.block_frames, frames) if frames else None,
    )
    server = DemoServer(session, options.port)
    say(f"model ready after {time.perf_counter() - began:.1f} s ({recipe.trained})")
    with serving(server), stopping_on_ctrl_c(session.controls):
        say(f"watch and steer it at {server.url} - Ctrl+C stops and keeps the video")
        opened = not options.no_browser and has_screen() and webbrowser.open(server.url)
        try:
            make(pocket, config, session)
        finally:
            report(session)
        linger(session, opened)
    return 0


def make(pocket: Pocket, config: StreamConfig, session: Session) -> None:
    """Streams until the take is long enough or stopped; the session says how it ended."""

    def on_chunk(chunk: Chunk) -> None:
        session.on_chunk(chunk)
        if sys.stderr.isatty():
            print(f"\r{session.line()} ", end="", file=sys.stderr, flush=True)

    try:
        state = pocket.begin(session.controls.first_text_BLE, config)
        run(
            pocket.dit,
            pocket.vae,
            state,
            [session.writer],
            blocks=session.blocks,
            on_chunk=on_chunk,
            stop=session.stop,
            new_text=session.new_text,
        )
    except BaseException as why:
        session.end("failed", str(why) or "It was interrupted.")
        raise
    session.end("ended", "")


def report(session: Session) -> None:
    """Prints what was made, how fast, and where it lies."""
    writer, lag = session.writer, session.first_chunk_seconds
    if lag is None:
        return say("no block was finished, so there is no video")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    speed = session.made_per_second
    print(
        f"frames per second: {speed:.1f} ({speed / session.fps:.2f}x as fast as it plays)\n"
        f"first chunk: {lag:.2f} s\n"
        f"peak memory: {peak_bytes() / 2**20:.0f} MiB\n"
        f"video: {session.frames} frames, {session.frames / session.fps:.1f} s, "
        f"{writer.result or 'in parts beside ' + str(writer.path)}",
        flush=True,
    )


def linger(session: Session, opened: bool) -> None:
    """Returns when no page looks any more, so that the end can be watched; Ctrl+C ends it too."""
    ended, leaving = time.monotonic(), session.controls.leaving
    if leaving or (session.last_asked is None and not opened):
        return
    say("the page stays open until you close it; Ctrl+C ends it")
    while not session.controls.leaving:
        if time.monotonic() - max(session.last_asked or ended, ended) > LINGER_SECONDS:
            return
        time.sleep(GLANCE_SECONDS)


def has_screen() -> bool:
    """Tells whether a browser has a window to open; a text browser would take the terminal."""
    named = {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    return os.name == "nt" or sys.platform == "darwin" or bool(named)


def video_path(out: Path) -> Path:
    """Returns where the video goes: the file that was named, or the next free number in a folder."""
    if out.suffix.lower() == ".mp4":
        return out
    number = 1
    while (path := out / f"rivulet-{number:04d}.mp4").exists() or parts_of(path):
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


@contextmanager
def stopping_on_ctrl_c(controls: Controls) -> Iterator[None]:
    """The first Ctrl+C ends the stream after its block, the second one at once."""

    def obey(number: int, frame: object) -> None:
        if controls.leaving:
            raise KeyboardInterrupt
        controls.leaving = True
        if not controls.stopping:
            controls.stopping = True
            # print must not be interrupted by itself, and this may come in the middle of one
            os.write(2, STOPPING)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, obey) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(sentence: str) -> None:
    """Writes a line for the person at the keyboard."""
    print(sentence, file=sys.stderr, flush=True)

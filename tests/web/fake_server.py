"""Serves the preview widget on a plain page, with a stream of plain pictures that makes itself.

    python tests/web/fake_server.py --port 8190

opens no browser; look at http://127.0.0.1:8190/ (`?theme=light`, `?lang=zh`, `?without=segments,file`,
`?client=other`, `?width=300`). `?list=` shows the list of takes instead, `?takes=none`, `lost` or `cut` other
made-up takes. A redo ends the stream here and begins another one. `--strict` refuses media from blobs, as
ComfyUI's page can.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FPS, WIDTH, HEIGHT, BLOCK = 16, 416, 240, 12
SEAL_BLOCKS = 8  # after which the file's next part begins
COLOURS = {"red": (220, 60, 50), "blue": (60, 110, 230), "yellow": (240, 200, 60), "green": (60, 180, 90)}
GIB = 1 << 30
STRICT = "media-src 'self'"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8190)
    parser.add_argument("--blocks", type=int, default=60, help="0: without end")
    parser.add_argument("--speed", type=float, default=1.5, help="how many times as fast as it plays")
    parser.add_argument("--modes", default="cut,recache,smooth,blend")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    load_pack()
    from rivulet.model_patches.viewers.live import LiveStream
    from rivulet.model_patches.viewers.session import Session
    from rivulet.model_patches.viewers.streams import Streams
    from rivulet.model_patches.writer.video import Mp4Writer
    from rivulet.pocket.demo.server import POLICY, WIDGET_FILES, DemoServer

    with tempfile.TemporaryDirectory() as folder:
        streams = Streams()

        def sessions(first: int = 0) -> None:
            """One stream after another, as long as the one before was to be made again from somewhere."""
            live = LiveStream(
                Mp4Writer(Path(folder, f"take{first}.mp4"), width=WIDTH, height=HEIGHT, fps=FPS, threads=1),
                **{"node": "7", "workflow": "w", "client": "tab", "prompt_id": "fake", "take": "take7"},
                blocks=options.blocks or None,
                modes=tuple(mode for mode in options.modes.split(",") if mode),
            )
            can = {"rewind": lambda frame: None, "mark": lambda: None, "can_yield": not options.blocks}
            memory = {"used": int(7.1 * GIB), "total": 12 * GIB}
            session = Session(live, streams, vram=lambda: memory, **can)
            make(session, options.speed)
            if session.redo is not None:
                sessions(first + 1)

        threading.Thread(target=sessions, daemon=True).start()
        here = Path(__file__).parent
        page = {"/": here / "page.html", "/tests/fake_takes.mjs": here / "fake_takes.mjs", **WIDGET_FILES}
        policy = STRICT if options.strict else POLICY.replace("'self';", "'self' 'unsafe-inline';")
        DemoServer(streams, options.port, page, policy).serve_forever()


def load_pack() -> None:
    """Makes the pack importable under the name that the tests use."""
    spec = importlib.util.spec_from_file_location(
        "rivulet", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["rivulet"])


def make(session, speed: float) -> None:
    """Makes blocks until it is told to stop."""
    live, prompt = session.live, "a red circle"
    note(live, prompt, "cut")
    with session:
        while live.block != live.blocks and session.should_continue():
            began = time.monotonic()
            message = session.next_prompt()
            if message and not any(colour in message.prompt for colour in COLOURS):
                session.refuse(message, ValueError(f"Name one colour of {', '.join(COLOURS)}."))
            elif message:
                prompt = message.prompt
                told = note(live, prompt, message.mode)
                live.mailbox.settle(message, "done", block=told.block, first_frame=told.first_frame)
            first = live.writer.frames_written
            live.writer.write(np.stack([picture(first + i, prompt) for i in range(BLOCK)]))
            if live.block % SEAL_BLOCKS == SEAL_BLOCKS - 1:
                live.writer.seal()
            time.sleep(max(0.0, BLOCK / FPS / speed - (time.monotonic() - began)))
            live.watch = drift(live.block + 1)
            session.note_block(BLOCK, time.monotonic() - began)


def drift(blocks: int) -> dict:
    """What a watch over so many blocks could tell: a picture that burns out."""
    turns = range(blocks)
    return {
        "frames_per_point": BLOCK,
        "motion": [0.8 + 0.2 * math.sin(i) for i in turns],
        "saturation": [0.3 + 0.01 * i for i in turns],
        "jump": [abs(math.sin(7 * i)) ** 4 for i in turns],
        "warning": "The colours burn out: saturation doubled since 0:05." if blocks > 20 else "",
    }


def note(live, prompt: str, mode: str):
    """Tells that the next block is made with a prompt."""
    from rivulet.model_patches.viewers.live import PromptChange

    told = PromptChange(prompt, mode, live.block, live.writer.frames_written)
    live.note_prompt(told)
    return told


def picture(number: int, prompt: str) -> np.ndarray:
    """Returns a bouncing disc [H, W, 3] in the prompt's colour, with a bar that tells the frame's number."""
    colour = next((COLOURS[word] for word in prompt.split() if word in COLOURS), COLOURS["red"])
    x = 40 + abs((number * 5) % (2 * (WIDTH - 80)) - (WIDTH - 80))
    y = 40 + abs((number * 3) % (2 * (HEIGHT - 80)) - (HEIGHT - 80))
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), (28, 36, 44), np.uint8)
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < 32**2] = colour
    pixels[-6:, : 1 + number * 4 % WIDTH] = (230, 230, 230)
    return pixels


if __name__ == "__main__":
    main()

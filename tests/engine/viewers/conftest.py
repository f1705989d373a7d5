"""A stream that tests make block by block."""

from types import SimpleNamespace

import numpy as np
import pytest
from rivulet.model_patches.viewers.live import LiveStream, PromptChange
from rivulet.model_patches.viewers.session import Session
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.video import Mp4Writer

FPS, BLOCK, WIDTH, HEIGHT = 4, 12, 48, 32


def grey(frame):
    """The value of every pixel of a frame."""
    return 5 * frame % 250


@pytest.fixture
def feed(tmp_path):
    """Returns an open session, its streams, and `block()`, which makes the next block."""
    writer = Mp4Writer(tmp_path / "take.mp4", width=WIDTH, height=HEIGHT, fps=FPS, threads=1)
    named = {"node": "1", "prompt_id": "p", "client": "tab", "workflow": "w"}
    live = LiveStream(writer, **named, blocks=9, modes=("smooth", "cut"))
    streams = Streams()

    def block():
        first = writer.frames_written
        values = [grey(first + i) for i in range(BLOCK)]
        writer.write(
            np.array(values, np.uint8)[:, None, None, None].repeat(HEIGHT, 1).repeat(WIDTH, 2).repeat(3, 3)
        )
        session.note_block(BLOCK, 1.0)

    with Session(live, streams) as session:
        live.note_prompt(PromptChange("a red circle", "smooth", 0, 0))
        yield SimpleNamespace(session=session, live=live, streams=streams, block=block, writer=writer)

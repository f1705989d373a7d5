"""A take of the demo from its first block to its last: typed prompts, and what the file says of itself."""

import json
import subprocess

import pytest
import torch
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.viewers.live import LiveStream
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.viewers.session import Session
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.pocket.choices import Choice
from rivulet.pocket.demo.take import PAGE, SWITCH, Meter, make
from rivulet.pocket.models import load_pocket
from rivulet.tests.pocket.demo.conftest import FPS, PROMPT

OTHER = "a blue square on a red ground"


@pytest.fixture
def take(weights, tmp_path):
    """Returns a function that makes three blocks: (the live stream, its meter); asked: a prompt after one."""

    def run(asked=None):
        pocket = load_pocket(weights)
        writer = Mp4Writer(tmp_path / f"{asked or 'take'}.mp4", width=16, height=16, fps=FPS, threads=1)
        live = LiveStream(writer, node=PAGE, prompt_id="", client=PAGE, blocks=3, modes=(SWITCH,))
        session, meter = Session(live, Streams()), Meter()
        should_continue = session.should_continue

        def ask(rest):
            if live.block == 1 and asked:
                live.ask(Message("me", 1, "prompt", asked, SWITCH))
            return should_continue(rest)

        session.should_continue = ask
        with session:
            make(Choice(pocket, DENSE, OFF), pocket.config(3), PROMPT, session, meter)
        return live, meter

    return run


def told_by(path):
    """What the file says of itself."""
    told = subprocess.run([find_ffmpeg(), "-i", str(path)], capture_output=True, text=True).stderr
    return json.loads(next(line for line in told.splitlines() if "comment" in line).split(": ", 1)[1])


def test_a_prompt_takes_effect_at_the_next_block_and_the_file_tells_of_it(take):
    live, meter = take(OTHER)
    first, second = live.prompts
    assert (first["prompt"], first["first_frame"]) == (PROMPT, 0)
    assert second == {"prompt": OTHER, "mode": SWITCH, "block": 1, "first_frame": 9}
    assert live.mailbox.acknowledged[0]["outcome"] == "done" and live.block == live.blocks == 3
    expected = [{"second": 0.0, "prompt": PROMPT}, {"second": 9 / 16, "prompt": OTHER}]
    assert told_by(live.writer.result) == {"seed": 3, "prompts": expected}
    assert meter.seconds > meter.first_seconds > 0 and live.writer.frames_written == 33


def test_an_unreadable_prompt_is_refused_with_the_known_words_and_the_stream_goes_on(take):
    live, _ = take("a purple dog")
    (told,) = live.mailbox.acknowledged
    assert told["outcome"] == "refused"
    assert "does not know 'purple', 'dog'" in told["sentence"] and "circle" in told["sentence"]
    assert len(live.prompts) == 1 and live.block == 3


def test_a_prompt_that_cannot_be_read_is_refused_before_anything_starts(weights, tmp_path):
    pocket = load_pocket(weights)
    writer = Mp4Writer(tmp_path / "take.mp4", width=16, height=16, fps=FPS, threads=1)
    live = LiveStream(writer, node=PAGE, prompt_id="", client=PAGE, blocks=1, modes=(SWITCH,))
    session = Session(live, Streams())
    with pytest.raises(ValueError, match="does not know 'dog'"), session:
        make(Choice(pocket, DENSE, OFF), pocket.config(), "a red dog on a green ground", session, Meter())
    assert live.block == 0 and torch.get_num_threads() == 1

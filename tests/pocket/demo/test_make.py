"""A take of the demo from its first block to its last: typed prompts, and what the file says of itself."""

import json
import subprocess

import pytest
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.make import make_take
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.pocket.demo import main
from rivulet.pocket.demo.cli import parser
from rivulet.pocket.demo.take import SWITCH, Meter, chosen_for, first_state, making_of
from rivulet.tests.pocket.demo.conftest import PROMPT

OTHER = "a blue square on a red ground"


@pytest.fixture
def take(weights, tmp_path):
    """Returns a function that makes three blocks: (the live stream, its meter); asked: a prompt after one."""

    def run(asked=None):
        options = ["--weights", str(weights), "--seed", "3", "--prompt", PROMPT, "--no-snapshots"]
        options = parser().parse_args([*options, "--out", str(tmp_path / f"{asked or 'take'}.mp4")])
        chosen, config = chosen_for(options, None)
        meter, streams = Meter(), Streams()
        folder = TakeFolder(options.out)
        making = making_of(chosen, config, folder, options, lambda session: None, streams, 33)

        def ask(chunk):
            meter.count(chunk)
            if chunk.block == 0 and asked:
                streams.all()[0].ask(Message("me", 1, "prompt", asked, SWITCH))

        made = make_take(making, first_state(chosen, config, PROMPT), pictures=33, on_chunk=ask)
        return made.session.live, meter

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


def test_a_prompt_that_cannot_be_read_is_refused_before_anything_starts(weights, tmp_path, capsys):
    options = ["--weights", str(weights), "--prompt", "a red dog on a green ground", "--out", str(tmp_path)]
    assert main(options) == 2
    assert "does not know 'dog'" in capsys.readouterr().err and list(tmp_path.iterdir()) == []

import json
import subprocess

import pytest
import torch
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.pocket import text
from rivulet.pocket.demo import blocks as blocks_module

OTHER = "a blue square on a red ground"


def ask(feed, prompt, number=1):
    feed.live.ask(Message("me", number, "prompt", prompt, "smooth"))


def test_the_first_prompt_is_read_before_anything_starts(feed):
    assert torch.equal(feed.blocks.first_text_BLE, text.encode("a red circle on a green ground"))
    assert [each["prompt"] for each in feed.live.prompts] == ["a red circle on a green ground"]


def test_a_prompt_takes_effect_at_the_next_block_and_once(feed):
    assert feed.block() is None
    ask(feed, OTHER)
    assert torch.equal(feed.block(), text.encode(OTHER))
    assert feed.live.prompts[-1] == {"prompt": OTHER, "mode": "smooth", "block": 1, "first_frame": 9}
    assert feed.block() is None


def test_an_unreadable_prompt_is_refused_with_the_known_words_and_the_stream_goes_on(feed):
    ask(feed, "a purple dog")
    assert feed.block() is None
    (told,) = feed.live.mailbox.acknowledged
    assert told["outcome"] == "refused"
    assert "does not know 'purple', 'dog'" in told["sentence"] and "circle" in told["sentence"]
    assert len(feed.live.prompts) == 1 and feed.live.block == 1


def test_the_file_tells_what_it_was_made_from(feed):
    feed.block()
    ask(feed, OTHER)
    feed.block()
    feed.session.__exit__(None, None, None)
    command = [find_ffmpeg(), "-i", str(feed.session.writer.result)]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    comment = json.loads(next(line for line in told.splitlines() if "comment" in line).split(": ", 1)[1])
    assert comment["seed"] == 3
    assert comment["prompts"][1] == {"second": 9 / 16, "prompt": OTHER}


def test_the_speed_is_that_of_the_work_without_the_pauses(feed, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(blocks_module.time, "perf_counter", lambda: clock[0])
    for _ in range(3):
        clock[0] += 100
        feed.blocks.stop()
        clock[0] += 2
        feed.block()
    assert (feed.blocks.worked_seconds, feed.blocks.first_seconds) == (6, 2)
    assert feed.live.state()["made_per_second"] == pytest.approx(33 / 6)

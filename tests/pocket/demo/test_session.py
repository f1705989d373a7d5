import json
import subprocess
import threading

import numpy as np
import pytest
from rivulet.model_patches.writer.ffmpeg import find_ffmpeg
from rivulet.pocket.demo import session as session_module
from rivulet.tests.waiting import wait_for


def test_the_status_counts_blocks_and_frames(feed):
    before = feed.session.status()
    assert (before["phase"], before["block"], before["frames"], before["live"]) == ("running", 0, 0, None)
    feed.block()
    feed.block()
    after = feed.session.status()
    assert (after["block"], after["frames"], after["fps"], after["width"]) == (2, 21, 16, 32)
    assert after["made_per_second"] > 0
    json.dumps(after)


def test_a_prompt_is_told_as_waiting_and_then_with_its_block(feed):
    feed.block()
    feed.controls.ask("a blue square")
    assert feed.session.status()["pending"] == {"number": 1, "prompt": "a blue square"}
    feed.block()
    status = feed.session.status()
    assert status["pending"] is None
    assert status["applied"][-1] == {"number": 1, "prompt": "a blue square", "block": 1, "first_frame": 9}


def test_the_file_tells_what_it_was_made_from(feed):
    feed.block()
    feed.controls.ask("a blue square")
    feed.block()
    feed.writer.__exit__(None, None, None)
    command = [find_ffmpeg(), "-i", str(feed.writer.result)]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    comment = json.loads(next(line for line in told.splitlines() if "comment" in line).split(": ", 1)[1])
    assert comment["seed"] == 3
    assert comment["prompts"][1] == {"second": 9 / 16, "prompt": "a blue square"}


def test_the_live_file_is_given_piece_by_piece(feed):
    assert feed.session.init_segment(0) == b""
    assert feed.session.fragments(0, 0) is None
    for _ in range(3):
        feed.block()
    wait_for(lambda: (feed.session.status()["live"] or {"fragments": 0})["fragments"] == 32)
    live = feed.session.status()["live"]
    assert (live["part"], live["oldest"], live["keyframe"]) == (0, 0, 16)
    assert feed.session.init_segment(0)[4:8] == b"ftyp"
    assert feed.session.init_segment(9) is None
    data, following = feed.session.fragments(0, 30)
    assert (data[4:8], following) == (b"moof", 32)
    assert feed.session.fragments(0, 32) == (b"", 32)
    feed.session.end("ended", "")
    assert feed.session.fragments(0, 32) == (b"", 32)


def test_single_pictures_are_kept_within_bounds(feed):
    assert feed.session.picture(0) is None
    for _ in range(10):
        feed.block()
    assert feed.session.picture(117) is None
    number, pixels = feed.session.picture(100)
    assert (number, int(pixels[0, 0, 0])) == (100, 5 * 100 % 250)
    assert feed.session.picture(0)[0] == 117 - session_module.RECENT_FRAMES
    assert pixels.dtype == np.uint8


def test_a_paused_stream_waits_and_tells_so(feed):
    feed.controls.paused = True
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(feed.session.stop()))
    waiting.start()
    assert feed.session.status()["phase"] == "paused"
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    feed.controls.paused = False
    waiting.join(timeout=30)
    assert answers == [False]


def test_a_paused_stream_can_be_stopped(feed):
    feed.controls.paused = feed.controls.stopping = True
    assert feed.session.stop()


@pytest.mark.parametrize("blocks", [None, 100], ids=["endless", "of a length"])
def test_only_an_endless_stream_keeps_to_the_clock(feed, monkeypatch, blocks):
    clock = [1000.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    feed.session.blocks = blocks
    waited = []
    monkeypatch.setattr(feed.controls, "wait_while", lambda reason: waited.append(reason()))
    feed.session.stop()
    for _ in range(10):
        feed.block()  # 117 frames: 7.3 s of video in no time
    feed.session.stop()
    clock[0] += 5
    feed.session.stop()
    assert waited == ([False, True, False] if blocks is None else [])


def test_after_a_pause_the_clock_starts_again(feed, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])
    feed.session.stop()
    feed.controls.paused = True
    ahead = []

    def wait(reason):
        if feed.controls.paused:
            clock[0] += 60
            feed.controls.paused = False
        else:
            ahead.append(reason())

    monkeypatch.setattr(feed.controls, "wait_while", wait)
    feed.session.stop()
    for _ in range(10):
        feed.block()
    feed.session.stop()
    assert ahead == [False, True]


def test_the_speed_is_that_of_the_work_without_the_pauses(feed, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(session_module.time, "perf_counter", lambda: clock[0])
    for _ in range(3):
        clock[0] += 100
        feed.session.stop()
        clock[0] += 2
        feed.block()
    assert feed.session.worked_seconds == 6
    assert feed.session.first_chunk_seconds == 2
    assert feed.session.made_per_second == 33 / 6
    assert feed.session.status()["made_per_second"] == 33 / 6

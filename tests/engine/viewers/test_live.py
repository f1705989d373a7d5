"""What viewers may know of a stream, as docs/preview.md lists it."""

import re

import numpy as np
import pytest
from rivulet.model_patches.viewers.live import MAX_PROMPTS, EndedError, LiveStream, PromptChange
from rivulet.model_patches.viewers.mailbox import Message, read_message
from rivulet.model_patches.writer.video import Mp4Writer


@pytest.fixture
def live(tmp_path):
    """Returns a stream whose file is not open yet."""
    writer = Mp4Writer(tmp_path / "take.mp4", width=32, height=32, fps=4, threads=1)
    return LiveStream(writer, node="12:7", prompt_id="p", blocks=9, modes=("cut", "smooth"))


def pictures(count):
    return np.zeros((count, 32, 32, 3), np.uint8)


def test_the_state_has_the_fields_of_the_contract(live, root):
    text = (root / "docs" / "preview.md").read_text()
    table = text[text.index("| field |") : text.index("`media` is")]
    first = [row.split("|")[1] for row in table.splitlines()[2:] if row]
    fields = {name for names in first for name in re.findall(r"`(\w+)`", names)}
    assert fields == live.state().keys()
    assert fields - live.state(prompts=False).keys() == {"prompts", "prompts_before"}


def test_prompts_that_a_viewer_has_are_not_told_again(live):
    for block in range(MAX_PROMPTS + 3):
        live.note_prompt(PromptChange(f"{block:04}" + "a" * 3996, "cut", block, 0))
    for known, first in ((0, 3), (2, 3), (4, 4), (502, 502), (503, 503), (10**14, 503)):
        told = live.state(after=known)
        assert told["prompts_before"] == first and told["prompt_count"] == 503
        assert [each["block"] for each in told["prompts"]] == list(range(first, 503))


def test_every_change_raises_the_sequence(live):
    numbers = [live.state()["sequence"]]

    def changed():
        numbers.append(live.state()["sequence"])
        return numbers[-1] > numbers[-2]

    live.note_prompt(PromptChange("a", "cut", 0, 0))
    assert changed()
    live.ask(Message("v", 1, "pause"))
    assert changed()
    live.ask(Message("v", 1, "pause"))
    assert not changed()
    live.change("paused")
    assert changed()
    with live.writer:
        live.writer.write(pictures(5))
        live.writer.seal()
        live.collect()
        assert changed() and live.state()["media"]["next"] == 6
        live.collect()
        assert not changed()
        live.note_block(5, 0.5)
        assert changed() and live.state()["made_per_second"] == 10


def test_what_was_collected_outlives_the_file(live, tmp_path):
    with live.writer:
        live.writer.write(pictures(5))
        live.writer.seal()
        live.release()
        live.collect()
    assert not list(tmp_path.glob("*part*")) and not live.state()["video"]
    live.change("ended")
    state = live.state()
    assert state["video"] and state["media"]["next"] == 6 and live.segments.read(5).next == 6


def test_a_message_that_cannot_be_obeyed_is_refused(live):
    with pytest.raises(ValueError, match="cannot do the switch 'blend'; choose cut or smooth"):
        live.ask(Message("v", 1, "prompt", "x", "blend"))
    live.modes = ()
    with pytest.raises(ValueError, match="its prompt is fixed"):
        live.ask(Message("v", 1, "prompt", "x", "cut"))
    assert live.state()["pending"] == []


def test_what_a_run_cannot_do_is_refused_before_it_is_taken(live):
    for do, words in (("redo", "cannot go back"), ("mark", "none to mark"), ("yield", "let others in")):
        with pytest.raises(ValueError, match=words):
            live.ask(Message("v", 1, do, frame=0))
    live.does = frozenset(("redo", "mark", "yield"))
    with pytest.raises(ValueError, match="Picture 5 is not made yet; redo one of the first 5"), live.writer:
        live.writer.write(pictures(5))
        live.ask(Message("v", 1, "redo", frame=5))
    with pytest.raises(ValueError, match="cannot do the switch 'blend'"):
        live.ask(Message("v", 1, "redo", "x", "blend", 4))
    assert live.state()["pending"] == []
    live.ask(Message("v", 1, "redo", "x", "", 4))
    (waiting,) = live.state()["pending"]
    assert (waiting["mode"], waiting["frame"], waiting["seed"]) == ("cut", 4, None)


def test_the_time_left_is_that_of_the_blocks_to_come(live):
    assert live.state()["left_seconds"] is None
    live.note_block(5, 2.0)
    live.note_block(5, 4.0)
    assert live.state()["left_seconds"] == 7 * 3.0
    live.blocks = None
    assert live.state()["left_seconds"] is None


def test_after_the_end_only_repetitions_are_answered(live):
    live.ask(Message("v", 1, "pause"))
    live.change("ended")
    live.ask(Message("v", 1, "pause"))
    with pytest.raises(EndedError, match="has ended"):
        live.ask(Message("v", 2, "pause"))


def test_prompts_are_counted_beyond_those_told(live):
    for block in range(600):
        live.note_prompt(PromptChange(str(block), "cut", block, block))
    state = live.state()
    assert (state["prompt_count"], len(state["prompts"]), state["prompts"][-1]["prompt"]) == (600, 500, "599")


def test_the_state_says_how_long_a_prompt_may_be(live):
    most = live.state()["longest_prompt"]
    message = {"viewer": "v", "number": 1, "do": "prompt", "mode": "cut"}
    assert read_message({**message, "prompt": "a" * most}).prompt == "a" * most
    with pytest.raises(ValueError, match=f"{most + 1} letters, at most {most}"):
        read_message({**message, "prompt": "a" * (most + 1)})

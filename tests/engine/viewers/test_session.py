"""The thread that makes a stream and those who watch it: what is told, when it waits, how it ends."""

from pathlib import Path

import numpy as np
import pytest
from rivulet.model_patches.viewers import session as session_module
from rivulet.model_patches.viewers.live import LiveStream
from rivulet.model_patches.viewers.mailbox import Message, Redo
from rivulet.model_patches.viewers.session import MAX_REASON, Session
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.video import Mp4Writer

FPS, BLOCK = 4, 12


class Interrupt(BaseException):
    """What a host raises where its user presses Cancel."""


@pytest.fixture
def begun(tmp_path):
    """Returns a function that gives (session, its streams); `sent` of the session holds what was sent."""

    def begin(blocks=9, **given):
        writer = Mp4Writer(tmp_path / "take.mp4", width=32, height=32, fps=FPS, threads=1)
        live = LiveStream(writer, node="1", prompt_id="p", blocks=blocks, modes=("smooth",))
        sent, streams = [], Streams()
        session = Session(live, streams, send=sent.append, **given)
        session.sent = sent
        return session, streams

    return begin


def make(session):
    """Makes one block."""
    session.writer.write(np.zeros((BLOCK, 32, 32, 3), np.uint8))
    session.note_block(BLOCK, 1.0)


def ask(session, number, do, **more):
    session.live.ask(Message("me", number, do, **more))


def outcomes(session):
    return [(each["number"], each["outcome"]) for each in session.live.mailbox.acknowledged]


def test_each_block_and_phase_is_sent_once_and_the_stream_can_be_found(begun):
    session, streams = begun(vram=lambda: {"used": 1, "total": 2})
    with session:
        assert streams.all() == [session.live]
        for _ in range(2):
            assert session.should_continue()
            make(session)
    assert [(state["phase"], state["block"]) for state in session.sent] == [
        ("starting", 0),
        ("running", 1),
        ("running", 2),
        ("ended", 2),
    ]
    assert "prompts" not in session.sent[0] and session.sent[1]["vram"] == {"used": 1, "total": 2}
    numbers = [state["sequence"] for state in session.sent]
    assert numbers == sorted(set(numbers)) and session.live.state()["video"]


def test_a_stop_ends_it_but_not_before_something_is_made(begun):
    session, _ = begun()
    with session:
        ask(session, 1, "stop")
        assert session.should_continue()
        make(session)
        assert not session.should_continue()
    assert outcomes(session) == [(1, "done")] and session.live.phase == "ended" and session.live.stopped
    assert session.live.state()["stopped_by"] == "viewer"
    assert not session.live.as_queued and frame_count(session.writer.result) == BLOCK


def test_where_the_video_lies_is_told_once_it_is_there(begun):
    session, _ = begun()
    with session:
        make(session)
        state = session.live.state()
        assert (state["path"], state["view"], state["stopped_by"]) == ("", None, "")
    state = session.live.state()
    assert state["path"] == str(session.writer.path.absolute()) and Path(state["path"]).is_file()
    assert state["view"] is None


def test_the_one_who_makes_it_can_stop_it_as_a_viewer_does(begun):
    session, _ = begun()
    with session:
        make(session)
        session.stop()
        assert not session.should_continue()
    assert session.live.stopped and not session.live.as_queued


def test_it_stops_and_keeps_what_it_made_before_the_disk_is_full(begun, monkeypatch):
    session, _ = begun()
    low = ["", "/videos has 40 MiB free, so the run stops here."]
    monkeypatch.setattr(Mp4Writer, "low_disk", property(lambda writer: low[writer.frames_written > BLOCK]))
    with session:
        for _ in range(2):
            assert session.should_continue()
            make(session)
        assert not session.should_continue()
    state = session.live.state()
    assert state["phase"] == "ended" and state["stopped"] and state["notice"] == low[1]
    assert state["stopped_by"] == "disk"
    assert frame_count(session.writer.result) == 2 * BLOCK


def test_changes_of_phase_are_heard_in_the_generating_thread(begun):
    session, _ = begun()
    heard = []
    session.on_phase = heard.append
    with session:
        make(session)
        ask(session, 1, "pause")
        session.live.mailbox.wait = lambda seconds: ask(session, 2, "resume")
        assert session.should_continue() and heard == ["paused", "running"]
    assert heard[2:] == ["ended"]


def test_a_redo_ends_it_and_says_from_where(begun):
    def rewind(redo):
        if redo.frame < 3:
            raise ValueError("There is no snapshot before.")

    session, _ = begun(rewind=rewind)
    with session:
        make(session)
        ask(session, 1, "redo", frame=2)
        assert session.should_continue() and session.redo is None
        ask(session, 2, "redo", frame=4, seed=9)
        assert not session.should_continue()
    assert session.redo == Redo(4, seed=9) and not session.live.as_queued and not session.live.stopped
    refused, done = session.live.mailbox.acknowledged
    assert (refused["outcome"], refused["sentence"]) == ("refused", "There is no snapshot before.")
    assert (done["outcome"], done["first_frame"]) == ("done", 4)


def test_a_paused_stream_can_be_redone(begun):
    session, _ = begun(rewind=lambda redo: None)
    with session:
        make(session)
        ask(session, 1, "pause")
        session.live.mailbox.wait = lambda seconds: ask(session, 2, "redo", frame=0)
        assert not session.should_continue()


def test_a_mark_is_handed_on_and_a_yield_ends_it(begun):
    marks = []
    session, _ = begun(mark=lambda: marks.append(session.live.block), can_yield=True)
    with session:
        assert [session.live.state()[f"can_{do}"] for do in ("redo", "mark", "yield")] == [False, True, True]
        ask(session, 1, "mark")
        ask(session, 2, "yield")
        assert session.should_continue() and marks == [0], "no block is made yet"
        make(session)
        assert not session.should_continue()
    assert session.yielding and not session.live.as_queued and not session.live.state()["stopped"]


@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [(("yield",), True), (("redo",), True), (("stop",), False), (("yield", "stop"), False)],
)
def test_a_take_that_another_session_goes_on_with_says_so(begun, asked, goes_on):
    session, _ = begun(rewind=lambda redo: None, can_yield=True)
    with session:
        make(session)
        for number, do in enumerate(asked, 1):
            ask(session, number, do, **({"frame": 3} if do == "redo" else {}))
        assert not session.should_continue()
    assert session.live.state()["goes_on"] == goes_on


def test_a_yield_that_came_too_late_leaves_nothing_to_go_on_with(begun):
    session, _ = begun(can_yield=True)
    with session:
        make(session)
        ask(session, 1, "yield")
    assert not session.live.state()["goes_on"]


def test_a_pause_is_told_once_waits_and_ends(begun):
    session, _ = begun()
    with session:
        make(session)
        ask(session, 1, "pause")
        looks = []

        def wait(seconds):
            looks.append(session.live.phase)
            if len(looks) == 3:
                ask(session, 2, "resume")

        session.live.mailbox.wait = wait
        assert session.should_continue()
    assert looks == ["paused"] * 3 and session.live.as_queued
    assert [state["phase"] for state in session.sent] == ["starting", "running", "paused", "running", "ended"]


def test_a_paused_stream_can_be_stopped_or_interrupted(begun):
    session, _ = begun()
    with session:
        make(session)
        session.paused = session.stopping = True
        assert not session.should_continue()


def test_an_interruption_is_no_fault(begun):
    def check():
        if looks:
            raise Interrupt

    session, _ = begun(check=check)
    looks = []
    with pytest.raises(Interrupt), session:
        assert session.should_continue()
        make(session)
        session.paused, session.live.mailbox.wait = True, looks.append
        session.should_continue()
    assert session.live.phase == "ended" and "interrupted" in session.live.sentence
    assert frame_count(session.writer.result) == BLOCK


@pytest.mark.parametrize(
    ("error", "words"), [(ValueError("It broke."), "It broke."), (KeyError(), "KeyError")]
)
def test_a_fault_is_told_in_its_words_and_the_file_is_kept(begun, error, words):
    session, _ = begun()
    with pytest.raises(type(error)), session:
        make(session)
        raise error
    assert (session.live.phase, session.live.sentence) == ("failed", words)
    assert frame_count(session.writer.result) == BLOCK


def test_a_prompt_is_taken_once_and_can_be_refused(begun):
    session, _ = begun()
    with session:
        assert session.next_prompt() is None
        ask(session, 1, "prompt", prompt="a dog", mode="smooth")
        message = session.next_prompt()
        assert message.prompt == "a dog" and session.next_prompt() is None
        session.refuse(message, ValueError("x" * 999))
    (told,) = session.live.mailbox.acknowledged
    assert (told["outcome"], told["sentence"]) == ("refused", "x" * MAX_REASON)
    assert session.live.as_queued


@pytest.fixture
def clock(monkeypatch):
    """Returns a clock that stands, as a list of its one time."""
    now = [1000.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("blocks", "lead", "waits"), [(None, 2.0, 1), (9, 2.0, 0), (None, None, 0)])
def test_only_a_stream_without_end_keeps_to_the_clock(begun, clock, blocks, lead, waits):
    session, _ = begun(blocks, lead_seconds=lead)
    waited = []

    def wait(seconds):
        waited.append(session.live.phase)
        clock[0] += 1.5

    with session:
        session.live.mailbox.wait = wait
        assert session.should_continue()
        make(session)  # 3 s of video in no time
        assert session.should_continue()
    assert waited == ["running"] * waits


def test_after_a_pause_the_clock_starts_again(begun, clock):
    session, _ = begun(None, lead_seconds=2.0)
    waited = []

    def wait(seconds):
        waited.append(session.live.phase)
        clock[0] += 60
        if session.paused:
            ask(session, 2, "resume")

    with session:
        session.live.mailbox.wait = wait
        assert session.should_continue()
        ask(session, 1, "pause")
        assert session.should_continue()
        make(session)
        assert session.should_continue()
        make(session)
        assert session.should_continue()
    # the minute of the pause counts for nothing: the second block's 6 s of video are ahead again
    assert waited == ["paused", "running"]

"""What a take was directed with: a text that makes it again, in the tags of its video and beside it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.geometry import Geometry, rate_of
from rivulet.model_patches.stream.snapshot import read_header
from rivulet.model_patches.stream.timeline import MODES, at_borders
from rivulet.model_patches.stream.typed import read_timeline
from rivulet.model_patches.takes.directed import TAG, timeline_of, written
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.make import make_take
from rivulet.model_patches.takes.refusals import refuse_redo
from rivulet.model_patches.takes.timeline_file import Event, read
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.tags import read_tags

from ..stream.videos import GEOMETRY
from .made import CONFIG, EVERY, FPS, Studio, resume, scripted

BLOCK = CONFIG.block_frames


@pytest.fixture
def studio(tmp_path):
    return Studio(tmp_path)


def typist(*typed):
    """Types at blocks of the run: (block, what to do, prompt, mode, and of a redo its frame)."""

    def watch(session):
        told = list(typed)
        before = session.should_continue

        def should_continue(rest=lambda: None):
            while told and told[0][0] <= session.live.block:
                _, *message = told.pop(0)
                session.live.ask(Message("me", 100 - len(told), *message))
            return before(rest)

        session.should_continue = should_continue

    return watch


def again(tmp_path, name, text, blocks):
    """The pictures of a take that a text directs."""
    studio = Studio(tmp_path / name)
    studio.folder.mkdir()
    changes, notes = at_borders(read_timeline(text), GEOMETRY, FPS, BLOCK, blocks)
    assert not notes
    by_block = {change.block: change.prompt for change in changes}
    studio.make(pictures=PICTURES, script=scripted(by_block))
    return studio.frames


PICTURES = 8 * 12 - 3
TYPED = ((2, "prompt", "1", "smooth"), (3, "prompt", "2", "cut"), (5, "prompt", "3", "recache"))


def test_a_take_that_was_typed_is_made_again_by_its_own_text(studio, tmp_path):
    studio.watch = typist(*TYPED)
    studio.make(pictures=PICTURES)
    text = read_tags(tmp_path / "take.mp4")[TAG]
    assert text == timeline_of(TakeFolder(tmp_path / "take.mp4"))
    assert text.splitlines()[0] == "# seed 7, 16 pictures a second"
    assert [line.partition("]")[2] for line in text.splitlines()[1:]] == [" 0", " 1", " 2", " 3"]
    assert np.array_equal(again(tmp_path, "again", text, None), studio.frames)
    plain = Studio(tmp_path / "plain")
    plain.folder.mkdir()
    plain.make(pictures=PICTURES)
    assert not np.array_equal(plain.frames, studio.frames)


def test_pauses_and_other_seeds_are_comments_and_a_tail_tells_its_whole_take(studio, tmp_path):
    def unpaused(session):
        typist((1, "pause", "", ""), *TYPED[:2])(session)
        session.live.mailbox.wait = lambda seconds: session.live.ask(Message("you", 1, "resume"))

    studio.watch = unpaused
    studio.make(pictures=PICTURES)
    first = read_tags(tmp_path / "take.mp4")[TAG]
    assert "# 0.562s: a pause" in first.splitlines()
    studio.watch = lambda session: None
    studio.make(pictures=PICTURES, redo=resume(frame=50, prompt="4", mode="cut", seed=9))
    (tail,) = tmp_path.glob("*_tail1.mp4")
    assert read_tags(tail)[TAG] == timeline_of(TakeFolder(tail)) == first.replace("# 0.562s: a pause\n", "")
    second = read_tags(tmp_path / "take.mp4")[TAG].splitlines()
    assert second[1:4] == first.replace("# 0.562s: a pause\n", "").splitlines()[1:4]
    assert second[4].endswith(" cut] 4") and second[5].endswith("the seed 9 from here on, by a redo")
    assert len(second) == 6


def test_without_texts_nothing_holds_them_and_it_goes_on(studio, tmp_path):
    studio.watch = typist((1, "prompt", "12345", "smooth"), (2, "prompt", "54321", "cut"))
    making = replace(studio.making(), private=True)
    make_take(making, studio.begin(), pictures=PICTURES // 2)
    folder = TakeFolder(tmp_path / "take.mp4")
    assert TAG not in read_tags(folder.video) and timeline_of(folder) == ""
    assert [each.prompt for each in read(folder.timeline)] == [None] * 4
    assert {read_header(each.path).text for each in folder.snapshots()} == {None}
    for path in (folder.video, *folder.path.iterdir()):
        assert not any(words in path.read_bytes() for words in (b"12345", b"54321")), path

    studio.watch = lambda session: None
    make_take(replace(studio.making(), private=True), resume(), pictures=PICTURES)
    whole = Studio(tmp_path / "whole")
    whole.folder.mkdir()
    whole.watch = typist((1, "prompt", "12345", "smooth"), (2, "prompt", "54321", "cut"))
    whole.make(pictures=PICTURES)
    assert np.array_equal(whole.frames, studio.frames)

    redo = resume(frame=70, prompt="777", mode="cut")
    make_take(replace(studio.making(), private=True), redo, pictures=PICTURES)
    assert all(b"777" not in path.read_bytes() for path in folder.path.glob("*.json*"))


@pytest.mark.parametrize("frame", [10, 30])
def test_a_run_that_keeps_no_texts_goes_back_behind_its_own_prompts(tmp_path, frame):
    """Prompts of the graph and of viewers, which the run knows and no file does."""
    frames = []
    for private in (True, False):
        studio = Studio(tmp_path / str(private))
        studio.folder.mkdir()
        steps = typist(
            (2, "prompt", "1", "smooth"), (4, "prompt", "2", "cut"), (6, "redo", "5", "cut", frame)
        )
        studio.watch = lambda session, studio=studio, steps=steps: len(studio.sessions) > 1 or steps(session)
        policy = replace(EVERY, every_seconds=1e9)  # the first snapshot, and those of prompts
        make_take(replace(studio.making(policy=policy), private=private), studio.begin(), pictures=PICTURES)
        assert len(studio.sessions) == 2
        frames.append(studio.frames)
        told = {each.prompt for each in read(TakeFolder(studio.folder / "take.mp4").timeline)}
        assert told == {None} if private else "5" in told
    assert np.array_equal(*frames)


def test_a_run_does_not_end_for_a_redo_behind_a_prompt_that_nobody_knows(studio, tmp_path):
    studio.watch = typist((2, "prompt", "5", "smooth"))
    make_take(replace(studio.making(), private=True), studio.begin(), pictures=PICTURES // 2)
    folder = TakeFolder(tmp_path / "take.mp4")
    for each in folder.snapshots():
        if each.block in (2, 3):
            each.path.unlink()
    (_, lost) = (event for event in read(folder.timeline) if event.is_lost)
    told = folder, scripted(), read(folder.timeline), 0
    refuse_redo(*told, resume(frame=lost.frame - 1, prompt="6", mode="cut"))
    with pytest.raises(ValueError, match="was not kept as a text"):
        refuse_redo(*told, resume(frame=lost.frame + 3, prompt="6", mode="cut"))


def test_blocks_under_a_prompt_that_was_not_kept_are_not_made_again_otherwise(studio, tmp_path):
    studio.watch = typist((2, "prompt", "5", "smooth"))
    make_take(replace(studio.making(), private=True), studio.begin(), pictures=PICTURES)
    folder = TakeFolder(tmp_path / "take.mp4")
    for each in folder.snapshots():
        if each.block >= 2:
            each.path.unlink()
    with pytest.raises(ValueError, match=r"prompt at second 1\.3 was not kept as a text"):
        studio.make(pictures=2 * PICTURES, redo=resume())
    assert studio.make(pictures=PICTURES, redo=resume(frame=21, prompt="6", mode="cut")).state.block


WORDS = ["[5s cut] a dog", "# a dog", "---", "a = b; c \\ d", "[x] y", "狗", "a]b[c"]


@pytest.mark.parametrize("words", WORDS)
def test_any_prompt_is_read_back(words):
    events = [Event(0, 0, words, "smooth", 1), Event(2, 21, words, "cut", 1)]
    read_back = read_timeline(written(events, 16)).prompts
    assert [(each.start_ms, each.text) for each in read_back] == [(0, words), (1312, words)]


def test_a_take_of_many_long_prompts_is_read_back():
    events = [Event(4 * each, 48 * each, f"{each:04} " + "a dog" * 799, "cut", 1) for each in range(900)]
    prompts = read_timeline(written(events, 16)).prompts
    assert [each.text for each in prompts] == [each.prompt for each in events]


SWITCHES = st.tuples(st.integers(1, 400), st.sampled_from(list(MODES)))


def events_of(switches, before, hidden):
    """Prompts at these blocks of 64x64, each with the picture that its block begins with."""
    geometry, begins, picture = Geometry(64, 64), 0, -hidden
    events = [Event(0, geometry.pixel_frames(before) - hidden, "0", "cut", 3)]
    for block, mode in sorted(switches):
        frame = picture + geometry.pixel_frames(before + 3 * (block - begins))
        events.append(Event(block, frame, str(block), mode, 3))
        if mode == "cut":
            begins, picture, before = block, frame, 0
    return events


@given(
    st.sampled_from([16, 23.976, 29.97, 59.94, 7.5, 120, 0.9]),
    st.lists(SWITCHES, max_size=8, unique_by=lambda switch: switch[0]),
    st.integers(0, 12),
    st.booleans(),
)
def test_times_mean_the_same_blocks_again(fps, switches, before, shown):
    geometry = Geometry(64, 64)
    hidden = 0 if shown else geometry.pixel_frames(before)
    events = events_of(switches, before, hidden)
    timeline = read_timeline(written(events, fps))
    changes, notes = at_borders(timeline, geometry, rate_of(fps), 3, None, before, hidden)
    assert not notes
    told = [(change.block, change.prompt.text, change.prompt.mode) for change in changes]
    assert told[1:] == [(event.block, event.prompt, event.mode) for event in events[1:]]
    assert told[0][:2] == (0, "0")

"""A take that is being made is watched for drift, and keeps the machine awake while its blocks are made."""

from dataclasses import replace

import pytest
from rivulet.model_patches.takes import awake, verdict
from rivulet.model_patches.takes.curve import read
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.make import make_take
from rivulet.model_patches.viewers.mailbox import Message

from .made import FPS, resume, scripted
from .test_make import CHANGES

PATIENCE = 400  # pictures: 25 seconds, more than any warning takes


@pytest.fixture
def never_moves(monkeypatch):
    """Whatever a tiny model shows counts as standing still."""
    for name in ("STILL_LEVELS", "MOVES_LEVELS"):
        monkeypatch.setattr(verdict, name, 256.0)


def test_its_numbers_reach_viewers_and_the_file_beside_it(studio):
    live = studio.make(pictures=93).session.live
    lines = read(TakeFolder(studio.folder / "take.mp4").watch)
    assert [each.frame for each in lines] == [0, 16, 32, 48, 64]
    told = live.state()["watch"]
    assert told["frames_per_point"] == 16 and len(told["motion"]) == 5 and told["warning"] == ""
    assert told["motion"] == pytest.approx([each.motion for each in lines], abs=1e-3)


def test_they_go_on_with_the_take_and_go_back_with_it(studio):
    studio.make(pictures=93)
    path = TakeFolder(studio.folder / "take.mp4").watch
    before = path.read_text().splitlines()
    studio.make(pictures=141, redo=resume())
    # the second in which the run ended and the next began was seen by neither as a whole
    assert [each.frame for each in read(path)] == [0, 16, 32, 48, 64, 96, 112]
    assert path.read_text().splitlines()[:5] == before
    live = studio.make(pictures=141, redo=resume(frame=40)).session.live
    assert [each.frame for each in read(path)] == [0, 16, 48, 64, 80, 96, 112]
    assert len(live.state()["watch"]["motion"]) == 8


def test_without_snapshots_it_is_watched_and_nothing_is_written(studio):
    live = studio.make(pictures=45, policy=None).session.live
    assert len(live.state()["watch"]["motion"]) == 2
    assert {path.name for path in studio.folder.iterdir()} == {"take.mp4"}


def test_a_picture_that_stands_still_is_told_and_the_take_goes_on(studio, never_moves):
    session = studio.make(pictures=PATIENCE).session
    assert session.writer.frames_written >= PATIENCE and not session.live.stopped
    assert "stood still since second 0." in session.live.notice == session.live.watch["warning"]
    assert TakeFolder(studio.folder / "take.mp4").read_about().ended.how == "planned"


def test_where_it_is_wanted_the_take_stops_and_is_kept(studio, never_moves):
    making = replace(studio.making(), stop_on_drift=True)
    session = make_take(making, studio.begin(), pictures=PATIENCE).session
    live, made = session.live, session.writer.frames_written
    assert verdict.WINDOW_SECONDS * FPS < made < PATIENCE
    assert live.stopped and live.stopped_by == "drift" and not live.as_queued and "stood still" in live.notice
    assert making.folder.read_about().ended.how == "stopped"
    assert making.folder.snapshots()[-1].frame == made


def test_another_prompt_is_no_drift(studio, monkeypatch):
    for name in ("BURNT_SHARE", "FINE_SHARE"):  # every scene burns out once it was seen for so long
        monkeypatch.setattr(verdict, name, -1.0)
    session = studio.make(pictures=90 + 8 * FPS, script=scripted(CHANGES)).session
    # the last prompt came at picture 66, and the eight seconds after the one in which it came are complete
    assert "since second 5, " in session.live.notice


def test_the_machine_may_sleep_in_a_pause_and_afterwards(studio, monkeypatch):
    asked = []

    class Holder:
        def hold(self):
            asked.append(("hold", len(studio.shown)))

        def release(self):
            asked.append(("release", len(studio.shown)))

    monkeypatch.setattr(awake, "holder_for", lambda system, why: Holder())

    def pause(session):
        ask = session.live.ask
        ask(Message("me", 1, "pause"))
        session.live.mailbox.wait = lambda seconds: ask(Message("me", 2, "resume"))

    studio.watch = pause
    studio.make(pictures=21)
    assert [what for what, _ in asked] == ["hold", "release", "hold", "release"]

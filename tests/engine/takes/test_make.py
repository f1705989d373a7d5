"""A take that is made, gone on with and redone: every picture, before it is encoded, is what it should be."""

from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from rivulet.model_patches.stream.timeline import Prompt
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.keeper import Policy
from rivulet.model_patches.takes.point import find_point
from rivulet.model_patches.takes.timeline_file import read
from rivulet.model_patches.viewers.mailbox import Message
from rivulet.model_patches.writer.ffmpeg import Decoder, decode_command, find_ffmpeg
from rivulet.model_patches.writer.lock import FileLock
from rivulet.model_patches.writer.parts import frames_of

from .made import CONFIG, EVERY, FPS, Studio, resume, scripted


def test_a_take_leaves_its_video_and_its_folder(studio, whole):
    made = studio.make(pictures=45)
    folder = TakeFolder(studio.folder / "take.mp4")
    assert made.session.writer.result == folder.video and np.array_equal(studio.frames, whole[:45])
    assert [each.order for each in folder.snapshots()] == [(0, 0), (1, 9), (2, 21), (3, 33), (4, 45)]
    assert folder.read_about().ended.how == "planned"
    assert {path.name for path in studio.folder.iterdir()} == {"take.mp4", "take.take"}
    assert {path.suffix for path in folder.path.iterdir()} == {".safetensors", ".json", ".jsonl", ".jpg"}


def test_a_take_goes_on_in_the_same_file_as_if_it_had_not_ended(studio, whole):
    studio.make(pictures=45)
    made = studio.make(pictures=93, redo=resume())
    assert studio.shown[1][0] == 45 and np.array_equal(studio.frames, whole)
    assert {path.name for path in studio.folder.iterdir()} == {"take.mp4", "take.take"}
    assert made.session.live.prompts[0]["prompt"] == "0"


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_the_largest_seeds_go_on_as_if_they_had_not_ended(studio, seed):
    config = replace(CONFIG, seed=seed)
    studio.make(pictures=21, begin=studio.begin(config), config=config)
    studio.make(pictures=45, redo=resume(), config=config)
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    other.make(pictures=45, begin=other.begin(config), config=config)
    assert len(studio.frames) == 45 and np.array_equal(studio.frames, other.frames)


CHANGES = {2: Prompt(0, "3", "recache"), 4: Prompt(0, "4", "cut"), 6: Prompt(0, "5", "blend")}
SHOTS = {2: Prompt(0, "3", "shot"), 4: Prompt(0, "4", "shot"), 5: Prompt(0, "5", "recache")}


@pytest.fixture(scope="session")
def story(models, tmp_path_factory):
    """Returns the pictures of a take of 8 blocks whose prompt changes three times, 90 of them."""
    studio = Studio(tmp_path_factory.mktemp("story"), *models)
    studio.make(pictures=90, script=scripted(CHANGES))
    return studio.frames


@pytest.mark.parametrize("cut", [9, 21, 33, 45, 54, 66])
def test_a_story_goes_on_as_if_it_had_not_ended(studio, story, cut):
    studio.make(pictures=cut, script=scripted(CHANGES))
    studio.make(pictures=90, redo=resume(), script=scripted(CHANGES))
    assert np.array_equal(studio.frames, story)


@pytest.mark.parametrize("frame", [0, 8, 9, 20, 30, 33, 44, 45, 50, 60, 77, 89])
def test_a_redo_that_changes_nothing_gives_the_same_pictures(studio, story, frame):
    """By what was noted alone: the script has none of the prompts any more."""
    studio.make(pictures=90, script=scripted(CHANGES))
    studio.make(pictures=90, redo=resume(frame=frame))
    assert np.array_equal(studio.frames, story)
    assert studio.shown[1][0] <= frame


def test_shots_are_made_again_from_any_second_by_what_was_noted(studio):
    studio.make(pictures=93, script=scripted(SHOTS))
    whole = studio.frames
    assert len(whole) == 93  # borders are where they are without them
    plain = Studio(studio.folder / "plain", studio.caller, studio.vae)
    plain.make(pictures=93, script=scripted({}))
    same = (plain.frames == whole).all(axis=(1, 2, 3))
    assert same[:21].all() and not same[21:].any()
    for frame in (33, 60):
        studio.make(pictures=93, redo=resume(frame=frame))
        assert np.array_equal(studio.frames, whole), frame


@pytest.mark.parametrize("kept", [[0], [0, 1, 2], [0, 3], [0, 5]], ids=str)
def test_blocks_between_the_snapshot_and_the_second_are_made_again_by_what_was_noted(studio, story, kept):
    studio.make(pictures=90, script=scripted(CHANGES))
    folder = TakeFolder(studio.folder / "take.mp4")
    for each in folder.snapshots():
        if each.block not in kept:
            each.path.unlink()
    point = find_point(folder, resume(frame=70))
    assert (point.block, point.frame) == (6, 66) and point.header.block <= kept[-1]
    studio.make(pictures=90, redo=resume(frame=70, prompt="9"))
    assert np.array_equal(studio.frames[:66], story[:66])
    assert not np.array_equal(studio.frames[66:78], story[66:78])
    # what is made anew is what this prompt gives there, however far back the snapshot was
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    other.make(pictures=90, script=scripted({**CHANGES, 6: Prompt(0, "9", "smooth")}))
    assert np.array_equal(studio.frames, other.frames)


@pytest.mark.parametrize("frame", [45, 50])
def test_a_redo_with_another_seed_keeps_all_before_it_and_the_story_after_it(studio, story, frame):
    studio.make(pictures=90, script=scripted(CHANGES))
    studio.make(pictures=90, redo=resume(frame=frame, seed=8))
    assert np.array_equal(studio.frames[:45], story[:45]) and len(studio.frames) == 90
    assert not (studio.frames[45:] == story[45:]).all(axis=(1, 2, 3)).any()
    events = read(TakeFolder(studio.folder / "take.mp4").timeline)
    assert [(e.block, e.prompt, e.seed) for e in events if e.mode] == [
        (0, "0", 7), (2, "3", 7), (4, "4", 8), (6, "5", 8),
    ]  # fmt: skip
    # and once more from the start of the second seed: the seeds of both halves are noted
    studio.make(pictures=90, redo=resume(frame=9))
    again = studio.frames
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    configs = {4: replace(CONFIG, seed=8)}
    other.make(pictures=90, script=replace(scripted(CHANGES), configs=configs))
    assert np.array_equal(again, other.frames)


def test_what_of_the_prompts_will_not_be_seen_is_the_notice_when_the_stream_begins(studio):
    told = ("'9' at 1:00s is not shown.", "'8' at 2:00s is not shown.")
    seen = []
    studio.watch = lambda session: seen.append(session.live)
    made = studio.make(pictures=9, script=replace(scripted(), notes=told))
    assert made.session.live.notice == " ".join(told) and seen == [made.session.live]


def test_the_tail_is_a_take_of_its_own_that_plays_and_goes_on(studio, story):
    studio.make(pictures=90, script=scripted(CHANGES))
    before = pixels(studio.folder / "take.mp4")
    made = studio.make(pictures=45, redo=resume(frame=33, prompt="9"))
    tail = TakeFolder(studio.folder / "take_tail1.mp4")
    assert made.session.writer.frames_written == 45
    assert made.session.live.notice == "What was there before is kept as take_tail1.mp4."
    begins = tail.read_about().first_frame
    assert begins == 32, "the last key frame before"
    assert np.array_equal(pixels(tail.video), before[begins:])
    blocks = [each.block for each in tail.snapshots()]
    assert {4, 6, 8} <= set(blocks) <= {4, 5, 6, 7, 8}
    assert tail.picture.is_file() and tail.read_about().ended.how == "planned"
    # the tail is made longer, and redone from one of its seconds
    other = Studio(studio.folder, studio.caller, studio.vae)
    other.make("take_tail1.mp4", pictures=114 - begins, redo=resume())
    longer = Studio(studio.folder / "longer", studio.caller, studio.vae)
    longer.make(pictures=114, script=scripted(CHANGES))
    assert other.shown[0][0] == 90 - begins and np.array_equal(other.shown[0][1].frames, longer.frames[90:])
    other.make("take_tail1.mp4", pictures=114 - begins, redo=resume(frame=54 - begins))
    start, shown = other.shown[1]
    assert start + begins <= 54 and np.array_equal(shown.frames, longer.frames[start + begins :])
    assert (studio.folder / "take_tail1_tail1.mp4").is_file()


def test_what_was_redone_goes_on_by_its_own_story_alone(studio, story):
    """Neither a snapshot nor a prompt of what was cut off comes back."""
    studio.make(pictures=90, script=scripted(CHANGES))
    studio.make(pictures=45, redo=resume(frame=33, prompt="9"))
    studio.make(pictures=90, redo=resume())
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    other.make(pictures=93, script=scripted({2: CHANGES[2], 3: Prompt(0, "9", "smooth")}))
    assert np.array_equal(studio.frames, other.frames)


def test_a_redo_while_it_runs_ends_one_session_and_begins_the_next_in_the_same_take(studio, whole):
    asked = []

    def watch(session):
        note = session.note_block

        def note_block(frames, seconds):
            note(frames, seconds)
            if session.live.block == 5 and not asked:
                asked.append(session)
                session.live.ask(Message("me", 1, "redo", "9", "smooth", frame=22, seed=3))

        session.note_block = note_block

    studio.watch = watch
    made = studio.make(pictures=69)
    assert len(studio.sessions) == 2 and asked[0].live.mailbox.acknowledged[0]["outcome"] == "done"
    assert [start for start, _ in studio.shown] == [0, 21] and made.session.writer.frames_written == 69
    assert np.array_equal(studio.frames[:21], whole[:21])
    assert not np.array_equal(studio.frames[21:33], whole[21:33])
    other = Studio(studio.folder / "other", studio.caller, studio.vae)
    script = scripted({2: Prompt(0, "9", "smooth")})
    other.make(pictures=69, script=replace(script, configs={2: replace(CONFIG, seed=3)}))
    assert np.array_equal(studio.frames, other.frames)
    assert frames_of(studio.folder / "take_tail1.mp4") == 57 - 16
    assert [told["prompt"] for told in made.session.live.prompts] == ["0", "9"]


def test_a_redo_that_is_stopped_on_its_way_has_lost_no_picture(studio):
    studio.make(pictures=57, policy=Policy(every_seconds=1e6))
    before = pixels(studio.folder / "take.mp4")
    studio.watch = lambda session: setattr(session, "stopping", True)
    studio.make(pictures=57, redo=resume(frame=40, seed=5))
    left = pixels(studio.folder / "take.mp4")
    assert 0 < len(left) < 40, "it was on its way"
    tail = TakeFolder(studio.folder / "take_tail1.mp4")
    begins = tail.read_about().first_frame
    assert begins <= len(left) and np.array_equal(pixels(tail.video), before[begins:])


def test_a_redo_that_cannot_be_is_refused_and_the_run_goes_on(studio, whole):
    def watch(session):
        note = session.note_block

        def note_block(frames, seconds):
            note(frames, seconds)
            if session.live.block == 3:
                session.live.ask(Message("me", 1, "redo", "a dog", "smooth", frame=9))

        session.note_block = note_block

    studio.watch = watch
    studio.make(pictures=57)
    (told,) = studio.sessions[0].live.mailbox.acknowledged
    assert told["outcome"] == "refused" and "invalid literal" in told["sentence"]
    assert len(studio.sessions) == 1 and np.array_equal(studio.frames, whole[:57])


@pytest.mark.parametrize("what", ["prompt", "length", "frame", "model", "lock"])
def test_what_cannot_be_gone_on_with_is_refused_before_anything_is_changed(studio, what):
    studio.make(pictures=45)
    video = studio.folder / "take.mp4"
    before = content(studio.folder)
    with (
        pytest.raises(ValueError, match=REFUSALS[what]),
        FileLock(video) if what == "lock" else nullcontext(),
    ):
        studio.make(**{
            "prompt": {"redo": resume(frame=9, prompt="a dog")},
            "length": {"redo": resume(), "pictures": 40},
            "frame": {"redo": resume(frame=45)},
            "model": {"redo": resume(frame=9), "config": replace(CONFIG, block_frames=1)},
            "lock": {"redo": resume(frame=9), "pictures": 60},
        }[what])  # fmt: skip
    assert content(studio.folder) == before
    studio.make(pictures=57, redo=resume())
    assert len(studio.frames) == 57


@pytest.mark.parametrize("how", ["planned", "cut off"])
def test_a_resume_that_fails_before_its_first_block_leaves_how_the_take_ended(studio, monkeypatch, how):
    studio.make(pictures=45)
    folder = TakeFolder(studio.folder / "take.mp4")
    if how == "cut off":
        folder.write_about(replace(folder.read_about(), ended=None))
    before = content(studio.folder)
    for error in (ValueError("other weights"), KeyboardInterrupt()):
        with monkeypatch.context() as patched, pytest.raises(type(error)):
            patched.setattr(studio.caller, "when_unloaded", lambda *_, error=error: raised(error))
            studio.make(pictures=57, redo=resume(), policy=replace(EVERY, stays=False))
        assert content(studio.folder) == before


def test_a_second_before_all_snapshots_is_refused_by_that_name(studio):
    studio.make(pictures=45)
    folder = TakeFolder(studio.folder / "take.mp4")
    for each in folder.snapshots()[:-1]:
        each.path.unlink()
    before = content(studio.folder)
    with pytest.raises(ValueError, match=r"no whole snapshot .* goes on from second 2\.8; choose one after"):
        studio.make(redo=resume(frame=20))
    assert content(studio.folder) == before
    studio.make(pictures=57, redo=resume())
    assert len(studio.frames) == 57


def raised(error):
    raise error


def test_another_takes_folder_is_no_place_for_a_new_one(studio, whole):
    studio.make(pictures=33)
    video = studio.folder / "take.mp4"
    video.unlink()
    with pytest.raises(ValueError, match=r"of an earlier take\.mp4 that is not: resume that take"):
        studio.make(pictures=33)
    assert len(TakeFolder(video).snapshots()) > 1 and not video.exists()
    # one that was killed before its first picture has nothing to lose
    for each in TakeFolder(video).snapshots()[1:]:
        each.path.unlink()
    studio.shown.clear()
    studio.make(pictures=33, begin=studio.begin(replace(CONFIG, seed=8)))
    assert not np.array_equal(studio.frames, whole[:33])
    assert {event.seed for event in read(TakeFolder(video).timeline)} == {8}


REFUSALS = {
    "prompt": "invalid literal",
    "length": r"has 2\.8 s up to there already, and is to have 2\.5 s",
    "frame": "has 45 pictures, and none of them is number 45",
    "model": "block",
    "lock": "is being written by",
}


def content(folder):
    """Every file and what is in it."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def pixels(path):
    """The pictures of a video as they play."""
    decoder = Decoder(decode_command(find_ffmpeg(), path, fps=Fraction(FPS)))
    shown = []
    while (picture := decoder.read()) is not None:
        shown.append(picture)
    assert decoder.close() == (0, "")
    return np.stack(shown)

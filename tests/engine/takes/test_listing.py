"""What a folder's takes are, how they stand, and what is said of each that cannot be gone on with."""

import json
import os
import shutil

import pytest
from rivulet.model_patches.takes.folder import SnapshotFile, TakeFolder
from rivulet.model_patches.takes.listing import describe, list_takes
from rivulet.model_patches.takes.point import find_point
from rivulet.model_patches.takes.timeline_file import Event, append
from rivulet.model_patches.writer.lock import FileLock
from rivulet.model_patches.writer.parts import Part, frames_of, part_path, trim

from .made import Studio, resume


@pytest.fixture(scope="module")
def original(models, tmp_path_factory):
    """Returns a folder with one take of 45 pictures that came to its planned end."""
    studio = Studio(tmp_path_factory.mktemp("original"), *models)
    studio.make(pictures=45)
    return studio.folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "out")
    return tmp_path / "out"


def only(folder):
    (take,) = list_takes(folder)
    return take


def newest(folder):
    return TakeFolder(folder / "take.mp4").snapshots()[-1].path


def test_a_whole_take_is_listed_with_what_there_is_to_know(folder):
    take = only(folder)
    assert (take.path, take.frames, take.seconds, take.fps) == (folder / "take.mp4", 45, 45 / 16, 16.0)
    assert (take.width, take.height, take.standing, take.text) == (32, 16, "whole", "0")
    assert take.can_go_on and take.snapshots >= 2 and take.picture == folder / "take.take" / "picture.jpg"
    assert "redo it from any second" in take.reason


@pytest.mark.parametrize(("frame", "shown"), [(44, "1"), (45, "0")])
def test_a_prompt_that_the_file_does_not_reach_is_not_its_prompt(folder, frame, shown):
    """A redo that was stopped on its way has the prompt in its timeline, and no picture of it."""
    append(TakeFolder(folder / "take.mp4").timeline, Event(4, frame, "1", "recache", 0))
    assert only(folder).text == shown


def cut_off(folder):
    about = TakeFolder(folder / "take.mp4").about
    about.write_text(json.dumps(json.loads(about.read_text()) | {"ended": None}))


def failed(folder):
    about = TakeFolder(folder / "take.mp4").about
    ended = {"how": "failed", "sentence": "The card was full."}
    about.write_text(json.dumps(json.loads(about.read_text()) | {"ended": ended}))


def deleted(folder):
    (folder / "take.mp4").unlink()


def renamed(folder):
    (folder / "take.mp4").rename(folder / "mine.mp4")


def no_folder_but_a_part(folder):
    (folder / "take.mp4").rename(part_path(folder / "take.mp4", 1))
    shutil.rmtree(folder / "take.take")


def no_snapshots(folder):
    for each in TakeFolder(folder / "take.mp4").snapshots():
        each.path.unlink()


def all_half_written(folder):
    for each in TakeFolder(folder / "take.mp4").snapshots():
        os.truncate(each.path, each.bytes // 2)


def not_json(folder):
    TakeFolder(folder / "take.mp4").about.write_bytes(b"\0\0")


def another_version(folder):
    about = TakeFolder(folder / "take.mp4").about
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": 99}))


def earlier_release(folder):
    shutil.rmtree(folder / "take.take")
    (folder / "take.snapshot.safetensors").write_bytes(b"")


def video_cut_short(folder):
    """The end of the file, and all snapshots of its beginning, are gone."""
    for each in TakeFolder(folder / "take.mp4").snapshots()[:-1]:
        each.path.unlink()
    (folder / "take.mp4").write_bytes(b"")


STANDINGS = [
    (cut_off, "cut off", "The run was cut off: resume it"),
    (failed, "stopped", "The run failed (The card was full): mend that, and resume it"),
    (deleted, "broken", "take.mp4 is not there: put it back under this name; or resume it"),
    (renamed, "broken", "put it back under this name"),
    (no_folder_but_a_part, "broken", "It has no snapshot: `python run.py recover take.mp4`"),
    (no_snapshots, "broken", "It has no snapshot: the video plays, and you can begin a new video"),
    (all_half_written, "broken", "No snapshot of it can be read"),
    (earlier_release, "broken", "Its snapshot is of an earlier release: the video plays"),
    (not_json, "cut off", "resume it"),
    (another_version, "cut off", "resume it"),
    (video_cut_short, "broken", "holds 0 pictures, fewer than its snapshots go on from"),
]


@pytest.mark.parametrize(
    ("change", "standing", "words"), STANDINGS, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_happened_to_a_take_is_told_with_what_can_still_be_done(folder, change, standing, words):
    change(folder)
    take = only(folder)
    assert take.standing == standing and words in take.reason
    assert take.can_go_on == ("resume it" in take.reason), take.reason
    assert "\n" not in take.reason and take.reason.endswith(".")
    assert str(folder) not in take.reason


def test_a_take_that_runs_is_told(folder):
    with FileLock(folder / "take.mp4"):
        take = only(folder)
        assert (take.standing, take.can_go_on, take.frames) == ("running", False, 45)
    assert only(folder).standing == "whole"


def test_a_lock_that_a_dead_run_left_says_nothing(folder):
    (folder / "take.lock").write_text('{"pid": 1}')
    assert only(folder).standing == "whole"


def test_newest_first_and_folders_below_and_links_are_looked_into_once(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere / "deep")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "deep" / "back").symlink_to(folder, target_is_directory=True)
    old = folder / "take.take"
    for path in (old, folder / "take.mp4", *old.iterdir()):
        os.utime(path, (1e9, 1e9))
    found = [take.path.relative_to(folder).as_posix() for take in list_takes(folder)]
    assert found == ["linked/deep/take.mp4", "take.mp4"]
    assert list_takes(tmp_path / "nowhere") == []


def altered(path):
    """One byte in the middle is another."""
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", ["cut", "altered", "empty", "renamed"])
def test_a_broken_newest_snapshot_is_passed_over_with_the_reason(folder, harm, models, whole):
    path = newest(folder)
    if harm == "renamed":
        TakeFolder(folder / "take.mp4").snapshots()[0].path.replace(path)
    elif harm == "altered":
        altered(path)
    else:
        os.truncate(path, path.stat().st_size // 2 if harm == "cut" else 0)
    take = TakeFolder(folder / "take.mp4")
    point = find_point(take)
    assert point.header.block < 4 and len(point.passed) == 1 and "after block 4" in point.passed[0]
    assert (point.block, point.frame, point.replay_blocks) == (4, 45, 4 - point.header.block)
    studio = Studio(folder, *models)
    studio.make(pictures=57, redo=resume())
    start, shown = studio.shown[0]
    assert (shown.frames == whole[start:57]).all() and newest(folder).name.startswith("00000005")


@pytest.mark.parametrize("frames", [44, 33, 20, 9, 3])
def test_a_snapshot_that_the_video_has_not_come_to_is_passed_over(folder, frames, models, whole):
    video = folder / "take.mp4"
    trim(Part(video, 0, 45), frames)
    assert frames_of(video) == frames
    point = find_point(TakeFolder(video))
    assert point.start_frame <= frames and any("the video holds" in why for why in point.passed)
    studio = Studio(folder, *models)
    studio.make(pictures=57, redo=resume())
    start, shown = studio.shown[0]
    assert start <= frames and (shown.frames == whole[start:57]).all() and frames_of(video) == 57


def test_snapshots_of_what_comes_to_be_another_go(folder, models):
    """One that stayed would bring back the old story where the new one has the same block and picture."""
    trim(Part(folder / "take.mp4", 0, 45), 21)
    Studio(folder, *models).make(pictures=33, redo=resume(prompt="9"))
    assert newest(folder).name.startswith("00000003_000000033")


def test_a_deleted_video_is_made_again_from_its_start(folder, models, whole):
    deleted(folder)
    studio = Studio(folder, *models)
    studio.make(pictures=57, redo=resume())
    assert studio.shown[0][0] == 0 and (studio.frames == whole[:57]).all()


@pytest.mark.parametrize("change", [no_snapshots, all_half_written], ids=lambda change: change.__name__)
def test_where_there_is_nothing_to_go_on_from_a_sentence_says_what_to_do(folder, change):
    change(folder)
    with pytest.raises(ValueError, match=r"nothing to go on from in take\.mp4: .*Start From") as why:
        find_point(TakeFolder(folder / "take.mp4"))
    assert len(str(why.value)) < 1500


def test_a_take_whose_own_file_is_lost_goes_on_by_its_snapshots(folder, models, whole):
    not_json(folder)
    studio = Studio(folder, *models)
    studio.make(pictures=57, redo=resume())
    start, shown = studio.shown[0]
    assert (shown.frames == whole[start:57]).all()
    assert describe(folder / "take.mp4").standing == "whole"


def test_a_take_whose_timeline_is_lost_goes_on(folder, models, whole):
    TakeFolder(folder / "take.mp4").timeline.unlink()
    studio = Studio(folder, *models)
    studio.make(pictures=57, redo=resume())
    start, shown = studio.shown[0]
    assert (shown.frames == whole[start:57]).all()


def test_snapshots_are_sorted_by_what_they_are_of(folder):
    one = TakeFolder(folder / "take.mp4").snapshots()[0]
    assert isinstance(one, SnapshotFile) and one.order == (0, 0)

"""Deleting a take: what is its own goes, what is another's stays, and nothing while it is made."""

from pathlib import Path

import pytest
from rivulet.model_patches.takes.delete import delete_take
from rivulet.model_patches.takes.folder import About, TakeFolder
from rivulet.model_patches.viewers.takes import ALL, SNAPSHOTS, BusyError
from rivulet.model_patches.writer.lock import FileLock
from rivulet.model_patches.writer.sound import kept_sound

OTHERS = ("take_2.mp4", "take.part1.txt", "takes.mp4", "take.mp4.bak", "other.part1.mp4", "atake.mp4")
PARTS = (
    *("take.mp4", "take.part1.mp4", "take.part12.mp4", "take.joined.mp4", "take.snapshot.safetensors"),
    *("take.mp4.joining", "take.mp4.joining.tags", "take.part1.mp4.joining"),
)


@pytest.fixture
def folder(tmp_path):
    """Returns a take with all that may be of it, among files that are not."""
    for name in (*OTHERS, *PARTS):
        (tmp_path / name).write_bytes(b"x")
    made = TakeFolder(tmp_path / "take.mp4")
    made.open()
    made.write_about(About(0, 16.0, 64, 64, 0.0))
    for path in (
        made.snapshot(0, 0),
        made.snapshot(1, 9, marked=True),
        made.timeline,
        made.watch,
        made.picture,
        kept_sound(made.video),
    ):
        path.write_bytes(b"x")
    (made.path / "00000002_000000021.safetensors.part").write_bytes(b"x")
    other = TakeFolder(tmp_path / "take_2.mp4")
    other.open()
    return made


def names(path: Path):
    return {each.name for each in path.iterdir()}


def test_all_of_it_goes_and_nothing_else(folder, tmp_path):
    delete_take(folder, ALL)
    assert names(tmp_path) == {*OTHERS, "take_2.take"}


def test_the_snapshots_alone_leave_the_video(folder, tmp_path):
    for part in tmp_path.glob("take.part*.mp4"):
        part.unlink()
    delete_take(folder, SNAPSHOTS)
    assert names(tmp_path) == {*OTHERS, *PARTS, "take_2.take"} - {"take.part1.mp4", "take.part12.mp4"}


def test_parts_that_stay_keep_the_sound_that_joining_lays_under_them(folder, tmp_path):
    delete_take(folder, SNAPSHOTS)
    assert names(tmp_path) == {*OTHERS, *PARTS, "take.take", "take_2.take"}
    assert names(folder.path) == {"sound.m4a"}


def test_while_it_is_made_nothing_goes(folder, tmp_path):
    before = names(tmp_path)
    with FileLock(folder.video), pytest.raises(BusyError, match="is being made now"):
        delete_take(folder, ALL)
    assert names(tmp_path) - {"take.lock"} == before and len(names(folder.path)) == 8


def test_what_somebody_put_there_stays_and_is_told(folder, tmp_path):
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"it holds notes\.txt"):
        delete_take(folder, ALL)
    assert names(folder.path) == {"notes.txt"} and not folder.video.exists()


def test_a_link_to_a_folder_elsewhere_is_not_followed(tmp_path):
    elsewhere = TakeFolder(tmp_path / "elsewhere" / "take.mp4")
    elsewhere.path.mkdir(parents=True)
    elsewhere.snapshot(0, 0).write_bytes(b"x")
    here = TakeFolder(tmp_path / "take.mp4")
    here.path.symlink_to(elsewhere.path, target_is_directory=True)
    here.video.write_bytes(b"x")
    delete_take(here, ALL)
    assert names(elsewhere.path) == {"00000000_000000000.safetensors"} and not here.video.exists()


@pytest.mark.parametrize("what", [ALL, SNAPSHOTS])
def test_a_folder_that_is_called_like_one_makes_no_take_of_a_video(tmp_path, what):
    made = TakeFolder(tmp_path / "holiday.mp4")
    made.path.mkdir()
    made.video.write_bytes(b"mine")
    (made.path / "letter.part").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds nothing of a take"):
        delete_take(made, what)
    assert names(tmp_path) == {"holiday.mp4", "holiday.take"} and names(made.path) == {"letter.part"}

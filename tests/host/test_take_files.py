"""Takes in the output folder: found newest first, named by their videos, and none outside it."""

import os

import pytest


@pytest.fixture
def output(comfyui, tmp_path, monkeypatch):
    """Returns a function that puts a take into the output folder, so many seconds old."""
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(folder))

    def put(name, age=0, under=folder):
        video = under / name
        taken = video.with_suffix(".take")
        taken.mkdir(parents=True)
        video.touch()
        os.utime(taken, (1e9 - age, 1e9 - age))
        return video

    put.folder = folder
    return put


def test_they_are_listed_newest_first_by_their_videos(output):
    from rivulet.nodes.run.take_files import list_names

    output("a.mp4", age=3)
    output("rivulet/v1.5_b.mp4", age=1)
    output("c.mp4", age=2)
    (output.folder / "other.mp4").touch()
    assert list_names() == ["rivulet/v1.5_b.mp4", "c.mp4", "a.mp4"]


def test_links_are_followed_once(output, tmp_path):
    from rivulet.nodes.run.take_files import find_take, list_names

    output("far.mp4", under=tmp_path / "elsewhere")
    (output.folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(output.folder)
    assert list_names() == ["link/far.mp4"]
    assert find_take("x", "link/far.mp4").is_file()


def test_an_output_folder_that_is_gone_has_no_takes(output):
    from rivulet.nodes.run.take_files import list_names

    output.folder.rmdir()
    assert list_names() == []


@pytest.mark.parametrize(
    "named",
    [
        "rivulet/a.mp4",
        "rivulet\\a.mp4",
        "rivulet/a.snapshot.safetensors",
        "rivulet/a.take/00000001_000000009.safetensors",
    ],
)
def test_a_take_is_found_by_its_video_and_by_its_snapshots(output, named):
    from rivulet.nodes.run.take_files import find_take, name_of

    video = output("rivulet/a.mp4")
    assert find_take("x", named) == video and name_of(video) == "rivulet/a.mp4"


def test_a_take_whose_video_is_gone_is_found_for_what_can_be_said_of_it(output):
    from rivulet.nodes.run.take_files import find_take

    video = output("a.mp4")
    video.unlink()
    assert find_take("x", "a.mp4") == video


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("../a.mp4", "lies outside"),
        ("rivulet/../../a.mp4", "lies outside"),
        ("/etc/a.mp4", "lies outside"),
        ("C:/a.mp4", "lies outside"),
        ("..\\a.mp4", "lies outside"),
        ("none.mp4", "there is no take 'none.mp4'"),
        ("n" * 3000, "there is no take"),
        ("", "there is no take"),
        ("a\0b.mp4", "there is no take"),
    ],
)
def test_what_is_no_take_is_refused_in_words(output, named, words):
    from rivulet.nodes.run.take_files import find_take

    with pytest.raises(ValueError, match=f"^Resume Stream: .*{words}") as refused:
        find_take("Resume Stream", named)
    assert len(str(refused.value)) < 300


def test_the_stamp_changes_with_the_take_unless_its_own_run_did_it(output):
    from rivulet.nodes.run.take_files import TakeStamps

    video, stamps = output("a.mp4"), TakeStamps()
    first = stamps.stamp("x", "a.mp4")
    os.utime(video, (5, 5))
    stamps.settle(video)
    assert stamps.stamp("x", "a.mp4") == first
    os.utime(video, (6, 6))
    second = stamps.stamp("x", "a.mp4")
    assert second != first == TakeStamps().stamp("x", "a.mp4").replace("6000000000", first.split()[1])

"""The folder of a take: names, what it says of itself, what happened when, and which snapshots go."""

import json
import os
from itertools import pairwise

import pytest
from rivulet.model_patches.takes.folder import About, Ended, SnapshotFile, TakeFolder, write_text
from rivulet.model_patches.takes.thin import NEWEST, to_drop
from rivulet.model_patches.takes.timeline_file import Event, append, at_border, read, rewrite

ABOUT = About(first_frame=0, fps=16.0, width=32, height=16, begun=1e9)


@pytest.fixture
def folder(tmp_path):
    made = TakeFolder(tmp_path / "take.mp4")
    made.open()
    return made


def test_snapshots_are_known_by_their_names_in_the_order_of_the_stream(folder):
    marks = {(0, 0): False, (9, 105): True, (10, 117): False, (9, 93): False, (100000, 1200000): False}
    for (block, frame), marked in marks.items():
        folder.snapshot(block, frame, marked=marked).write_bytes(b"four")
    for other in ("take.json", "1_2.safetensors.part", "x_2.safetensors", "-1_2.safetensors"):
        (folder.path / other).write_bytes(b"")
    (folder.path / "7_8.safetensors").mkdir()
    found = folder.snapshots()
    assert [each.order for each in found] == sorted(marks)
    assert [each.marked for each in found] == [marks[order] for order in sorted(marks)]
    assert {each.bytes for each in found} == {4}
    # the clock of the files says nothing
    os.utime(found[0].path, (4e9, 4e9))
    assert folder.snapshots()[0] == found[0]


def test_what_a_killed_run_was_writing_goes_when_the_folder_is_opened(folder):
    for name in ("00000001_000000009.safetensors.part", "take.json.new", "picture.jpg.new"):
        (folder.path / name).write_bytes(b"half")
    folder.snapshot(1, 9).write_bytes(b"")
    folder.open()
    assert [path.name for path in folder.path.iterdir()] == [folder.snapshot(1, 9).name]


def test_a_video_without_a_folder_has_no_snapshots(tmp_path):
    assert TakeFolder(tmp_path / "none.mp4").snapshots() == []


@pytest.mark.parametrize("ended", [None, Ended("planned"), Ended("failed", "the card was full")])
def test_what_a_take_is_comes_back(folder, ended):
    about = About(96, 23.976, 832, 480, 1.5e9, ended)
    folder.write_about(about)
    assert folder.read_about() == about
    assert [path.name for path in folder.path.iterdir()] == ["take.json"]


ALTERED = {
    "nothing": b"",
    "half": b'{"kind": "rivulet take", "ver',
    "a list": b"[1]",
    "another kind": b'{"kind": "rivulet stream", "version": 1}',
    "another version": {"version": 2},
    "NaN fps": {"fps": float("nan")},
    "no fps": {"fps": 0},
    "a text": {"width": "32"},
    "a flag": {"first_frame": True},
    "before the start": {"first_frame": -1},
    "an odd end": {"ended": {"how": "bored"}},
    "deep": b"[" * 60000,
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_what_was_altered_is_told_in_a_sentence(folder, change):
    folder.write_about(ABOUT)
    if isinstance(change, bytes):
        folder.about.write_bytes(change)
    else:
        folder.about.write_text(json.dumps(json.loads(folder.about.read_text()) | change))
    with pytest.raises(ValueError, match=r"take\.json"):
        folder.read_about()


def test_a_file_that_cannot_be_written_leaves_the_one_before(folder, monkeypatch):
    folder.write_about(ABOUT)

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(folder.about, "{}")
    assert folder.read_about() == ABOUT and len(list(folder.path.iterdir())) == 1


EVENTS = [
    Event(0, 0, "a red circle", "", 5),
    Event(4, 45, "a cat \ud800", "recache", 5),
    Event(4, 45, None, "", 9),
]


def test_what_happened_comes_back_in_the_order_of_the_blocks(folder):
    for event in (EVENTS[1], EVENTS[0], EVENTS[2]):
        append(folder.timeline, event)
    assert read(folder.timeline) == EVENTS
    rewrite(folder.timeline, EVENTS[:1])
    assert read(folder.timeline) == EVENTS[:1]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_cut_costs_no_other(folder, cut):
    for event in EVENTS[:2]:
        append(folder.timeline, event)
    os.truncate(folder.timeline, folder.timeline.stat().st_size - cut)
    assert read(folder.timeline) == EVENTS[: 2 if cut == 1 else 1]
    append(folder.timeline, EVENTS[2])
    assert read(folder.timeline)[-1] == EVENTS[2] and read(folder.timeline)[0] == EVENTS[0]


def test_lines_that_are_no_events_are_left_out(folder):
    bad = [
        {"block": -1},
        {"frame": 1.5},
        {"prompt": 3},
        {"prompt": " "},
        {"mode": "fade"},
        {"seed": True},
        {"x": 1},
    ]
    good = {"block": 0, "frame": 0, "prompt": "a dog", "mode": "cut", "seed": -3}
    lines = [json.dumps(good | change) for change in bad]
    folder.timeline.write_text("\n".join([*lines, "[" * 60000, "7", json.dumps(good)]))
    assert read(folder.timeline) == [Event(**good)]


@pytest.mark.parametrize(
    ("modes", "together"),
    [
        (["cut", "smooth"], "cut"),
        (["recache", "smooth"], "recache"),
        (["recache", "cut"], "cut"),
        (["shot", "cut"], "cut"),
        (["shot", "recache"], "shot"),
        (["recache", "shot", "smooth"], "shot"),
        (["smooth", "recache"], "recache"),
        (["smooth", "smooth"], "smooth"),
        (["blend"], "blend"),
    ],
)
def test_switches_at_one_border_are_as_one(modes, together):
    events = [Event(3, 33, f"prompt {number}", mode, 1) for number, mode in enumerate(modes)]
    assert at_border(events) == Event(3, 33, f"prompt {len(modes) - 1}", together, 1)


def row(count, each=10, marked=()):
    """Snapshots every 100 frames."""
    return [SnapshotFile(None, n, 100 * n, n in marked, each) for n in range(count)]


def test_nothing_goes_within_the_budget():
    assert to_drop(row(20), 200) == []


def test_gaps_grow_with_age_and_the_first_and_the_newest_stay():
    here = row(200)
    dropped = to_drop(here, 200)
    kept = [each.block for each in here if each not in dropped]
    assert len(kept) == 20 and kept[0] == 0 and kept[-NEWEST:] == [197, 198, 199]
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert gaps[0] > 5 * gaps[-4] and max(gaps) == max(gaps[:3])
    # no gap is far larger than its age asks for
    assert all(gap <= 0.6 * (199 - start) for gap, start in zip(gaps[:-4], kept, strict=False))


def test_marked_ones_go_last():
    marked = set(range(20, 30))
    kept = [each for each in row(100, marked=marked) if each not in to_drop(row(100, marked=marked), 140)]
    assert {each.block for each in kept} == marked | {0, 97, 98, 99}
    few = [each for each in row(100, marked=marked) if each not in to_drop(row(100, marked=marked), 80)]
    assert len(few) == 8 and {0, 97, 98, 99} < {each.block for each in few}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_the_first_and_the_newest_stay_whatever_the_budget(count):
    assert to_drop(row(count), 0) == []

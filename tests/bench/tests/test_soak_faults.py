"""`soak --faults`: takes of a maker without a model become whole, and each way of going wrong is seen."""

import io
import json
import os
import struct
import time
from random import Random

import pytest
import torch
from rivulet.tests.bench import soak_faults_disk as disk
from rivulet.tests.bench import soak_faults_trials as trials_module
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.soak_faults_child import ENDED, WHOLE, children, fork, wait
from rivulet.tests.bench.soak_faults_kinds import BROKEN, Fault
from rivulet.tests.bench.soak_faults_rows import together, told
from rivulet.tests.bench.soak_faults_takes import Take, append, note, others, setups
from rivulet.tests.bench.soak_faults_trials import Trials

PICTURES = 6
SETUP = setups()[0]


class Broken(Fault):
    """The maker's second picture raises."""

    def inside(self):
        self.strike()
        return super().inside()


BROKEN_ALONE = {"broken": (Broken, 1)}


class Toy:
    """A maker whose pictures are numbers; what is wrong with it is given."""

    name, file, is_exact = "toy", "take.mp4", True
    kinds = BROKEN_ALONE

    def __init__(self, **wrong):
        self.wrong = wrong

    def ready(self, setup):
        pass

    def begin(self, take):
        struck = (take.beside / "struck").exists()
        snapshot = take.folder / "take.take" / "000001_00000003.safetensors"
        first = 3 if snapshot.exists() and not self.wrong.get("loses") else 0
        append(take.goes, {"first": first})
        for frame in range(first, PICTURES):
            if struck and frame == 4 and self.wrong.get("stops"):
                return
            if struck and frame == 4:
                raise self.wrong.get("error", RuntimeError(BROKEN))
            value = frame + self.wrong.get("adds", 0) * (first > 0)
            note(take, frame, torch.full((1, 2, 2, 3), value, dtype=torch.uint8))
            with (take.folder / "take.part1.mp4").open("ab") as file:
                file.write(fragment())
            if frame == 3:
                snapshot.parent.mkdir(exist_ok=True)
                snapshot.write_bytes(b"state")
        (take.folder / "take.part1.mp4").rename(take.video)
        if left := self.wrong.get("leaves"):
            (take.folder / left).touch()


def fragment():
    return struct.pack(">I4s", 8, b"moof") + struct.pack(">I4s", 9, b"mdat") + b"x"


@pytest.fixture
def struck(tmp_path, monkeypatch):
    """Returns a function that has a toy's takes struck: (rows, what was said)."""
    monkeypatch.setattr(trials_module, "frames_in", lambda path: PICTURES)
    monkeypatch.setattr(trials_module, "picture_sums", lambda path: ["same"])
    monkeypatch.setattr(disk, "small_disk", lambda folder: pytest.fail("no mount in a test"))
    monkeypatch.setattr(trials_module, "due", lambda maker, take: lambda: maker.begin(take))

    def run(**wrong):
        said = []
        trials = Trials(Toy(**wrong), tmp_path, 0, said.append)
        for _ in range(2):
            trials.trial(SETUP, ["broken"], Random(0))
        rows = Rows("soak faults", True, io.StringIO())
        part = told(trials, rows)
        return part, said, [json.loads(line) for line in rows.out.getvalue().splitlines()]

    return run


def test_takes_that_are_struck_become_whole_and_are_counted(struck):
    part, said, rows = struck()
    assert part["ok"] and said == []
    assert part["struck_trials"] == part["resumed_trials"] == part["takes_trials"] == 2
    # four pictures, then three more from the one that a snapshot covers
    assert part["compared_frames"] == 2 * (4 + 3)
    assert [row["case"] for row in rows if row["row"] == "faults"] == ["broken", "none"]


def test_a_run_that_stops_in_order_before_a_full_disk_is_gone_on_with(struck):
    part, said, _ = struck(stops=True)
    assert part["ok"] and said == []
    assert part["resumed_trials"] == 2 and part["compared_frames"] == 2 * (4 + 3)


@pytest.mark.parametrize(
    ("wrong", "what", "count"),
    [
        ({"adds": 9}, "pictures are others", "other_frames"),
        ({"loses": True}, "were kept", "lost_frames"),
        ({"error": KeyError("shape")}, "ended with KeyError", "raw_trials"),
        ({"leaves": "take.joining.mp4"}, "left take.joining.mp4", "unfinished_trials"),
    ],
)
def test_what_goes_wrong_is_said_and_counted(struck, wrong, what, count):
    part, said, _ = struck(**wrong)
    assert not part["ok"] and part[count] and any(what in each for each in said)


def test_a_file_that_shows_other_pictures_is_seen(struck, monkeypatch):
    shown = iter((["same"], ["same"], ["other"]))
    monkeypatch.setattr(trials_module, "picture_sums", lambda path: next(shown))
    part, said, _ = struck()
    assert part["unfinished_trials"] == 1 and "shows other pictures" in said[0]


def test_pictures_are_compared_by_their_numbers():
    made = [{"frame": 0, "is": "a"}, {"frame": 1, "is": "x"}, {"frame": 2, "is": "c"}]
    assert others(made, ["a", "b"]) == [1, 2]


def test_a_childs_end_is_told(tmp_path):
    def fail():
        raise ValueError("Take: no")

    assert wait(fork(lambda: None, tmp_path), tmp_path, lambda *_: None, 60).status == WHOLE
    ending = wait(fork(fail, tmp_path), tmp_path, lambda *_: None, 60)
    assert (ending.status, ending.kind, ending.said) == (ENDED, "ValueError", "Take: no")
    ending = wait(fork(lambda: os.kill(os.getpid(), 9), tmp_path), tmp_path, lambda *_: None, 60)
    assert ending.status == -9 and not ending.is_hung


def test_a_child_that_hangs_is_ended_and_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr("rivulet.tests.bench.soak_faults_child.AFTER_SECONDS", 0.5)
    ending = wait(fork(lambda: time.sleep(60), tmp_path), tmp_path, lambda *_: None, 0.3)
    assert ending.is_hung and ending.status == -9
    assert "test_soak_faults.py" in (tmp_path / "said.txt").read_text()


def test_children_are_found(tmp_path):
    seen = []
    pid = fork(lambda: time.sleep(0.5), tmp_path)
    wait(pid, tmp_path, lambda *_: seen.append(pid in children(os.getpid())), 60)
    assert seen[0]


@pytest.fixture
def take(tmp_path):
    """A take of two whole frames and the beginning of a third, with a snapshot at each."""
    made = Take(SETUP, tmp_path / "take", tmp_path, "take.mp4")
    snapshots = made.folder / "take.take"
    snapshots.mkdir(parents=True)
    (made.folder / "take.part1.mp4").write_bytes(fragment() * 3)
    os.truncate(made.folder / "take.part1.mp4", 3 * len(fragment()) - 1)
    for frame in (1, 2, 3):
        (snapshots / f"{frame:06}_{frame:08}.safetensors").write_bytes(b"state")
    return made


def on_disk(take, *paths, size=None):
    """Notes that these were told to be on disk, and their folder after them."""
    for path in paths:
        about = path.stat()
        append(take.fsyncs, {"file": about.st_ino, "bytes": size or about.st_size, "folder": False})
        append(take.fsyncs, {"file": path.parent.stat().st_ino, "bytes": 0, "folder": True})


def test_what_a_snapshot_covers_and_the_file_holds_is_committed(take):
    now = disk.standing(take)
    assert now.frames == 2 and now.committed() == 2
    newest = max(now.snapshots, key=now.snapshots.get)
    assert now.committed({newest.stat().st_ino}) == 2
    assert now.committed({path.stat().st_ino for path, at in now.snapshots.items() if at > 1}) == 1


def test_what_survives_a_loss_of_power_was_told_to_be_on_disk(take):
    part, snapshots = disk.standing(take).parts[0], sorted(disk.standing(take).snapshots)
    assert disk.surviving(take) == 0
    on_disk(take, *snapshots)
    assert disk.surviving(take) == 0
    on_disk(take, part, size=len(fragment()))
    assert disk.surviving(take) == 1
    for seed in range(40):
        kept = part.read_bytes()
        disk.lose_power(take, Random(seed))
        assert disk.standing(take).committed() >= 1
        assert all(path.read_bytes() == b"state" for path in snapshots)
        part.write_bytes(kept)


def test_a_flip_turns_one_bit_and_a_cut_shortens(take):
    path = max(disk.standing(take).snapshots)
    disk.flip(path, Random(0))
    changed = [a ^ b for a, b in zip(path.read_bytes(), b"state", strict=True) if a != b]
    assert len(changed) == 1 and bin(changed[0]).count("1") == 1
    disk.cut(path, Random(0))
    assert path.stat().st_size < 5


def test_parts_are_summed():
    one = {"struck_trials": 2, "other_frames": 1, "ok": True, "target": "a"}
    assert together([one, one]) == {"struck_trials": 4, "other_frames": 2}

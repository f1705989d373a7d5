"""The drift watch: what it sees in pictures that are known, and that a stream never waits for it."""

import json
import logging
import threading
import time

import numpy as np
import pytest
import torch
from rivulet.model_patches.takes import curve, watch
from rivulet.model_patches.takes.curve import LINES_BEFORE_COARSER, MOST_POINTS, Curve, CurveFile, Point, read
from rivulet.model_patches.takes.measures import Seconds, border_ratio, measure
from rivulet.model_patches.takes.verdict import WINDOW_SECONDS, Verdict
from rivulet.model_patches.takes.watch import MOST_WAITING, Watch
from rivulet.model_patches.writer.frames import HostFrames
from rivulet.tests.waiting import wait_for

FPS, STRIDE, BLOCK, WIDTH = 16, 4, 12, 4


def moving(first: int, count: int, speed: int = 1, jump: int = 0) -> torch.Tensor:
    """A bright bar on a dark ground that goes round; `jump` more pixels at each block's beginning."""
    pixels = torch.full((count, 48, 64, 3), 40, dtype=torch.uint8)
    for n in range(count):
        at = (first + n) * speed + (first + n) // BLOCK * jump
        pixels[n, :, (at + torch.arange(WIDTH)) % 64] = torch.tensor([200, 120, 60], dtype=torch.uint8)
    return pixels


def blocks(pixels: torch.Tensor) -> list[HostFrames]:
    return [HostFrames(each) for each in pixels.split(BLOCK)]


def points(pixels: torch.Tensor) -> list[Point]:
    seconds, found = Seconds(FPS, STRIDE), []
    for n, frames in enumerate(blocks(pixels)):
        found += seconds.take(n * BLOCK, frames.read().numpy())
    return found


def test_numbers_of_pictures_that_are_known():
    pixels = np.zeros((3, 480, 832, 3), np.uint8)
    pixels[1] = (255, 0, 128)
    pixels[2] = (255, 0, 128)
    seen = measure(pixels, None)
    assert np.isnan(seen.motion[0])
    assert seen.motion[1:] == pytest.approx([(255 + 128) / 3, 0])
    assert seen.saturation == pytest.approx([0, 1, 1]) and seen.clipped == pytest.approx([1, 2 / 3, 2 / 3])
    assert measure(pixels[2:], seen.small_FhwC[0]).motion == pytest.approx([(255 + 128) / 3])
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert measure(levels, None).clipped == pytest.approx([4 / 256])


@pytest.mark.parametrize("size", [(16, 16), (50, 64), (99, 101), (480, 832), (1080, 1920)], ids=str)
def test_the_small_picture_is_near_the_mean_of_the_whole_one(size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    small = measure(pixels, None).small_FhwC
    assert min(small.shape[1:3]) >= min(48, *size) and small.shape[3] == 3
    side = max(1, min(size) // 48)
    deviation = 74 / (min(side, 2) ** 2 * small[0, ..., 0].size) ** 0.5  # of the mean of uniform levels
    assert abs(small[0].mean() - 127.5) < 4 * deviation


def test_a_jump_at_block_borders_is_seen_beside_motion_inside():
    steady, jumping = points(moving(0, 120)), points(moving(0, 120, jump=7))
    assert all(each.jump == pytest.approx(1) for each in steady if each.jump is not None)
    # by one pixel two columns change, by eight all that the bar leaves and enters
    assert all(each.jump == pytest.approx(WIDTH) for each in jumping if each.jump is not None)
    cut = moving(0, 120)
    cut[60:] = 255 - cut[60:]
    assert max(each.jump or 0 for each in points(cut)) > 15
    assert border_ratio([1, 1, 4, 1, 1, 2], [2, 5]) == pytest.approx(3)


def test_the_same_latents_again_change_nothing_in_a_second_though_they_flicker():
    one = moving(0, 4)
    seen = points(one.repeat(20, 1, 1, 1))
    assert all(each.change == 0 and each.motion > 1 for each in seen)
    assert all(each.change > 1 for each in points(moving(0, 120)))


def test_a_second_of_which_a_block_was_not_seen_is_left_out():
    pixels, seconds, found = moving(0, 240), Seconds(FPS, STRIDE), []
    for n, frames in enumerate(blocks(pixels)):
        if n != 8:  # frames 96 to 107
            found += seconds.take(n * BLOCK, frames.read().numpy())
    assert [each.frame // 16 for each in found] == [0, 1, 2, 3, 4, *range(7, 14)]
    assert all(each.frames == 16 for each in found)


def point(frame: int, **values: float) -> Point:
    given = {"motion": 1.0, "change": 5.0, "saturation": 0.3, "clipped": 0.0, "inside": 1.0, "border": 1.5}
    return Point(frame, 16, **{**given, **values})


@pytest.mark.parametrize("seconds", [1, 120, 121, 1000, 40_000])
def test_a_curve_has_few_points_that_cover_all_of_it(seconds):
    made = Curve(16)
    for n in range(seconds):
        made.add(point(16 * n, motion=float(n)))
    told = made.told()
    assert (
        len(told["motion"]) <= MOST_POINTS
        and len({len(told[name]) for name in told if name != "frames_per_point"}) == 1
    )
    step = told["frames_per_point"]
    assert (len(told["motion"]) - 1) * step < 16 * seconds <= len(told["motion"]) * step
    whole = told["motion"][: seconds * 16 // step]  # the last may be short
    expected = [(n + 0.5) * step / 16 - 0.5 for n in range(len(whole))]
    assert whole == pytest.approx(expected, abs=1e-3)
    assert json.loads(json.dumps(told)) == told


def test_where_nothing_was_seen_a_curve_stays_as_it_was():
    made = Curve(16)
    for n in (2, 3, 6):
        made.add(point(16 * n, motion=float(n)))
    assert made.told()["motion"] == [2, 2, 2, 3, 3, 3, 6]


def test_a_file_gets_coarser_the_longer_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(curve, "LINES_BEFORE_COARSER", 10)
    file = CurveFile(tmp_path / "watch.jsonl")
    file.open(0)
    for n in range(10 + 20 + 40 + 3):
        file.add(point(16 * n))
    assert len((tmp_path / "watch.jsonl").read_text().splitlines()) == 30
    file.flush()
    kept = read(tmp_path / "watch.jsonl")
    assert [each.frames for each in kept] == [16] * 10 + [32] * 10 + [64] * 10 + [48]
    assert [one.frame + one.frames for one in kept[:-1]] == [other.frame for other in kept[1:]]
    assert LINES_BEFORE_COARSER >= 3600


def test_a_take_that_goes_on_keeps_the_lines_before_and_cuts_those_after(tmp_path):
    path = tmp_path / "watch.jsonl"
    file = CurveFile(path)
    file.open(0)
    for n in range(10):
        file.add(point(16 * n, motion=n + 0.5))
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([*lines[:3], "{broken", '{"frame": 1}', '["frame"]', lines[1], *lines[3:], lines[9][:20]])
    )
    assert [each.motion for each in CurveFile(path).open(16 * 5 + 3)] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert path.read_text().splitlines() == lines[:5]
    assert CurveFile(path).open(0) == [] and path.read_text() == ""


def watched(pixels, path=None, **options):
    told, said = [], []
    with Watch(path, FPS, STRIDE, told=told.append, tell=said.append, **options) as looks:
        for frames in blocks(pixels):
            looks.write(frames)
            wait_for(lambda: not looks._waiting)
    return looks, told, said


def test_a_moving_stream_is_followed_and_written_down_without_a_word(tmp_path):
    looks, told, said = watched(moving(0, 16 * 30), tmp_path / "watch.jsonl")
    assert looks.frames_written == 480 and not said and told[-1] == looks.state
    assert told[-1]["warning"] == "" and len(told) == 29 == len(read(tmp_path / "watch.jsonl"))
    assert set(told[-1]) == {"frames_per_point", "motion", "saturation", "clipped", "jump", "warning"}


def test_a_stream_that_stands_still_is_told_of_once_and_stopped_if_wanted(tmp_path):
    stops = []
    moves = moving(0, 16 * 12)
    still = moves[-4:].repeat(60, 1, 1, 1)
    again = moving(0, 16 * 20)
    _, told, said = watched(torch.cat([moves, still, again]), stop=lambda: stops.append(1))
    assert len(said) == len(stops) == 1 and "stood still since second 12." in said[0]
    warnings = [each["warning"] for each in told]
    assert warnings[15] == "" and warnings[25] == said[0] and warnings[-1] == ""


def test_a_stream_that_burns_out_is_told_of_once():
    pixels = moving(0, 16 * 60).int()
    pixels[16 * 20 :] += torch.linspace(0, 230, 16 * 40).int()[:, None, None, None]
    looks, _, said = watched(pixels.clamp(0, 255).to(torch.uint8))
    assert (
        len(said) == 1 and "burns out" in said[0] and looks.state["warning"].startswith("The picture burns")
    )


def test_a_picture_that_was_dark_from_its_beginning_does_not_burn_out():
    pixels = moving(0, 16 * 60)
    pixels[:, :20] = 0
    assert watched(pixels)[2] == []


@pytest.mark.parametrize("fps", [0.25, 1, 8, 24, 30, 60, 120])
def test_a_dark_picture_is_none_that_burns_out_at_any_speed(fps):
    seconds = Seconds(fps, STRIDE)
    verdict = Verdict(seconds.frames, fps)
    dark = [Point(n * seconds.frames, seconds.frames, 1.0, 5.0, 0.1, 0.6, 1.0) for n in range(60)]
    assert not any(map(verdict.take, dark)) and seconds.frames % STRIDE == 0


def test_another_prompt_may_look_different():
    pixels = moving(0, 16 * 60)
    pixels[16 * 30 :, :20] = 0
    assert len(watched(pixels)[2]) == 1
    said = []
    with Watch(None, FPS, STRIDE, tell=said.append) as looks:
        for n, frames in enumerate(pixels.split(BLOCK)):
            if n * BLOCK == 16 * 30:
                looks.begin_scene()
            looks.write(HostFrames(frames))
            wait_for(lambda: not looks._waiting)
    assert not said


def test_what_a_take_was_warned_of_is_not_told_again_when_it_goes_on(tmp_path):
    path, moves = tmp_path / "watch.jsonl", moving(0, 16 * 12)
    still = torch.cat([moves, moves[-4:].repeat(120, 1, 1, 1)])
    first = watched(still[: 16 * 24], path)[2]
    looks, _, again = watched(still[16 * 24 :], path, start_frame=16 * 24)
    assert len(first) == 1 and not again and looks.state["warning"] == first[0]
    looks, _, anew = watched(still[16 * 24 :], path, start_frame=16 * 24, scenes=(16 * 24,))
    assert len(anew) == 1


def test_a_warning_comes_again_only_after_the_picture_was_well():
    verdict = Verdict(16, 16)
    size = round(WINDOW_SECONDS)
    changes = [5.0] * size + [0.5] * size + [1.5] * size + [0.5] * size + [5.0] * size + [0.5] * size
    warned = [n for n, change in enumerate(changes) if verdict.take(point(16 * n, change=change))]
    assert warned == [2 * size - 1, 6 * size - 1]


def test_a_late_watch_passes_over_what_comes_and_holds_nobody_up(monkeypatch):
    gate = threading.Event()
    seen = []

    def slow(self, first_frame, frames):
        gate.wait()
        seen.append(first_frame)
        return iter(())

    monkeypatch.setattr(watch.Seconds, "take", slow)
    began = time.monotonic()
    with Watch(None, FPS, STRIDE) as looks:
        pieces = blocks(moving(0, BLOCK * 20))
        looks.write(pieces[0])
        wait_for(lambda: not looks._waiting)  # it is being looked at
        for frames in pieces[1:]:
            looks.write(frames)
        assert looks.frames_written == 20 * BLOCK and len(looks._waiting) == MOST_WAITING
        gate.set()
        wait_for(lambda: len(seen) == 1 + MOST_WAITING)
        looks.write(pieces[0])
    assert seen == [n * BLOCK for n in (*range(1 + MOST_WAITING), 20)] and time.monotonic() - began < 60


def test_what_fails_in_it_is_logged_and_the_stream_goes_on(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    looks, told, _ = watched(moving(0, 64), tmp_path / "no folder" / "watch.jsonl")
    assert "nothing more is written" in caplog.text and len(told) == 3
    monkeypatch.setattr(watch.Seconds, "take", lambda *_: 1 / 0)
    looks, _, _ = watched(moving(0, 64))
    assert caplog.text.count("looks no further") == 1 and looks.frames_written == 64


def test_a_take_that_goes_on_has_its_curve_from_the_beginning(tmp_path):
    path, pixels = tmp_path / "watch.jsonl", moving(0, 16 * 40)
    whole = watched(pixels, tmp_path / "whole.jsonl")[0].state
    watched(pixels[: 16 * 30], path)
    with Watch(path, FPS, STRIDE, start_frame=16 * 20 + 4) as looks:
        for frames in pixels[16 * 20 + 4 :].split(BLOCK):
            looks.write(HostFrames(frames))
            wait_for(lambda: not looks._waiting)
    got = looks.state
    assert len(got["motion"]) == len(whole["motion"]) == 39
    # the second in which it went on was not seen whole
    differ = [
        n
        for n, (one, other) in enumerate(zip(got["motion"], whole["motion"], strict=True))
        if one != pytest.approx(other, abs=0.02)
    ]
    assert set(differ) <= {20, 21}

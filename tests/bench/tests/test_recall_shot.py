"""`bench shot`: its trials, its verdict on pictures that are known, and its rows on random weights."""

import argparse
import io
import json
import math

import pytest
import torch
from rivulet.pocket import detector, world
from rivulet.tests.bench import recall_shot
from rivulet.tests.bench.recall_shot import MODES, Seen, drawn, figures, read
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket


@pytest.fixture(scope="module")
def trials():
    """Returns six trials in the pocket world's pictures."""
    return drawn(small_pocket(), 6, torch.Generator().manual_seed(3))


def test_an_object_is_asked_for_on_a_ground_that_is_neither_its_own_nor_its_colour(trials):
    shown = detector.detect(trials.pixels_BFHWC[:, -1])
    for frame, look, ground in zip(shown, trials.looks, trials.grounds, strict=True):
        assert len(frame.objects) == 1 and frame.objects[0].colour == look[0]
        assert ground not in (frame.ground, look[0])


def elsewhere(trials, **changed):
    """The last pictures on the grounds that are asked for, some of what is in them changed."""
    from dataclasses import replace

    scenes = trials.scenes
    grounds = torch.tensor([detector.COLOURS.index(ground) for ground in trials.grounds])
    frames = trials.pixels_BFHWC.shape[1]
    places = world.simulate(scenes, frames)[:, -1:]
    return world.render(replace(scenes, ground_B=grounds, **changed), places, 64)[:, 0]


def test_what_came_along_is_told_from_what_did_not(trials):
    jump_B = torch.arange(6.0)
    whole = read(trials, elsewhere(trials), jump_B)
    assert all(each.whole and each.moved < 0.02 for each in whole)
    assert [each.jump for each in whole] == jump_B.tolist()
    other = (trials.scenes.shape_BN + 1) % len(world.SHAPES)
    assert not any(each.shape for each in read(trials, elsewhere(trials, shape_BN=other), jump_B))
    same_ground = read(trials, trials.pixels_BFHWC[:, -1], jump_B)
    assert all(each.colour and each.shape and not each.ground and not each.whole for each in same_ground)
    empty = torch.full_like(trials.scenes.colour_BN, -1)
    gone = read(trials, elsewhere(trials, colour_BN=empty), jump_B)
    assert all(math.isnan(each.moved) and not each.colour and not each.alone for each in gone)


def test_figures_are_shares_of_all_trials():
    seen = [Seen(True, True, True, True, 10, 0.5), Seen(True, False, False, True, 20, math.nan)]
    assert figures(seen) == {
        "recall": 0.5, "standard_error_share": 0.5, "colour_recall": 1, "shape_recall": 0.5,
        "whole_share": 0.5, "alone_share": 0.5, "new_ground_share": 1, "jump": 15, "moved_share": 0.5,
    }  # fmt: skip


def test_every_kind_of_switch_has_a_row_for_each_block(monkeypatch):
    monkeypatch.setattr(recall_shot, "load_pocket", lambda folder: small_pocket())
    out, given = (
        io.StringIO(),
        {"trials": 3, "batch": 2, "blocks": 2, "modes": list(MODES), "memories": ["off"]},
    )
    chosen = argparse.Namespace(quick=True, seed=1, weights=None, memory_file=None, **given)
    assert recall_shot.run(chosen, Rows("shot", True, out)) == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["mode"], row["made_blocks"]) for row in rows] == [
        (mode, n) for mode in MODES for n in (1, 2)
    ]
    assert {row["trials"] for row in rows} == {3}
    # all go on from the same pictures, and no two kinds are the same afterwards
    assert len({row["jump"] for row in rows}) == len(MODES)
    with pytest.raises(SystemExit, match="give 1 or more"):
        recall_shot.run(argparse.Namespace(**{**vars(chosen), "trials": 0}), Rows("shot", True, out))

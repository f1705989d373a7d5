"""How much pictures move, and what that takes off the strength of their blocks."""

import pytest
import torch
from rivulet.model_patches.stream.motion import FROM_BEFORE, FULL_CHANGE, MovingStrength, motion_share

EPS = torch.finfo(torch.float64).eps
GREY = torch.full((1, 4, 6, 3), 0.5, dtype=torch.float64)


def test_the_share_is_the_largest_change_of_the_root_mean_square():
    half = GREY.clone()
    half[:, :2] += 0.08  # half of the pixels: 0.08 / sqrt(2) over all
    wanted = 0.08 / 2**0.5 / FULL_CHANGE
    assert motion_share([GREY, GREY, half, half]) == pytest.approx(wanted, abs=16 * EPS)
    assert motion_share([GREY, GREY + 0.02, GREY]) == pytest.approx(0.02 / FULL_CHANGE, abs=16 * EPS)


def test_it_is_none_where_nothing_moves_and_one_at_most():
    assert motion_share([GREY]) == motion_share([GREY, GREY]) == 0.0
    assert motion_share([GREY, GREY - 0.5]) == 1.0


def test_levels_of_a_file_move_as_shares_do():
    levels = [torch.full((2, 2, 3), level, dtype=torch.uint8) for level in (250, 5, 20)]
    shares = [picture.float() / 255 for picture in levels]
    assert motion_share(levels) == motion_share(shares) == 1.0
    assert motion_share(levels[1:]) == motion_share(shares[1:]) < 1.0


def test_a_block_that_stands_still_has_the_strength_itself():
    moving = MovingStrength(0.8, 0.3)
    assert [moving.of_block([GREY] * count) for count in (1, 9, 12)] == [0.8, 0.8, 0.8]


def test_motion_takes_off_what_it_is_given_and_comes_back():
    """Nine tenths of the way from the block before, each time."""
    moving, fast, wanted = MovingStrength(0.8, 0.3), [GREY, GREY - 0.5], 0.8
    for pictures, still in ((fast, False), (fast, False), ([GREY - 0.5] * 4, True), ([GREY - 0.5], True)):
        wanted = (1 - FROM_BEFORE) * (0.8 if still else 0.5) + FROM_BEFORE * wanted
        assert moving.of_block(pictures) == pytest.approx(wanted, abs=EPS)


def test_the_step_from_one_block_to_the_next_counts():
    moving = MovingStrength(0.8, 0.3)
    assert moving.of_block([GREY]) == 0.8 and moving.of_block([GREY - 0.5]) < 0.6

import math

import pytest
import torch
from rivulet.model_patches.arch.rotary import RopeLayout, axis_channels
from rivulet.model_patches.attention import rope
from rivulet.model_patches.attention.rope import forget_tables, rope_table


def by_hand(frame: int, row: int, column: int, head_dim: int) -> list[tuple[float, float]]:
    """(cos, sin) pair by pair, in Python's own floats."""
    side = 2 * (head_dim // 6)
    axes = [(frame, head_dim - 2 * side), (row, side), (column, side)]
    angles = [p * 10000.0 ** (-2 * i / channels) for p, channels in axes for i in range(channels // 2)]
    return [(math.cos(a), math.sin(a)) for a in angles]


@pytest.mark.parametrize("head_dim", [128, 32, 6, 14])
def test_every_token_has_the_angles_of_its_place(head_dim):
    frames, height, width = (0, 7, 20), 2, 3
    table = rope_table(frames, height, width, head_dim, dtype=torch.float64)
    exact = torch.tensor(
        [by_hand(f, h, w, head_dim) for f in frames for h in range(height) for w in range(width)],
        dtype=torch.float64,
    )
    assert table.shape == (18, head_dim // 2, 2)
    torch.testing.assert_close(table, exact, rtol=0, atol=20 * torch.finfo(torch.float64).eps)
    rounded = rope_table(frames, height, width, head_dim)
    assert rounded.dtype == torch.float32
    half_ulp = torch.finfo(torch.float32).eps / 2
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=half_ulp * 1.001)


def test_axes_of_wan():
    assert axis_channels(128) == (44, 42, 42)
    assert axis_channels(32) == (12, 10, 10)


@pytest.mark.parametrize("width", [4, 7, 0])
def test_a_head_too_narrow_or_odd_is_refused(width):
    with pytest.raises(ValueError, match=f"even head width of 6 or more, got {width}"):
        rope_table((0,), 1, 1, width)


def test_neighbouring_ids_stay_apart_far_out():
    far = rope_table((345_599, 345_600), 1, 1, 128)
    assert not torch.equal(far[0], far[1])
    exact = torch.tensor(by_hand(345_600, 0, 0, 128))
    torch.testing.assert_close(far[1], exact, rtol=0, atol=1e-7)


def test_tables_agree_with_diffusers():
    embeddings = pytest.importorskip("diffusers.models.transformers.transformer_wan")
    theirs = embeddings.WanRotaryPosEmbed(128, (1, 2, 2), 64)
    cos, sin = theirs(torch.zeros(1, 16, 5, 8, 12))
    ours = rope_table(range(5), 4, 6, 128)
    torch.testing.assert_close(ours[..., 0], cos[0, :, 0, 0::2].float(), rtol=0, atol=1.2e-7)
    torch.testing.assert_close(ours[..., 1], sin[0, :, 0, 1::2].float(), rtol=0, atol=1.2e-7)


def test_the_same_ids_give_the_same_table_again_and_the_store_is_bounded():
    first = rope_table([1, 2], 2, 2, 12)
    assert rope_table((1, 2), 2, 2, 12) is first
    for i in range(100):
        rope_table((i,), 2, 2, 12)
    assert rope_table([1, 2], 2, 2, 12) is not first


def held() -> list[int]:
    """Returns the frame counts of the tables that are kept, the oldest use first."""
    return [len(ids) for ids, *_ in rope._kept]


def test_tables_are_kept_by_their_bytes_but_those_of_a_block(monkeypatch):
    forget_tables()
    frame = 4 * 4 * 6 * 2 * 4  # bytes of a latent frame of 4 x 4 tokens, six pairs of float32
    monkeypatch.setattr(rope, "KEPT_BYTES", 10 * frame)
    for frames in (3, 1, 4, 2):
        rope_table(range(frames), 4, 4, 12)
    assert held() == [3, 1, 4, 2]
    rope_table(range(3), 4, 4, 12)
    assert held() == [1, 4, 2, 3]  # used again: the newest
    rope_table(range(1, 2), 4, 4, 12)
    assert held() == [4, 2, 3, 1]  # 10 frames
    rope_table(range(20), 4, 4, 12)
    assert held() == [2, 3, 1, 20]  # beyond the bytes, but a block's own
    for start in range(30):
        rope_table(range(start, start + 1), 1, 1, 12)
    assert held() == [1] * rope.MOST_TABLES
    assert sum(table.nbytes for table in rope._kept.values()) <= 10 * frame
    forget_tables()
    assert held() == []


def test_a_table_made_while_sampling_can_be_used_in_training():
    with torch.inference_mode():
        table = rope_table((3, 4, 5), 2, 3, 18)
    weight = torch.ones(1, requires_grad=True)
    (weight * table).sum().backward()
    assert weight.grad is not None


def test_a_layout_that_turns_all_at_wans_rates_is_the_table_without_one():
    whole = RopeLayout.truncated(128, 128)
    assert whole == RopeLayout.derived(128, 128) and whole.still == 0
    assert torch.equal(
        rope_table((0, 5), 3, 2, 128, dtype=torch.float64, layout=whole),
        rope_table((0, 5), 3, 2, 128, dtype=torch.float64),
    )


def test_the_two_candidate_tables_of_videomla():
    """Rates as published: the fastest bands of Wan's axes, or those of a head of 32 (arXiv 2605.30351)."""
    truncated, derived = RopeLayout.truncated(128, 32), RopeLayout.derived(128, 32)
    assert [len(axis) for axis in (truncated.time, truncated.row, truncated.column)] == [6, 5, 5]
    assert [round(rate, 4) for rate in truncated.time] == [1, 0.6579, 0.4329, 0.2848, 0.1874, 0.1233]
    assert [round(rate, 4) for rate in truncated.row] == [1, 0.6449, 0.4160, 0.2683, 0.1730]
    assert [round(rate, 5) for rate in derived.time] == [1, 0.21544, 0.04642, 0.01, 0.00215, 0.00046]
    assert [round(rate, 4) for rate in derived.column] == [1, 0.1585, 0.0251, 0.0040, 0.0006]
    assert truncated.still == derived.still == 96


def test_still_channels_stay_and_the_others_have_the_narrow_table():
    layout = RopeLayout.derived(32, 14)
    table = rope_table((2, 9), 2, 2, 32, dtype=torch.float64, layout=layout)
    assert torch.equal(table[:, :9], torch.tensor([1.0, 0.0], dtype=torch.float64).expand(8, 9, 2))
    assert torch.equal(table[:, 9:], rope_table((2, 9), 2, 2, 14, dtype=torch.float64))


def test_a_layout_of_other_heads_is_refused():
    with pytest.raises(ValueError, match="heads of 32 channels, the heads have 64"):
        rope_table((0,), 1, 1, 64, layout=RopeLayout.truncated(32, 8))
    with pytest.raises(ValueError, match="40 turned channels do not fit a head of 32"):
        RopeLayout.truncated(32, 40)
    with pytest.raises(ValueError, match="still ones must be an even number"):
        RopeLayout(3, (1.0,), (), ())

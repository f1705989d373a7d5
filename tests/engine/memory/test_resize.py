"""The state on another grid, against interpolation cell by cell and against torch's own area-aware one."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.resize import resample, resize_encoder

HAVE = (3, 5, 7)
GRIDS = [(3, 10, 14), (3, 5, 11), (4, 6, 8), (5, 5, 7), (3, 2, 3), (1, 1, 1), (2, 9, 4), (3, 8, 14)]
# a weighted mean of n numbers in float64 loses at most n + 2 roundings an axis, on numbers below 1 in size
ROUNDING = 3 * (7 + 2) * 2.0**-53


def field(grid, seed=0, channels=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, math.prod(grid), channels, generator=generator, dtype=torch.float64) * 2 - 1


def taken(cells, wanted, index):
    """{old cell: share} of one new cell along one axis: a triangle around it, at least two old cells wide."""
    width = max(1.0, cells / wanted)
    centre = (index + 0.5) * cells / wanted
    shares = {old: width - abs(centre - old - 0.5) for old in range(cells)}
    shares = {old: share for old, share in shares.items() if share > 0}
    return {old: share / sum(shares.values()) for old, share in shares.items()}


def slowly(state, have, want):
    made = torch.zeros(1, math.prod(want), state.shape[2], dtype=torch.float64)
    for token, place in enumerate(itertools.product(*map(range, want))):
        shares = [taken(c, w, i) for c, w, i in zip(have, want, place, strict=True)]
        for t, row, column in itertools.product(*shares):
            share = shares[0][t] * shares[1][row] * shares[2][column]
            made[0, token] += share * state[0, (t * have[1] + row) * have[2] + column]
    return made


@pytest.mark.parametrize("want", GRIDS, ids=str)
def test_every_cell_is_the_mean_of_those_it_covers(want):
    state = field(HAVE)
    assert (resample(state, HAVE, want) - slowly(state, HAVE, want)).abs().max() <= ROUNDING


@pytest.mark.parametrize("want", [grid for grid in GRIDS if grid[0] == HAVE[0]], ids=str)
def test_pictures_are_resized_as_torch_does_with_antialiasing(want):
    state = field(HAVE)
    pictures = state[0].unflatten(0, HAVE).permute(0, 3, 1, 2)
    torchs = F.interpolate(pictures, size=want[1:], mode="bilinear", antialias=True)
    torchs = torchs.permute(0, 2, 3, 1).flatten(0, 2)[None]
    assert (resample(state, HAVE, want) - torchs).abs().max() <= ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trained_size_gives_the_very_same_tensor(dtype):
    state = field(HAVE).to(dtype)
    assert resample(state, HAVE, HAVE) is state


@pytest.mark.parametrize("want", GRIDS, ids=str)
def test_a_constant_field_stays_as_it_is(want):
    state = torch.tensor([0.3, -1.7]).expand(1, math.prod(HAVE), 2)
    assert torch.equal(resample(state, HAVE, want), state[:, :1].expand(1, math.prod(want), 2))


def test_up_and_down_again_is_nearly_what_it_was():
    """A wave of one period over n cells: one averaging of neighbours takes less than (pi / n)^2 of it."""
    have, want = (3, 16, 24), (3, 32, 48)
    rows = torch.cos(torch.arange(16, dtype=torch.float64) / 16 * 2 * math.pi)
    columns = torch.sin(torch.arange(24, dtype=torch.float64) / 24 * 2 * math.pi)
    wave = (rows[:, None] + columns).expand(3, -1, -1).reshape(1, -1, 1)
    back = resample(resample(wave, have, want), want, have)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    off = (back - wave).reshape(1, *have)[inner].abs().max()
    assert 0 < off < 2 * (math.pi / 16) ** 2


def test_frames_rows_and_columns_are_not_mixed_up():
    """Each number says its own place; along the other axes nothing changes."""
    for axis in range(3):
        place = torch.arange(HAVE[axis], dtype=torch.float64)
        shape = [HAVE[axis] if index == axis else 1 for index in range(3)]
        state = place.reshape(shape).expand(HAVE).reshape(1, -1, 1)
        want = tuple(2 * size for size in HAVE)
        made = resample(state, HAVE, want).reshape(want)
        assert (made.diff(dim=axis) >= 0).all()
        others = [index for index in range(3) if index != axis]
        assert all(made.diff(dim=index).abs().max() <= 2 * max(HAVE) * ROUNDING for index in others)


@pytest.fixture
def encoder():
    return MemoryEncoder(EncoderConfig(8, 2, *HAVE, normalize_keys=True)).requires_grad_(False).eval()


def test_an_encoder_for_another_picture_shares_all_but_its_state(encoder):
    other = resize_encoder(encoder, 4, 9)
    assert (other.config.grid_height, other.config.grid_width, other.config.tokens) == (4, 9, 3 * 4 * 9)
    assert other.config.normalize_keys and not any(p.requires_grad for p in other.parameters())
    assert torch.equal(other.query_init, resample(encoder.query_init, HAVE, (3, 4, 9)))
    there, here = dict(other.named_parameters()), dict(encoder.named_parameters())
    kept = [name for name in here if there[name].data_ptr() == here[name].data_ptr()]
    assert set(here) - set(kept) == {"query_init"} and encoder.query_init.shape[1] == math.prod(HAVE)
    evicted = torch.randn(2, 1, 6, 2, 4)
    assert other.update(other.fresh(1), *evicted).shape == (1, other.config.tokens, 8)


def test_an_encoder_at_its_own_size_is_itself(encoder):
    assert resize_encoder(encoder, *HAVE[1:]) is encoder


@pytest.mark.parametrize(
    ("shape", "want"), [((1, 104, 4), HAVE), ((105, 4), HAVE), ((1, 105, 4), (3, 0, 2))], ids=str
)
def test_what_is_no_grid_is_refused(shape, want):
    with pytest.raises(
        ValueError, match=r"on a grid of 3 x 5 x 7 for one of .* it needs \[1, 105, channels\]"
    ):
        resample(torch.zeros(shape), HAVE, want)

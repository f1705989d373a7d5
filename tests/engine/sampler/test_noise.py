import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.sampler.noise import KeyedNoise, block_noise

SHAPE = (1, 16, 3, 8, 8)
whole = st.integers(0, 2**64 - 1)
# Philox4x64-10 and Box-Muller written out in plain Python for seed 42, block 5, step 2
GOLDEN = [0.8864470577763875, -0.5239879841124719, 1.3778560737014474, 0.3879406266322954]


@given(whole, st.integers(0, 10**7), st.integers(0, 50))
def test_the_same_key_gives_the_same_noise(seed, block, step):
    shape = (1, 2, 1, 2, 3)
    assert torch.equal(block_noise(seed, block, step, shape), block_noise(seed, block, step, shape))


@given(st.tuples(whole, st.integers(0, 10**7), st.integers(0, 50)), st.data())
def test_any_other_key_gives_other_noise(key, data):
    other = data.draw(st.tuples(whole, st.integers(0, 10**7), st.integers(0, 50)).filter(lambda k: k != key))
    assert not torch.equal(block_noise(*key, SHAPE), block_noise(*other, SHAPE))


@pytest.mark.parametrize("change", [(2**32, 0, 0), (0, 2**32, 0), (0, 0, 1), (1, -1, 0)], ids=str)
def test_neighbouring_and_far_keys_are_independent(change):
    base = block_noise(7, 12, 1, (1, 16, 4, 32, 32)).flatten().double()
    seed, block, step = change
    other = block_noise(7 + seed, 12 + block, 1 + step, (1, 16, 4, 32, 32)).flatten().double()
    # correlation of n independent pairs has deviation 1/sqrt(n)
    assert abs((base @ other).item() / len(base)) < 5 / math.sqrt(len(base))


def test_noise_is_standard_normal():
    x = torch.cat([block_noise(3, b, 0, SHAPE).flatten() for b in range(80)]).double()
    n = len(x)
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    lag = (x[1:] * x[:-1]).mean()
    assert abs(lag) < 5 / math.sqrt(n)
    inside = (x.abs() < 1).double().mean() - math.erf(1 / math.sqrt(2))
    assert abs(inside) < 5 * math.sqrt(0.25 / n)


def test_a_take_keeps_its_noise_across_versions():
    """A change of these values breaks every take ever saved."""
    got = block_noise(42, 5, 2, (1, 1, 1, 1, 4)).flatten().tolist()
    assert got == pytest.approx(GOLDEN, abs=1e-6)


def test_a_longer_clip_begins_with_the_shorter():
    noise = KeyedNoise(11)
    ten = [noise.draw(b, s, 3 * b, torch.empty(SHAPE)) for b in range(10) for s in range(4)]
    sixty = [noise.draw(b, s, 3 * b, torch.empty(SHAPE)) for b in range(60) for s in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(ten, sixty[:40], strict=True))


def test_a_larger_batch_begins_with_the_smaller():
    odd = (3, 5, 1, 1, 1)
    assert torch.equal(block_noise(1, 2, 3, odd)[:1], block_noise(1, 2, 3, (1, *odd[1:])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_the_float32_noise_rounded(dtype):
    like = torch.empty(SHAPE, dtype=dtype)
    assert torch.equal(KeyedNoise(4).draw(1, 0, 3, like), block_noise(4, 1, 0, SHAPE).to(dtype))


def test_global_generators_are_left_alone():
    before = torch.random.get_rng_state()
    block_noise(1, 2, 3, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)

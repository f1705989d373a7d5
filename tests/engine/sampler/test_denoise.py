import pytest
import torch
from rivulet.model_patches.sampler.denoise import InitLatents, denoise, guide
from rivulet.model_patches.sampler.noise import KeyedNoise, block_noise

SHAPE = (1, 2, 3, 2, 2)


def test_a_perfect_flow_gives_the_clean_latents():
    clean = torch.randn(SHAPE, dtype=torch.float64)
    seen = []

    def flow(x, call):
        sigma = LEVELS[call]
        fresh = (x - (1 - sigma) * clean) / sigma
        seen.append(fresh)
        # the first input is noise alone, however clean its level says it is
        return fresh - clean if call else (x - clean) / sigma

    got = denoise(flow, LEVELS, KeyedNoise(3), 5, 15, torch.empty_like(clean))
    assert (got - clean).abs().max() < 16 * torch.finfo(torch.float64).eps * clean.abs().max()
    for call in (1, 2):
        expected = block_noise(3, 5, call, SHAPE, dtype=torch.float64)
        assert (seen[call] - expected).abs().max() < 1e2 * torch.finfo(torch.float64).eps


def test_without_fresh_noise_the_calls_are_euler_steps_along_the_flow():
    """Against Euler's method written out, on a flow that no single step solves."""
    start = block_noise(3, 5, 0, SHAPE, dtype=torch.float64)
    weight = torch.randn(SHAPE, dtype=torch.float64)
    levels = (1.0, *LEVELS)

    def flow(x, call):
        return torch.sin(3 * x) * weight + levels[call]

    x = start
    for sigma, after in zip(levels, (*LEVELS, 0.0), strict=True):
        x = x + (after - sigma) * (torch.sin(3 * x) * weight + sigma)
    got = denoise(flow, levels, KeyedNoise(3), 5, 15, torch.empty_like(start), fresh_noise=False)
    assert (got - x).abs().max() < 1e2 * torch.finfo(torch.float64).eps * x.abs().max()


LEVELS = (0.9, 0.5, 0.2)


def test_the_first_call_sees_noise_at_the_first_level():
    inputs = []

    def flow(x, call):
        inputs.append(x.clone())
        return torch.zeros_like(x)

    got = denoise(flow, (0.75,), KeyedNoise(1), 0, 0, torch.empty(SHAPE))
    assert torch.equal(inputs[0], 0.75 * block_noise(1, 0, 0, SHAPE))
    assert torch.equal(got, inputs[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shape_are_those_asked_for(dtype):
    got = denoise(lambda x, call: x, (1.0, 0.5), KeyedNoise(0), 0, 0, torch.empty(SHAPE, dtype=dtype))
    assert got.dtype == dtype and got.shape == SHAPE


def test_guidance_starts_from_the_negative():
    prompt, negative = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert guide([prompt], 7.0) is prompt
    assert guide([prompt, negative], 2.5).tolist() == [6.0, 1.0]
    assert torch.equal(guide([prompt, negative], 0.0), negative)


def test_a_block_can_begin_with_given_latents_under_noise_at_a_later_call():
    given, inputs = torch.randn(SHAPE), []

    def flow(x, call):
        inputs.append((call, x.clone()))
        return torch.zeros_like(x)

    denoise(flow, LEVELS, KeyedNoise(1), 2, 0, torch.empty(SHAPE), begin=InitLatents(given, 1))
    assert [call for call, _ in inputs] == [1, 2]
    assert torch.equal(inputs[0][1], 0.5 * block_noise(1, 2, 1, SHAPE) + 0.5 * given)
    assert torch.equal(inputs[1][1], 0.2 * block_noise(1, 2, 2, SHAPE) + (1 - 0.2) * inputs[0][1])


def test_latents_can_begin_at_a_level_between_those_of_the_stream():
    """The call keeps its number, and so its noise; those after it keep their levels."""
    clean, inputs = torch.randn(SHAPE, dtype=torch.float64), []
    begin = InitLatents(clean, 1, 0.7)
    levels = begin.levels(LEVELS)
    assert levels == (0.9, 0.7, 0.2) and InitLatents(clean, 1).levels(LEVELS) == LEVELS

    def flow(x, call):
        inputs.append((call, x.clone()))
        return torch.zeros_like(x)

    denoise(flow, levels, KeyedNoise(3), 5, 15, torch.empty_like(clean), begin=begin)
    expected = 0.7 * block_noise(3, 5, 1, SHAPE, dtype=torch.float64) + 0.3 * clean
    assert [call for call, _ in inputs] == [1, 2]
    assert (inputs[0][1] - expected).abs().max() < 16 * torch.finfo(torch.float64).eps

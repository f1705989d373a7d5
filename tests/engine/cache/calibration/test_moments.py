"""Running moments against those of all tokens at once."""

import pytest
import torch
from rivulet.model_patches.cache.calibration.moments import Moments

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_are_those_of_all_tokens_at_once(offset):
    x = torch.randn(600, 5, dtype=torch.float64) * torch.tensor([3.0, 1, 0.1, 2, 1]).double() + offset
    moments = Moments(5)
    for part in (x[:7], x[7:300], x[300:]):
        moments.add(part)
    assert moments.tokens == 600
    # sums of 600 numbers: rounding of each tenfold is beyond any order of adding; a mean is known to its size
    torch.testing.assert_close(moments.mean_C, x.mean(0), rtol=600 * EPS, atol=600 * EPS)
    bound = 600 * EPS * (9 * 16 + offset * 4)
    torch.testing.assert_close(moments.covariance_CC, torch.cov(x.T, correction=0), rtol=0, atol=bound)


def test_tokens_of_half_precision_are_summed_up_in_float64():
    x = (torch.randn(300, 4) + 100).bfloat16()
    moments = Moments(4)
    moments.add(x[:100])
    moments.add(x[100:])
    assert moments.covariance_CC.dtype == torch.float64
    bound = 300 * EPS * 400
    torch.testing.assert_close(
        moments.covariance_CC, torch.cov(x.double().T, correction=0), rtol=0, atol=bound
    )


def test_nan_is_refused():
    x = torch.randn(8, 4)
    x[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"activations hold NaN .* run it in float32 or bfloat16"):
        Moments(4).add(x)

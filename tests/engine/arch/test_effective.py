"""Weights found by asking a layer."""

import pytest
import torch
from rivulet.model_patches.arch.effective import effective_gain, effective_linear
from torch import nn

CPU = torch.device("cpu")


class Adapted(nn.Module):
    """A linear layer with an adapter beside it and no `.weight` to read."""

    def __init__(self, inner, left, right):
        super().__init__()
        self.inner, self.left, self.right = [inner], left, right

    def forward(self, x):
        return self.inner[0](x) + x @ self.left @ self.right


def linear(channels=40, outs=24, bias=3.0):
    torch.manual_seed(0)
    layer = nn.Linear(channels, outs).double().requires_grad_(False)
    layer.bias += bias
    return layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_to_the_rounding_of_the_dtype(dtype):
    """Of two answers of size PROBE * w + b each is rounded once: the difference is off by two half units."""
    layer = linear().to(dtype)
    weight, bias = effective_linear(layer, 40, dtype, CPU)
    true, unit = layer.weight.T.double(), torch.finfo(dtype).eps
    bound = unit * (true.abs() + layer.bias.double().abs() / 256) + 2 * torch.finfo(torch.float32).eps
    assert ((weight.double() - true).abs() <= bound).all()
    assert torch.equal(bias.double(), layer.bias.double())
    assert weight.dtype == bias.dtype == torch.promote_types(dtype, torch.float32)


def test_an_adapter_is_in_the_answer():
    layer, left, right = linear(), torch.randn(40, 2).double(), torch.randn(2, 24).double()
    weight, _ = effective_linear(Adapted(layer, left, right), 40, torch.float64, CPU)
    torch.testing.assert_close(weight, layer.weight.T + left @ right, rtol=0, atol=1e-12)


def test_a_layer_wider_than_one_call_is_found_whole(monkeypatch):
    monkeypatch.setattr("rivulet.model_patches.arch.effective.PROBE_ROWS", 16)
    weight, _ = effective_linear(linear(), 40, torch.float64, CPU)
    torch.testing.assert_close(weight, linear().weight.T, rtol=0, atol=1e-13)


def test_the_gain_of_a_norm_is_found():
    norm = nn.RMSNorm(40, eps=1e-6).requires_grad_(False)
    norm.weight.copy_(torch.linspace(-2, 2, 40))
    gain = effective_gain(norm, 40, torch.float32, CPU)
    # eps is 1e-6 beside 256 ** 2, which float32 cannot tell from 1
    torch.testing.assert_close(gain, norm.weight, rtol=3 * torch.finfo(torch.float32).eps, atol=0)


def test_a_layer_that_overflows_is_refused():
    layer = linear().half()
    layer.weight *= 1e4
    with pytest.raises(ValueError, match=r"in torch.float16 with NaN or infinite .* bfloat16 or float32"):
        effective_linear(layer, 40, torch.float16, CPU)

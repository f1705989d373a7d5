"""Convolutions over time as sums of 2D ones: when they are, and how exact they are."""

from functools import reduce

import pytest
import torch
import torch.nn.functional as F
from rivulet.model_patches.vae import wan
from rivulet.model_patches.vae.wan import CausalConv3d, wastes_memory


@pytest.mark.parametrize(
    ("torch_version", "cudnn", "wastes"),
    [
        ("2.9.0+cu128", 91002, True),
        ("2.9.1+cu130", 91300, True),
        ("2.10.0", 91499, True),
        ("2.9.0+cu128", 91500, False),
        ("2.9.0+cu128", 91001, False),
        ("2.8.0+cu128", 91002, False),
        ("2.11.0", 91002, False),
        ("2.9.0+cpu", None, False),
    ],
)
def test_only_the_versions_that_waste_memory_are_gone_around(torch_version, cudnn, wastes):
    assert wastes_memory(torch_version, cudnn) is wastes


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_sum_is_the_convolution_but_for_rounding(monkeypatch, dtype, batch):
    """Each of three parts and each of two sums is rounded by half an eps; float32 adds the products up."""
    generator = torch.Generator().manual_seed(1)
    conv = CausalConv3d(48, 32, 3).requires_grad_(False)
    for value in conv.parameters():
        value.data = torch.randn(value.shape, generator=generator) / 36
    conv.to(dtype)
    x = torch.randn(batch, 48, 6, 9, 7, generator=generator).to(dtype)
    monkeypatch.setattr(wan, "_is_better_in_2d", lambda x: True)
    got = conv(x)
    wide, weight = x.double(), conv.weight.double()
    parts = [
        F.conv3d(
            wide[:, :, k : k + 4], weight[:, :, k : k + 1], None if k else conv.bias.double(), 1, (0, 1, 1)
        )
        for k in range(3)
    ]
    exact = F.conv3d(wide, weight, conv.bias.double(), 1, (0, 1, 1))
    torch.testing.assert_close(sum(parts), exact, rtol=0, atol=1e-12)
    rounded = [*parts, parts[0] + parts[1], exact]
    half = torch.finfo(dtype).eps / 2 * (1 + 4 * torch.finfo(dtype).eps)
    products = F.conv3d(wide.abs(), weight.abs(), conv.bias.double().abs(), 1, (0, 1, 1))
    allowed = half * reduce(torch.add, [part.abs() for part in rounded]) + 27 * 48 * 2.0**-24 * products
    assert got.shape == exact.shape and got.dtype == dtype
    assert ((got.double() - exact).abs() <= allowed + torch.finfo(dtype).smallest_normal).all()

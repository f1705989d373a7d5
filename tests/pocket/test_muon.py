"""Muon against torch's own, where torch has one, and against singular values."""

import copy

import pytest
import torch
from rivulet.pocket import muon
from rivulet.pocket.muon import Muon, orthogonal
from torch import nn

BFLOAT16_STEP = 2**-8
SHAPES = ((24, 8), (8, 24), (16, 16))


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has its own since 2.9")
def test_it_moves_as_torchs_own() -> None:
    """torch iterates in bfloat16: a direction has a few roundings of error, and so has what it moves."""
    ours, theirs = matrices(2), matrices(2)
    steps = [
        Muon([{"params": ours}], 0.1, momentum=0.9, weight_decay=0.02),
        torch.optim.Muon([{"params": theirs}], 0.1, momentum=0.9, weight_decay=0.02),
    ]
    for turn in range(4):
        for own, other, grad in zip(ours, theirs, matrices(10 + turn), strict=True):
            own.grad, other.grad = grad.detach().clone(), grad.detach().clone()
        before = [matrix.detach().clone() for matrix in theirs]
        for step in steps:
            step.step()
        for own, other, old in zip(ours, theirs, before, strict=True):
            moved, apart = (other - old).detach().norm(), (own - other).detach().norm()
            assert apart <= 8 * (turn + 1) * BFLOAT16_STEP * moved


def test_its_state_is_read_where_torchs_own_left_off() -> None:
    ours = matrices(3)
    optimizer = Muon(ours, 0.1)
    for own, grad in zip(ours, matrices(4), strict=True):
        own.grad = grad.detach()
    optimizer.step()
    again = Muon(matrices(3), 0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [set(state) for state in again.state.values()] == [{"momentum_buffer"}] * len(SHAPES)


def test_matrices_without_a_gradient_stay_and_vectors_are_refused() -> None:
    still = matrices(5)
    Muon(still, 0.1, weight_decay=0.5).step()
    assert all(torch.equal(a, b) for a, b in zip(still, matrices(5), strict=True))
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)


def test_the_iteration_is_in_float32_without_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rivulet.pocket.half_products._has_fast_bfloat16", lambda device: False)
    matrix = torch.randn(12, 5, generator=torch.Generator().manual_seed(6))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = muon.QUINTIC
    for _ in range(muon.ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(
        orthogonal(matrix).double(), left @ values.diag() @ right, rtol=1e-4, atol=1e-4
    )

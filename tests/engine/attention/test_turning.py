"""Normed and turned in one pass: what a norm is asked, when, and which norms are called instead."""

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.attention import turning
from rivulet.model_patches.attention.turning import Turning
from rivulet.tests.kernels.rows import table_of, turned
from torch import nn

TOKENS, HEADS, WIDTH = 5, 2, 6
CHANNELS = HEADS * WIDTH
ANGLES = torch.rand(TOKENS, WIDTH // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 9


@pytest.fixture
def kernel(monkeypatch):
    """Takes the way of a card with kernels; the operation itself is torch's."""
    monkeypatch.setattr(turning, "runs_kernel", lambda *_: True)


def gained(dtype: torch.dtype = torch.float32) -> nn.RMSNorm:
    norm = nn.RMSNorm(CHANNELS, eps=1e-3).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight)
    return norm


def drawn(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, TOKENS, HEADS, WIDTH).to(dtype)


def check(got, x, gain):
    """Against float64, within the operation's own bound and a root and two products of the gain asked for."""
    wide = x.double()
    rms = (wide.flatten(2).square().mean(-1) + 1e-3).sqrt()[..., None, None]
    normed = wide / rms * gain.double().view(HEADS, WIDTH)
    pair = normed.abs().unflatten(-1, (-1, 2)).sum(-1, keepdim=True).expand(*x.shape[:-1], -1, 2).flatten(-2)
    bound = (CHANNELS**0.5 + 8 + 3) * 2**-23 + torch.finfo(x.dtype).eps / 2
    assert ((got.double() - turned(normed, ANGLES)).abs() <= bound * pair).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_pass_gives_the_norm_and_the_turn_rounded_once(dtype, kernel, monkeypatch):
    norm, x = gained(dtype), drawn(dtype)
    passes = []
    run = turning.norm_rope
    monkeypatch.setattr(turning, "norm_rope", lambda *given, out: passes.append(out) or run(*given, out=out))
    got = Turning().rotate(x, table_of(ANGLES), norm)
    assert len(passes) == 1 and got.dtype == dtype
    check(got, x, norm.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_kernel_bits_are_those_of_the_layer_and_the_rotation(dtype):
    norm, x, table = gained(dtype), drawn(dtype), table_of(ANGLES)
    want = rotate(norm(x.flatten(2)).view_as(x), table)
    assert torch.equal(Turning().rotate(x, table, norm), want)
    assert torch.equal(Turning().rotate(norm(x.flatten(2)).view_as(x), table), want)


def test_a_norm_is_asked_once_a_past_and_anew_by_the_next(kernel):
    asked, x, table = [], drawn(), table_of(ANGLES)

    class Counted(nn.RMSNorm):
        def forward(self, x):
            asked.append(tuple(x.shape))
            return super().forward(x) * 3  # as a host that patches the weight where it is used

    norm, other = Counted(CHANNELS, eps=1e-3).requires_grad_(False), gained()
    first = Turning()
    for _ in range(3):
        check(first.rotate(x, table, norm), x, torch.full((CHANNELS,), 3.0))
        first.rotate(x, table, other)
    assert asked == [(1, 1, CHANNELS)] * 2  # for its gain, and once ever whether there is more to it
    norm.weight.copy_(torch.linspace(-1, 2, CHANNELS))
    asked.clear()
    check(Turning().rotate(x, table, norm), x, 3 * norm.weight)


class Shifted(nn.RMSNorm):
    def forward(self, x):
        return super().forward(x) + torch.linspace(0.1, 1, CHANNELS)


class Halves(nn.RMSNorm):
    """Each half of the channels has a mean of its own."""

    def forward(self, x):
        return nn.functional.rms_norm(x.unflatten(-1, (2, -1)), (CHANNELS // 2,), eps=self.eps).flatten(-2)


def changed_norms():
    """Yields (how, a norm that has to be called)."""
    yield "bias", Shifted(CHANNELS, eps=1e-3)
    yield "means of its own", Halves(CHANNELS, eps=1e-3)
    yield "class", nn.LayerNorm(CHANNELS)
    yield "none", nn.Identity()
    yield "function", lambda x: x + 1
    yield "no eps of its own", nn.RMSNorm(CHANNELS)
    replaced, hooked, before = (nn.RMSNorm(CHANNELS, eps=1e-3) for _ in range(3))
    replaced.forward = lambda x: x / 2
    yield "forward", replaced
    hooked.register_forward_hook(lambda module, given, result: result * 3 + 1)
    yield "hook", hooked
    before.register_forward_pre_hook(lambda module, given: (given[0] + torch.arange(float(CHANNELS)),))
    yield "hook before", before


@pytest.mark.parametrize(
    "norm", [each for _, each in changed_norms()], ids=[name for name, _ in changed_norms()]
)
@torch.no_grad()
def test_a_norm_that_is_more_than_its_gain_is_called(norm, kernel):
    x, table = drawn(), table_of(ANGLES)
    assert torch.equal(Turning().rotate(x, table, norm), rotate(norm(x.flatten(2)).view_as(x), table))


def test_a_norm_over_each_head_is_called(kernel):
    def of_heads(x):
        return nn.functional.rms_norm(x.unflatten(-1, (HEADS, WIDTH)), (WIDTH,), eps=1e-3).flatten(-2)

    class PerHead(nn.RMSNorm):
        forward = staticmethod(of_heads)

    x, table = drawn(), table_of(ANGLES)
    got = Turning().rotate(x, table, PerHead(WIDTH, eps=1e-3))
    assert torch.equal(got, rotate(of_heads(x.flatten(2)).view_as(x), table))


def test_a_norm_that_answers_wider_than_it_is_asked_is_called(kernel):
    class Wider(nn.RMSNorm):
        def forward(self, x):
            return super().forward(x.float())

    norm, x, table = Wider(CHANNELS, eps=1e-3).requires_grad_(False), drawn(torch.bfloat16), table_of(ANGLES)
    want = rotate(norm(x.flatten(2)).view(x.shape), table)
    got = Turning().rotate(x, table, norm)
    assert got.dtype == want.dtype == torch.float32 and torch.equal(got, want)

import pytest
import torch
from rivulet.kernels.norm_rope import norm_rope
from rivulet.tests.kernels.rows import room, table_of, turned, untouched


def exact(x, gain, angles, eps, inverse=None):
    wide = x.double()
    if inverse is None:
        inverse = 1 / (wide.flatten(2).square().mean(-1) + eps).sqrt()
    wide = wide * inverse.double()[..., None, None]
    return turned(wide if gain is None else wide * gain.double().view(x.shape[2:]), angles)


def check(got, x, gain, angles, eps, inverse=None):
    want = exact(x, gain, angles, eps, inverse)
    size = exact(x.abs(), None if gain is None else gain.abs(), torch.zeros_like(angles), eps, inverse)
    pair = size.unflatten(-1, (-1, 2)).sum(-1, keepdim=True).expand(*size.shape[:-1], -1, 2).flatten(-2)
    # a mean of squares, a root, two products and a rotation in float32; then one rounding to x's dtype
    bound = ((x.shape[2] * x.shape[3]) ** 0.5 + 8) * 2**-23 + torch.finfo(x.dtype).eps / 2
    assert ((got.double() - want).abs() <= bound * pair).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 7, 3, 10), (1, 5, 12, 128)], ids=str)
@pytest.mark.parametrize("given", ["nothing", "gain", "gain and 1/rms"])
def test_all_heads_share_one_norm_and_each_pair_turns(dtype, shape, given, impl):
    x = (torch.randn(shape) * 3).to(dtype)
    angles = torch.rand(shape[1], shape[3] // 2, dtype=torch.float64) * 40
    gain = None if given == "nothing" else torch.randn(shape[2] * shape[3]).to(dtype)
    inverse = torch.rand(shape[:2]) if "1/rms" in given else None
    out, around = room(*shape, dtype=dtype)
    got = norm_rope(x, gain, table_of(angles), 1e-6, inverse, out, impl)
    assert got is out and untouched(out, around)
    check(got, x, gain, angles, 1e-6, inverse)
    assert torch.equal(norm_rope(x, gain, table_of(angles), 1e-6, inverse, impl=impl), got)


def test_eps_counts_where_a_token_is_nearly_zero(impl):
    x = torch.full((1, 2, 2, 4), 1e-3)
    angles = torch.zeros(2, 2, dtype=torch.float64)
    got = norm_rope(x, None, table_of(angles), eps=1e-6, impl=impl)
    torch.testing.assert_close(got, torch.full_like(x, 0.5**0.5), rtol=1e-6, atol=0)


def test_it_equals_a_float64_module_of_the_model():
    x = torch.randn(1, 6, 2, 8, dtype=torch.float64)
    angles, gain = torch.randn(6, 4, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    normed = torch.nn.functional.rms_norm(x.flatten(2), (16,), gain, 1e-6).view_as(x)
    got = norm_rope(x, gain, table_of(angles, torch.float64))
    torch.testing.assert_close(got, turned(normed, angles), rtol=1e-13, atol=1e-13)


def test_what_does_not_fit_is_refused():
    x, table = torch.zeros(1, 4, 2, 6), torch.zeros(4, 3, 2)
    with pytest.raises(ValueError, match=r"2 heads of 6 need a gain \[12\], got \[6\]"):
        norm_rope(x, torch.ones(6), table)
    with pytest.raises(ValueError, match=r"need a table \[4, 3, 2\], got \[5, 3, 2\]"):
        norm_rope(x, None, torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match=r"x must be \[B, L, N, D\] of floating point, got \[4, 2, 6\]"):
        norm_rope(x[0], None, table)
    with pytest.raises(ValueError, match=r"inverse_rms must be \[1, 4\], got \[4\]"):
        norm_rope(x, None, table, inverse_rms_BL=torch.ones(4))
    with pytest.raises(ValueError, match=r"out must be \[1, 4, 2, 6\] of torch.float32"):
        norm_rope(x, None, table, out=torch.empty(4, 2, 6))
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        norm_rope(x, None, table, impl="fast")

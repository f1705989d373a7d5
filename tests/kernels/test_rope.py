import pytest
import torch
from rivulet.kernels.rope import rotate, rotate_reference
from rivulet.tests.kernels.rows import room, table_of, turned, untouched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 7, 3, 10), (1, 33, 2, 128)], ids=str)
def test_pairs_are_turned_by_their_angle(dtype, shape, impl):
    if dtype == torch.float64 and impl == "triton":
        with pytest.raises(RuntimeError, match=r"computes in float32 and does not take torch.float64"):
            rotate(torch.ones(1, 1, 1, 2, dtype=dtype), torch.ones(1, 1, 2), impl="triton")
        return
    angles = torch.rand(shape[1], shape[3] // 2, dtype=torch.float64) * 40
    x = torch.randn(shape).to(dtype)
    exact = turned(x, angles)
    got = rotate(x, table_of(angles), impl)
    assert got.dtype == dtype and got.shape == x.shape
    # rounding of the table and of two products and a sum in float32, then of the result in its own dtype
    worst = 4 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    assert (got.double() - exact).abs().max() <= worst * x.double().abs().max() * 2**0.5


def test_a_view_between_two_others_is_turned_as_its_copy():
    qkv = torch.randn(2, 5, 3 * 24)
    view = qkv.chunk(3, -1)[1].unflatten(-1, (2, 12))
    table = table_of(torch.randn(5, 6, dtype=torch.float64))
    assert not view.is_contiguous()
    assert torch.equal(rotate(view, table), rotate(view.clone(), table))
    assert torch.equal(rotate(view.mT.contiguous().mT, table), rotate(view.clone(), table))
    shifted = torch.zeros(2 * 5 * 2 * 12 + 1)[1:].view(2, 5, 2, 12).copy_(view)
    assert torch.equal(rotate(shifted, table), rotate(view.clone(), table))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_given_buffer_takes_the_same_bits(dtype):
    x = torch.randn(2, 5, 2, 12).to(dtype)
    table = table_of(torch.randn(5, 6, dtype=torch.float64))
    room = torch.full((2, 9, 2, 12), torch.nan, dtype=dtype)
    got = rotate(x, table, out=room[:, 2:7])
    assert got.data_ptr() == room[:, 2:].data_ptr()
    assert torch.equal(room[:, 2:7], rotate(x, table))
    assert room[:, :2].isnan().all() and room[:, 7:].isnan().all()
    crossed = torch.empty(2, 5, 12, 2, dtype=dtype).mT
    assert torch.equal(rotate(x, table, out=crossed), rotate(x, table)) and crossed.stride(-1) != 1
    with pytest.raises(ValueError, match=r"out must be \[2, 5, 2, 12\] of .*, got \[2, 9, 2, 12\]"):
        rotate(x, table, out=room)


def test_the_kernel_writes_between_poisoned_neighbours(impl):
    x, around = room(2, 5, 2, 12, dtype=torch.bfloat16)
    x.copy_(torch.randn(2, 5, 2, 12))
    table = table_of(torch.randn(5, 6, dtype=torch.float64))
    out, beside = room(2, 5, 2, 12, dtype=torch.bfloat16)
    assert rotate(x, table, impl, out) is out and untouched(out, beside) and untouched(x, around)
    exact = rotate(x.double(), table)
    assert ((out.double() - exact).abs() <= 2**-8 * 1.01 * exact.abs() + 2**-20).all()


def test_lengths_and_distances_survive():
    x = torch.randn(1, 6, 1, 8, dtype=torch.float64)
    angles = torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01])
    table = torch.stack([angles.cos(), angles.sin()], -1)
    same = x[:, :1].expand_as(x)
    y = rotate(same, table)
    torch.testing.assert_close(y.norm(dim=-1), same.norm(dim=-1), rtol=1e-14, atol=0)
    steps = (y[:, 1:] * y[:, :-1]).sum(-1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-13, atol=0)


def test_gradients_flow():
    x = torch.randn(1, 4, 2, 6, dtype=torch.float64, requires_grad=True)
    table = table_of(torch.randn(4, 3, dtype=torch.float64)).double()
    assert torch.autograd.gradcheck(lambda value: rotate_reference(value, table), (x,))


def test_what_does_not_fit_is_refused():
    x = torch.zeros(1, 4, 2, 6)
    with pytest.raises(ValueError, match=r"tokens of head width 6 need a table \[4, 3, 2\], got \[5, 3, 2\]"):
        rotate(x, torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match=r"x must be \[B, L, N, D\] of floating point, got \[4, 2, 6\]"):
        rotate(x[0], torch.zeros(4, 3, 2))
    with pytest.raises(ValueError, match=r"floating point, got .* of torch.int64"):
        rotate(x.long(), torch.zeros(4, 3, 2))
    with pytest.raises(ValueError, match="x is on cpu, the table on meta"):
        rotate(x, torch.zeros(4, 3, 2, device="meta"))
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        rotate(x, torch.zeros(4, 3, 2), impl="fast")

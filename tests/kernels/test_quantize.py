import pytest
import torch
from rivulet.kernels.quantize import dequantize, quantize
from rivulet.tests.kernels.rows import room, untouched

TOP = {8: 127, 4: 7}


def unpacked(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes as float64 numbers, byte by byte in plain Python."""
    if bits == 8:
        return codes.double()
    pairs = [(byte % 16 - 8, byte // 16 - 8) for byte in codes.flatten().tolist()]
    return torch.tensor(pairs, dtype=torch.float64).view(*codes.shape[:-1], -1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
@pytest.mark.parametrize(("shape", "group"), [((3, 64), 64), ((2, 5, 48), 16), ((1, 7, 18), 6)], ids=str)
def test_numbers_come_back_within_half_a_step(bits, dtype, kept, shape, group, impl):
    if dtype == torch.float64 and impl == "triton":
        with pytest.raises(RuntimeError, match=r"does not take torch.float64"):
            quantize(torch.zeros(1, 4, dtype=dtype), 4, bits, impl=impl)
        return
    x = (torch.randn(shape) * torch.logspace(-2, 2, shape[-1])).to(dtype)
    scales = torch.empty(*shape[:-1], shape[-1] // group, dtype=kept)
    codes, same = quantize(x, group, bits, scales=scales, impl=impl)
    assert same is scales
    top, step = TOP[bits], scales.double().repeat_interleave(group, -1)
    numbers = unpacked(codes, bits)
    assert numbers.abs().max() <= top
    largest = x.double().unflatten(-1, (-1, group)).abs().amax(-1)
    # storing a scale rounds it, and the division before was float32's
    stored = (torch.finfo(kept).eps / 2 + 2**-23) * largest / top + torch.finfo(kept).smallest_normal * 2**-10
    assert ((scales.double() - largest / top).abs() <= stored).all()
    # half a step, and what a scale stored too small cuts off; x / scale was rounded before it was
    worst = step * (0.5 + top * 2**-23) + top * stored.repeat_interleave(group, -1)
    assert ((numbers * step - x.double()).abs() <= worst).all()
    back = dequantize(codes, scales, group, bits, torch.float32, impl=impl)
    torch.testing.assert_close(back.double(), numbers * step, rtol=2**-23, atol=0)


def test_each_group_has_its_own_scale_and_rounds_halves_away_from_zero(impl):
    x = torch.tensor([[127.0, 0.5, -0.5, 1.5, 1270.0, 5.0, -5.0, 14.9]])
    codes, scales = quantize(x, 4, 8, impl=impl)
    assert scales.tolist() == [[1.0, 10.0]]
    assert codes.tolist() == [[127, 1, -1, 2, 127, 1, -1, 1]]


def test_int4_pairs_lie_low_channel_first(impl):
    codes, scales = quantize(torch.tensor([[7.0, -7.0, 0.0, 3.0]]), 4, 4, impl=impl)
    assert scales.tolist() == [[1.0]]
    assert codes.tolist() == [[15 + 16 * 1, 8 + 16 * 11]]


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zero_and_what_is_too_large_saturates(bits, impl):
    x = torch.zeros(1, 32)
    x[0, 16:] = 3e38
    codes, scales = quantize(x, 16, bits, impl=impl)
    back = dequantize(codes, scales, 16, bits, torch.float32, impl=impl)
    assert (back[0, :16] == 0).all()
    assert (back[0, 16:] == 65504 * TOP[bits]).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_given_views_are_filled_and_nothing_beside_them(bits, impl):
    x = torch.randn(2, 35, 48)[:, :, ::2] if impl == "reference" else torch.randn(2, 35, 48)[:, :, 2:26]
    codes, around = room(2, 35, 24 * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
    scales, beside = room(2, 35, 3, dtype=torch.float16)
    quantize(x, 8, bits, codes, scales, impl)
    assert untouched(codes, around) and untouched(scales, beside)
    fresh = quantize(x.contiguous(), 8, bits)
    assert torch.equal(codes, fresh[0]) and torch.equal(scales, fresh[1])
    back, beside = room(2, 35, 24, dtype=torch.bfloat16)
    dequantize(codes, scales, 8, bits, torch.bfloat16, back, impl)
    assert untouched(back, beside)
    assert torch.equal(back, dequantize(*fresh, 8, bits, torch.bfloat16))


def test_no_rows_are_no_work(impl):
    codes, scales = quantize(torch.zeros(2, 0, 32), 16, 4, impl=impl)
    assert codes.shape == (2, 0, 16) and scales.shape == (2, 0, 2)
    assert dequantize(codes, scales, 16, 4, torch.float32, impl=impl).shape == (2, 0, 32)


def test_what_does_not_fit_is_refused():
    x = torch.zeros(2, 48)
    with pytest.raises(ValueError, match="codes have 8 or 4 bits, not 2"):
        quantize(x, 16, 2)
    with pytest.raises(ValueError, match="48 channels do not divide into groups of 20; give a group"):
        quantize(x, 20, 8)
    with pytest.raises(ValueError, match="groups of 3 with an even number of int4 channels"):
        quantize(x, 3, 4)
    with pytest.raises(ValueError, match=r"x must be \[..., C\] of floating point, got .* of torch.int64"):
        quantize(x.long(), 16, 8)
    with pytest.raises(
        ValueError, match=r"codes of 4 bits must be \[2, 24\] of torch.uint8, got \[2, 48\] of"
    ):
        quantize(x, 16, 4, out=torch.empty(2, 48, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"scales must be \[2, 3\] of float16 or float32, got \[2, 3\] of"):
        quantize(x, 16, 8, scales=torch.empty(2, 3, dtype=torch.bfloat16))
    codes, scales = quantize(x, 16, 8)
    with pytest.raises(ValueError, match="48 channels of 8 bits do not divide into groups of 20"):
        dequantize(codes, scales, 20, 8, torch.float32)
    with pytest.raises(ValueError, match=r"out must be \[2, 48\] of torch.float32, got \[2, 24\]"):
        dequantize(codes, scales, 16, 8, torch.float32, out=torch.empty(2, 24))
    with pytest.raises(ValueError, match="no implementation is called 'cuda'"):
        quantize(x, 16, 8, impl="cuda")

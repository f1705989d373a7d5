import pytest
import torch
from rivulet.kernels import tiers as tiers_module
from rivulet.kernels.quantize import quantize
from rivulet.kernels.tiers import Latents, Tiers, check_rows


def test_sizes_of_a_token():
    tiers = Tiers(256, 768, 64)
    assert (tiers.rank, tiers.groups, tiers.code_bytes) == (1024, 16, 256 + 384)
    assert (Tiers(0, 32, 16).code_bytes, Tiers(48, group=24).groups) == (16, 2)


@pytest.mark.parametrize(("wide", "narrow"), [(32, 64), (32, 0), (0, 64)])
def test_both_tiers_come_back_in_order(wide, narrow):
    tiers = Tiers(wide, narrow, 16)
    x = torch.randn(2, 3, tiers.rank)
    codes = torch.empty(2, 3, tiers.code_bytes, dtype=torch.int8)
    scales = torch.empty(2, 3, tiers.groups, dtype=torch.float16)
    (wide_rows, wide_steps), (narrow_rows, narrow_steps) = tiers.split(codes, scales)
    if wide:
        quantize(x[..., :wide], 16, 8, wide_rows, wide_steps)
    if narrow:
        quantize(x[..., wide:], 16, 4, narrow_rows, narrow_steps)
    latents = Latents(codes, scales, tiers)
    latents.check("here")
    back = latents.to_float(torch.float32)
    step = scales.float().repeat_interleave(16, -1)
    # half a step and the rounding of the float16 scale, at most 127 codes away from zero
    assert ((back - x).abs() <= step * (0.5 + 127 * 2**-10)).all()
    assert latents.rank == tiers.rank == Latents(back).rank


def test_unquantised_latents_are_taken_as_they_are():
    c = torch.randn(1, 2, 24)
    Latents(c).check("here")
    assert torch.equal(Latents(c).to_float(torch.float32), c)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="100 int8 and 0 int4 channels do not divide into groups of 64"):
        Tiers(100)
    with pytest.raises(ValueError, match="0 int8 and 0 int4 channels; give one or more"):
        Tiers(0)
    with pytest.raises(ValueError, match="give one or more"):
        Tiers(-64, 128)
    tiers, codes = Tiers(16, 32, 16), torch.zeros(1, 2, 32, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"here: the codes need floating-point scales \[1, 2, 3\], got none"):
        check_rows("here", tiers, codes, None)
    with pytest.raises(ValueError, match=r"need codes \[..., 32\] of int8, got \[1, 2, 30\]"):
        check_rows("here", tiers, codes[..., :30], torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"codes must be \[B, L, bytes\], got \[2, 32\]"):
        Latents(codes[0], torch.zeros(2, 3), tiers).check("here")
    with pytest.raises(ValueError, match=r"without tiers must be \[B, L, rank\] of floating point"):
        Latents(codes).check("here")


def test_they_are_dequantised_by_torch_wherever_they_lie(monkeypatch):
    """What a kernel is compared with has no kernel in it."""
    asked = []
    monkeypatch.setattr(
        tiers_module, "dequantize", lambda *given, impl="auto": asked.append(impl) or torch.zeros(1, 2, 16)
    )
    codes, scales = torch.zeros(1, 2, 24, dtype=torch.int8), torch.ones(1, 2, 2, dtype=torch.float16)
    Latents(codes, scales, Tiers(16, 16, 16)).to_float(torch.float32)
    assert asked == ["reference", "reference"]

import pytest
import torch
from rivulet.kernels.latent_write import latent_write
from rivulet.kernels.tiers import Latents, Tiers
from rivulet.tests.kernels.rows import room, untouched


def written(x, basis, shift, tiers, impl, kept=torch.float16):
    rows = x.shape[:2]
    codes, around = room(*rows, tiers.code_bytes, dtype=torch.int8)
    scales, beside = room(*rows, tiers.groups, dtype=kept)
    latent_write(x, basis, shift, tiers, codes, scales, impl=impl)
    assert untouched(codes, around) and untouched(scales, beside)
    return Latents(codes, scales, tiers)


def check_error(latents: Latents, x: torch.Tensor, basis: torch.Tensor, shift: torch.Tensor) -> None:
    """Every latent is within half a step, its scale's rounding and that of a float32 sum of the exact one."""
    exact = x.double() @ basis.double() - shift.double()
    tiers = latents.tiers
    step = latents.scales.double().repeat_interleave(tiers.group, -1)
    top = torch.tensor([127.0] * tiers.wide + [7.0] * tiers.narrow, dtype=torch.float64)
    sums = (x.shape[-1] + 4) * 2**-23 * (x.double().abs() @ basis.double().abs() + shift.double().abs())
    worst = step * (0.5 + top * torch.finfo(latents.scales.dtype).eps) + 2 * sums
    assert ((latents.to_float(torch.float64) - exact).abs() <= worst).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("tokens", "channels", "tiers"),
    [(7, 48, Tiers(32, 64, 16)), (70, 100, Tiers(24, 0, 12)), (1, 64, Tiers(0, 64, 32))],
    ids=str,
)
def test_latents_are_kept_within_half_a_step(dtype, tokens, channels, tiers, impl):
    x = (torch.randn(2, tokens, channels) + 3).to(dtype)
    basis, shift = torch.randn(channels, tiers.rank), torch.randn(tiers.rank)
    check_error(written(x, basis, shift, tiers, impl), x, basis, shift)


def test_a_basis_that_amplifies_is_not_rounded(impl):
    # of two nearly equal channels the basis takes the difference a thousand times
    x = torch.ones(1, 4, 16, dtype=torch.bfloat16)
    x[..., 0] += torch.arange(4, dtype=torch.bfloat16) / 128
    basis = torch.zeros(16, 16)
    basis[0, 0], basis[1, 0] = 1001.9, -1001.9
    kept = written(x, basis, torch.zeros(16), Tiers(16, 0, 16), impl).to_float(torch.float32)
    exact = torch.arange(4) / 128 * 1001.9
    torch.testing.assert_close(kept[0, :, 0], exact, rtol=1e-3, atol=0)


def test_no_tokens_are_no_work(impl):
    latents = written(torch.zeros(2, 0, 16), torch.zeros(16, 32), torch.zeros(32), Tiers(16, 16, 16), impl)
    assert latents.to_float(torch.float32).shape == (2, 0, 32)


def test_what_does_not_fit_is_refused():
    tiers = Tiers(16, 32, 16)
    x, basis, shift = torch.zeros(1, 4, 8), torch.zeros(8, 48), torch.zeros(48)
    codes, scales = torch.zeros(1, 4, 32, dtype=torch.int8), torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match=r"48 latent channels need a basis \[C, 48\], got \[8, 32\]"):
        latent_write(x, basis[:, :32], shift, tiers, codes, scales)
    with pytest.raises(ValueError, match=r"shift must be \[48\], got \[32\]"):
        latent_write(x, basis, shift[:32], tiers, codes, scales)
    with pytest.raises(ValueError, match="basis and shift must be float32"):
        latent_write(x, basis.bfloat16(), shift, tiers, codes, scales)
    with pytest.raises(ValueError, match=r"\[1, 4\] tokens do not fit into rows \[1, 3\]"):
        latent_write(x, basis, shift, tiers, codes[:, :3], scales[:, :3])
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        latent_write(x, basis, shift, tiers, codes, scales, impl="fast")

from dataclasses import dataclass

import pytest
import torch
from rivulet.kernels.latent_write import latent_write
from rivulet.kernels.projections import UpProjections
from rivulet.kernels.rebuild import rebuild
from rivulet.kernels.tiers import Latents, Tiers
from rivulet.tests.kernels.rows import room, table_of, turned, untouched
from torch import Tensor


@dataclass
class Case:
    """Latents of a layer, and what its keys and values must be in float64."""

    latents: Latents
    up: UpProjections
    angles: Tensor
    inverse: Tensor | None
    heads: int
    width: int

    def exact(self, magnitudes: bool = False) -> tuple[Tensor, Tensor]:
        """Returns float64 keys and values; with magnitudes, each sum of absolute values that makes one up."""

        def size(x: Tensor) -> Tensor:
            return x.double().abs() if magnitudes else x.double()

        def up(c: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            made = size(c) @ size(weight)
            return (made if bias is None else made + size(bias)).unflatten(-1, (self.heads, -1))

        def turn(x: Tensor) -> Tensor:
            if not magnitudes:
                return turned(x, self.angles)
            pairs = x.unflatten(-1, (-1, 2))
            return pairs.sum(-1, keepdim=True).expand_as(pairs).flatten(-2)

        rank = self.up.key.shape[0]
        c = self.latents.to_float(torch.float64)
        k = up(c[..., :rank], self.up.key, self.up.key_bias)
        if self.inverse is not None:
            k = k * size(self.inverse)[..., None, None]
        if c.shape[-1] == rank:
            k = turn(k)
        else:
            tail = turn(size(c[..., None, rank:])).expand(*k.shape[:-1], -1)
            k = torch.cat([k, tail], -1)
        return k, up(c[..., :rank], self.up.value, self.up.value_bias)

    def check(self, keys: Tensor, values: Tensor) -> None:
        """Asserts that keys and values are as near as their dtype's products and a float32 sum allow."""
        dtype = self.up.key.dtype
        # the latent in the weights' dtype, its product as that dtype, and the stored key: three roundings;
        # then float32: the sum in any order, the scale's product, bias, 1/rms, table and rotation
        bound = 1.5 * torch.finfo(dtype).eps + (self.up.key.shape[0] + 10) * 2**-24
        for got, want, size in zip((keys, values), self.exact(), self.exact(True), strict=True):
            assert got.isfinite().all()
            assert ((got.double() - want).abs() <= bound * size).all()


def case_of(
    rows=2, tokens=7, heads=3, width=10, tiers: Tiers | int = 24, shared=0, dtype=torch.float32, bias=True
) -> Case:
    rank = tiers if isinstance(tiers, int) else tiers.rank
    if isinstance(tiers, int):
        latents = Latents(torch.randn(rows, tokens, rank).to(dtype))
    else:
        codes = torch.empty(rows, tokens, tiers.code_bytes, dtype=torch.int8)
        scales = torch.empty(rows, tokens, tiers.groups, dtype=torch.float16)
        latent_write(
            torch.randn(rows, tokens, rank), torch.eye(rank), torch.zeros(rank), tiers, codes, scales
        )
        latents = Latents(codes, scales, tiers)
    made = heads * (width - shared), heads * width
    weights = [torch.randn(rank - shared, size).to(dtype) for size in made]
    biases = [torch.randn(size) if bias else None for size in made]
    angles = torch.rand(tokens, (shared or width) // 2, dtype=torch.float64) * 40
    inverse = None if shared else torch.rand(rows, tokens).half() + 0.5
    return Case(latents, UpProjections(*weights, *biases), angles, inverse, heads, width)


def made(case: Case, impl: str) -> tuple[Tensor, Tensor]:
    """Returns keys and values, written between poisoned neighbours."""
    shape = (*case.latents.codes.shape[:2], case.heads, case.width)
    buffers = [room(*shape, dtype=case.up.key.dtype) for _ in range(2)]
    (keys, _), (values, _) = buffers
    rebuild(case.latents, case.up, table_of(case.angles), keys, values, case.inverse, impl=impl)
    assert all(untouched(*pair) for pair in buffers)
    return keys, values


CASES = {
    "floating point": {},
    "int8": {"tiers": Tiers(32, 0, 16)},
    "int4": {"tiers": Tiers(0, 32, 16)},
    "two tiers": {"tiers": Tiers(32, 64, 16), "width": 32},
    "odd groups": {"tiers": Tiers(12, 24, 6), "bias": False},
    "shared key": {"tiers": 28, "shared": 4, "bias": False},
    "shared key, int8": {"tiers": Tiers(48, 0, 16), "shared": 8, "width": 24},
    "two blocks of tokens": {"rows": 1, "tokens": 70, "tiers": 72, "width": 16},
    "one token": {"rows": 1, "tokens": 1, "tiers": Tiers(16, 16, 16)},
    "bf16": {"tiers": Tiers(32, 32, 16), "dtype": torch.bfloat16},
    "bf16, shared key": {"tiers": 40, "shared": 8, "width": 16, "dtype": torch.bfloat16},
    "fp16": {"tiers": Tiers(32, 32, 16), "dtype": torch.float16},
}


@pytest.mark.parametrize("name", CASES)
def test_keys_and_values_are_those_of_the_latents(name, impl):
    case = case_of(**CASES[name])
    case.check(*made(case, impl))


def test_the_buffers_may_be_slices_of_one_workspace(impl):
    case = case_of(rows=1, tokens=6, tiers=Tiers(32, 32, 16))
    room_BLND = torch.full((1, 9, 3, 10), torch.nan), torch.full((1, 9, 3, 10), torch.nan)
    keys, values = (part[:, 2:8] for part in room_BLND)
    rebuild(case.latents, case.up, table_of(case.angles), keys, values, case.inverse, impl)
    case.check(keys, values)
    assert all(part[:, :2].isnan().all() and part[:, 8:].isnan().all() for part in room_BLND)


def test_float64_latents_are_rebuilt_in_float64():
    case = case_of(dtype=torch.float64, bias=False)
    keys, values = torch.empty(2, 2, 7, 3, 10, dtype=torch.float64)
    rebuild(case.latents, case.up, table_of(case.angles, torch.float64), keys, values, case.inverse)
    want = case.exact()
    torch.testing.assert_close((keys, values), want, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_refused():
    case = case_of()
    keys, values = torch.zeros(2, 2, 7, 3, 10)
    table, up = table_of(case.angles), case.up
    with pytest.raises(ValueError, match=r"keys and values must be buffers \[B, L, N, D\] of one shape"):
        rebuild(case.latents, up, table, keys, values[:1])
    with pytest.raises(ValueError, match=r"24 channels and 5 heads of 10 need up-projections \[24, 50\] and"):
        rebuild(case.latents, up, table, *torch.zeros(2, 2, 7, 5, 10), case.inverse)
    with pytest.raises(ValueError, match=r"latents of \[2, 7\] tokens do not fit into keys of \[2, 6\]"):
        rebuild(case.latents, up, table, keys[:, :6], values[:, :6])
    with pytest.raises(ValueError, match=r"10 rotary channels need a table \[7, 5, 2\], got \[7, 4, 2\]"):
        rebuild(case.latents, up, table[:, :4], keys, values)
    with pytest.raises(ValueError, match=r"inverse_rms must be \[2, 7\], got \[7\]"):
        rebuild(case.latents, up, table, keys, values, torch.ones(7))
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        rebuild(case.latents, up, table, keys, values, impl="fast")

"""That bfloat16 in Triton's interpreter needs mending, and that ours mends it."""

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU nothing is interpreted")


def product(triton, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns left @ right, both bf16, as a kernel makes it: stored as bf16 from float32 sums."""
    tl = triton.language

    @triton.jit
    def multiply(A, B, C, SIZE: tl.constexpr):
        at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
        total = tl.dot(tl.load(A + at), tl.load(B + at))
        tl.store(C + at, total.to(tl.bfloat16))

    multiply.fn.__globals__["tl"] = tl
    out = torch.full_like(left, torch.nan)
    multiply[(1,)](left, right, out, SIZE=left.shape[0])
    return out


@pytest.fixture
def factors():
    return torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16()


def nearest(factors) -> torch.Tensor:
    """Returns the exact product rounded to bf16; sums of 16 products of 8 bits are exact in float64."""
    return (factors[0].double() @ factors[1].double()).to(torch.bfloat16)


def test_the_interpreter_alone_multiplies_bit_patterns(plain_triton, factors):
    got, want = product(plain_triton, *factors), nearest(factors)
    wrong = (got.double() - want.double()).abs() > want.double().abs()
    assert wrong.float().mean() > 0.5, "Triton multiplies bf16 now: tests/kernels/bf16.py can go"


def test_mended_it_multiplies_numbers_and_rounds_to_the_nearest(triton, factors):
    got, want = product(triton, *factors), nearest(factors)
    # float32 sums may round the other way where the exact one lies between two bf16 numbers
    apart = (got.view(torch.int16).int() - want.view(torch.int16).int()).abs()
    assert apart.max() <= 1 and (apart == 0).float().mean() > 0.98


def test_conversions_agree_with_torch(triton):
    from rivulet.tests.kernels.bf16 import numbers, patterns

    values = torch.cat(
        [torch.randn(1000) * 10.0 ** torch.randint(-30, 30, (1000,)), torch.tensor(float("inf"))[None]]
    )
    made = torch.from_numpy(patterns(values.numpy()).view("int16")).view(torch.bfloat16)
    assert torch.equal(made, values.bfloat16())
    back = torch.from_numpy(numbers(made.view(torch.int16).numpy().view("uint16")))
    assert torch.equal(back, made.float())
    assert patterns(torch.tensor([float("nan")]).numpy()) == 0x7FC0

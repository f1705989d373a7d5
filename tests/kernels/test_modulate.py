import pytest
import torch
from rivulet.kernels.modulate import add_norm_modulate, gate, modulate, norm_modulate
from rivulet.tests.kernels.rows import room, untouched
from torch.nn import functional as F

EPS = 1e-6


def framewise(vector, tokens):
    """Returns float64 [B, L, C]: each frame's vector for each of its tokens."""
    return vector.double().repeat_interleave(tokens // vector.shape[1], 1)


def exact(x, shift, scale):
    """Returns float64 (result, what bounds its error): magnitudes of the normalised channel and the shift."""
    x = x.double()
    mean, inverse = x.mean(-1, keepdim=True), (x.var(-1, unbiased=False, keepdim=True) + EPS).rsqrt()
    shift, scale = (framewise(vector, x.shape[1]) for vector in (shift, scale))
    size = (x.abs() + x.abs().mean(-1, keepdim=True)) * inverse * (1 + scale).abs() + shift.abs()
    return (x - mean) * inverse * (1 + scale) + shift, size


def bound(dtype, channels, impl):
    # a mean, a mean of squares, a root, three products, two sums in float32, then one rounding to dtype; the
    # reference stores the norm and 1 + scale in dtype as well
    roundings = 0.5 if impl == "triton" else 2
    return (2 * channels**0.5 + 8) * 2**-23 + roundings * torch.finfo(dtype).eps


def given(dtype, rows, tokens, channels, frames, vectors):
    """Returns (x, update, vectors): x a view between others, vectors views of one tensor as Wan's are."""
    x, around = room(rows, tokens, channels, dtype=dtype)
    x.copy_(torch.randn(x.shape) * 3 + 1)
    update = torch.randn(rows, tokens, channels).to(dtype)
    six = torch.randn(vectors, frames, 6, channels).to(dtype)
    return x, around, update, six.unbind(2)


CASES = [(2, 6, 10, 3, 2), (1, 7, 1, 7, 1), (3, 4, 128, 1, 1), (1, 9, 100, 3, 1), (2, 2, 33, 2, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_tokens_are_normalised_and_moved_frame_by_frame(dtype, sizes, impl):
    x, around, _, (shift, scale, *_) = given(dtype, *sizes)
    got = norm_modulate(x, shift, scale, EPS, impl)
    assert got.dtype == dtype and got.is_contiguous() and untouched(x, around)
    want, size = exact(x, shift, scale)
    assert ((got.double() - want).abs() <= bound(dtype, sizes[2], impl) * size).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "added"])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_what_is_added_is_added_first_and_kept(dtype, gated, sizes, impl):
    x, around, update, (shift, scale, factor, *_) = given(dtype, *sizes)
    before = x.clone()
    total, got = add_norm_modulate(x, update, factor if gated else None, shift, scale, EPS, impl)
    assert total.dtype == got.dtype == dtype and torch.equal(x, before) and untouched(x, around)
    moved = update.double() * (framewise(factor, x.shape[1]) if gated else 1)
    near = (torch.finfo(dtype).eps / 2 + 2**-22) * (x.double().abs() + moved.abs())
    assert ((total.double() - (x.double() + moved)).abs() <= near).all()
    want, size = exact(total, shift, scale)
    assert ((got.double() - want).abs() <= bound(dtype, sizes[2], impl) * size).all()


def test_a_mean_far_from_zero_costs_no_digits(impl):
    x = torch.randn(1, 3, 64) + 1000
    shift, scale = torch.zeros(2, 1, 1, 64)
    want, _ = exact(x, shift, scale)
    # x - mean is exact to the mean's rounding, of thousand: a mean of squares less a squared mean is not
    got = norm_modulate(x, shift, scale, EPS, impl)
    assert ((got.double() - want).abs() <= 2**-23 * 1000 * 8).all()


def test_the_reference_is_the_layers_one_after_another():
    """What a forward computed before its norms and modulations were one operation, to the last bit."""
    x, update = torch.randn(2, 2, 6, 16).bfloat16()
    shift, scale, factor = torch.randn(3, 1, 3, 16).bfloat16()
    norm = torch.nn.LayerNorm(16, eps=EPS, elementwise_affine=False)
    assert torch.equal(norm_modulate(x, shift, scale, EPS), modulate(norm(x), shift, scale))
    total, got = add_norm_modulate(x, update, factor, shift, scale, EPS)
    assert torch.equal(total, gate(x, update, factor))
    assert torch.equal(got, modulate(norm(total), shift, scale))
    plain, _ = add_norm_modulate(x, update, None, shift, scale, EPS)
    assert torch.equal(plain, x + update)


def test_gradients_flow():
    x, update = torch.randn(2, 1, 4, 3, dtype=torch.float64, requires_grad=True).unbind()
    vectors = torch.randn(3, 1, 2, 3, dtype=torch.float64, requires_grad=True).unbind()
    work = lambda x, u, g, sh, sc: add_norm_modulate(x, u, g, sh, sc, 1e-3)  # noqa: E731
    assert torch.autograd.gradcheck(work, (x, update, *vectors))


def test_in_a_graph_it_is_what_the_compiler_joins(impl):
    x, (shift, scale) = torch.randn(1, 4, 8), torch.randn(2, 1, 2, 8)
    torch._dynamo.reset()
    work = torch.compile(lambda x: norm_modulate(x, shift, scale, EPS, impl), fullgraph=True, backend="eager")
    want = modulate(F.layer_norm(x, (8,), eps=EPS), shift, scale)
    with torch.no_grad():
        assert torch.equal(work(x), want)


def test_tensors_of_two_dtypes_are_left_to_torch():
    x, (shift, scale) = torch.randn(1, 4, 8), torch.randn(2, 1, 2, 8).double()
    with pytest.raises(RuntimeError, match=r"cannot run: tensors differ in dtype"):
        norm_modulate(x, shift, scale, EPS, "triton")
    assert norm_modulate(x, shift, scale, EPS).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    x, vector = torch.zeros(2, 6, 8), torch.zeros(1, 3, 8)
    with pytest.raises(ValueError, match=r"2 rows of 6 tokens of 8 channels need shift, scale and"):
        norm_modulate(x, vector, torch.zeros(1, 4, 8), EPS)
    with pytest.raises(ValueError, match=r"got \[3, 3, 8\]"):
        norm_modulate(x, torch.zeros(3, 3, 8), vector, EPS)
    with pytest.raises(ValueError, match=r"got \[1, 3, 7\]"):
        add_norm_modulate(x, x, torch.zeros(1, 3, 7), vector, vector, EPS)
    with pytest.raises(ValueError, match=r"update of its shape, got \[2, 6, 8\] and an update \[2, 5, 8\]"):
        add_norm_modulate(x, x[:, :5], vector, vector, vector, EPS)
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        norm_modulate(x, vector, vector, EPS, impl="fast")

import pytest
import torch
from rivulet.kernels.segment_attention import merge, segment_attention
from rivulet.tests.kernels.rows import room, untouched


def exact(q, keys, values, scale):
    """Returns float64 (result, log-sum) [B, N, M, ...], and what bounds the error of each."""
    q, keys, values = (x.double().transpose(1, 2) for x in (q, keys, values))
    scores = q @ keys.mT * scale
    size = q.abs() @ keys.abs().mT * scale
    weights = scores.softmax(-1)
    return weights @ values, scores.logsumexp(-1), weights @ values.abs(), size.amax(-1)


def check(got, q, pairs, scale):
    keys, values = (torch.cat([pair[i] for pair in pairs], 1) for i in range(2))
    out, total, size, score = exact(q, keys, values, scale)
    eps, single = torch.finfo(q.dtype).eps, 2**-23
    # a score's error moves its weight by as much, and the sum of weights too; sums in any order
    moved = (q.shape[3] + 8) * single * (score + 1)
    summed = (keys.shape[1] + 8) * single
    # half-precision weights and results are rounded once each
    bound = (2 * moved[..., None] + summed + eps) * size
    assert ((got[0].double().transpose(1, 2) - out).abs() <= bound).all()
    assert ((got[1].double() - total).abs() <= moved + summed + single * total.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "queries", "heads", "width", "lengths"),
    [(2, 7, 3, 10, (5,)), (1, 130, 1, 16, (33, 0, 40)), (1, 1, 2, 24, (0, 1)), (1, 5, 1, 64, (1, 32, 31))],
    ids=str,
)
def test_all_segments_share_one_softmax(dtype, rows, queries, heads, width, lengths, impl):
    q = torch.randn(rows, queries, heads, width).to(dtype) * 2
    buffers = [[room(rows, n, heads, width, dtype=dtype) for _ in "kv"] for n in lengths]
    pairs = [tuple(part.copy_(torch.randn(part.shape)) for part, _ in both) for both in buffers]
    got = segment_attention(q, pairs, impl=impl)
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    assert all(untouched(*part) for both in buffers for part in both)
    check(got, q, pairs, width**-0.5)


def test_great_scores_do_not_overflow(impl):
    q = torch.full((1, 2, 1, 16), 100.0)
    pairs = [(q[:, :1] * sign, torch.full((1, 1, 1, 16), value)) for sign, value in ((-1.0, 5.0), (1.0, 7.0))]
    out, total = segment_attention(q, pairs, scale=1.0, impl=impl)
    assert (out == 7).all() and torch.allclose(total, torch.tensor(160000.0))


def test_the_order_of_the_keys_does_not_matter(impl):
    q, keys, values = (torch.randn(1, n, 2, 16) for n in (3, 40, 40))
    order = torch.randperm(40)
    mixed = keys[:, order], values[:, order]
    check(segment_attention(q, [mixed], impl=impl), q, [(keys, values)], 0.25)


def test_parts_are_joined_by_their_sums(impl):
    q = torch.randn(2, 3, 2, 16)
    pairs = [tuple(torch.randn(2, n, 2, 16) * 3 for _ in "kv") for n in (4, 1, 9)]
    parts = [segment_attention(q, [pair], impl=impl) for pair in pairs]
    check(merge(parts), q, pairs, 0.25)


def test_float64_stays_float64():
    q = torch.randn(1, 3, 2, 16, dtype=torch.float64)
    pair = tuple(torch.randn(1, 5, 2, 16, dtype=torch.float64) for _ in "kv")
    out, total = segment_attention(q, [pair])
    want, sums, _, _ = exact(q, *pair, 0.25)
    torch.testing.assert_close((out.transpose(1, 2), total), (want, sums), rtol=1e-13, atol=1e-13)


def test_what_does_not_fit_is_refused():
    q, k = torch.zeros(1, 3, 2, 16), torch.zeros(1, 5, 2, 16)
    with pytest.raises(ValueError, match="takes 1 to 3 segments, got 4; join some"):
        segment_attention(q, [(k, k)] * 4)
    with pytest.raises(ValueError, match=r"keys and values \[1, L, 2, 16\], got \[1, 5, 2, 16\] and \[1, 4"):
        segment_attention(q, [(k, k[:, :4])])
    with pytest.raises(ValueError, match=r"queries of width 16 and torch.float32 need keys and"):
        segment_attention(q, [(k.half(), k.half())])
    with pytest.raises(ValueError, match="no segment has a key; a softmax needs at least one"):
        segment_attention(q, [(k[:, :0], k[:, :0])])
    with pytest.raises(ValueError, match="no implementation is called 'fast'"):
        segment_attention(q, [(k, k)], impl="fast")

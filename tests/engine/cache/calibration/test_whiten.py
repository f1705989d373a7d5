"""The whitened joint basis: what it must be by algebra, and that it beats the bases it replaces."""

import pytest
import torch
from rivulet.model_patches.cache.calibration.whiten import RIDGE, key_need, value_need, whiten

C, OUT, N = 12, 12, 3
EPS = torch.finfo(torch.float64).eps


def layer(seed=0):
    """Correlated tokens, and two projections of them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(4000, C) @ (torch.linspace(0.05, 3, C).double()[:, None] * draw(C, C)) + 5
    return x, draw(C, OUT), draw(C, OUT)


def moments(x):
    return x.mean(0), torch.cov(x.T, correction=0)


def left_out(x, up_RC, down_CR, rank, needs):
    """Mean over the needs of the share of energy that rank channels lose, token by token."""
    off = (x - x.mean(0)) - ((x - x.mean(0)) @ down_CR[:, :rank]) @ up_RC[:rank]
    shares = [((off @ need).square().sum() / ((x - x.mean(0)) @ need).square().sum()) for need in needs]
    return float(sum(shares) / len(shares))


def test_latents_have_mean_0_and_unit_covariance_and_give_tokens_back():
    x, key, value = layer()
    basis = whiten(*moments(x), [key, value])
    c = (x - basis.mean_C) @ basis.down_CR
    # the ridge takes a share of the least variance; no more than that
    least = torch.linalg.eigvalsh(moments(x)[1]).min()
    share = RIDGE * moments(x)[1].diagonal().mean() / least
    assert float((torch.cov(c.T, correction=0) - torch.eye(C)).abs().max()) <= float(share) * 1.01
    assert float(c.mean(0).abs().max()) < 1e-9
    condition = float(torch.linalg.cond(moments(x)[1]))
    back = basis.mean_C + c @ basis.up_RC
    torch.testing.assert_close(back, x, rtol=0, atol=100 * C * EPS * condition)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_importance_is_the_error_of_leaving_channels_out(rank):
    x, key, value = layer()
    basis = whiten(*moments(x), [key, value])
    assert (basis.importance_R.diff() <= 0).all()
    told = float(basis.importance_R[rank:].sum())
    # the ridge is in the one and not in the other
    assert left_out(x, basis.up_RC, basis.down_CR, rank, [key, value]) == pytest.approx(told, abs=C * RIDGE)


@pytest.mark.parametrize("rank", [2, 4, 6, 9])
def test_it_loses_less_than_principal_components_and_than_weights_alone(rank):
    x, key, value = layer()
    mean, covariance = moments(x)
    ours = whiten(mean, covariance, [key, value])
    components = torch.linalg.eigh(covariance)[1].flip(1)
    weights = torch.linalg.svd(torch.cat([key / key.norm(), value / value.norm()], 1)).U
    least = left_out(x, ours.up_RC, ours.down_CR, rank, [key, value])
    for other in (components, weights):
        assert least < left_out(x, other.T, other, rank, [key, value])


def test_keys_and_values_count_alike_whatever_their_size():
    x, key, value = layer()
    one = whiten(*moments(x), [key, value]).importance_R
    torch.testing.assert_close(
        whiten(*moments(x), [1e3 * key, value]).importance_R, one, rtol=1e-9, atol=1e-12
    )


def test_a_dead_layer_gives_finite_numbers():
    basis = whiten(torch.zeros(C).double(), torch.zeros(C, C).double(), [torch.zeros(C, OUT).double()])
    assert all(bool(part.isfinite().all()) for part in (basis.down_CR, basis.up_RC, basis.importance_R))


def test_key_need_is_what_queries_see_at_any_distance():
    """Mean over all turns of a pair, of the squared product of query and key: closed form against turning."""
    _, key, _ = layer()
    gain = torch.linspace(0.5, 2, OUT).double()
    queries = torch.randn(50, N, OUT // N, dtype=torch.float64)
    power = queries.square().unflatten(-1, (-1, 2)).mean(-1).mean(0)
    delta = torch.randn(C, dtype=torch.float64)
    off = (delta @ key * gain).unflatten(0, (N, -1, 2))
    seen = 0.0
    steps = 64
    for turn in torch.arange(steps).double() * 2 * torch.pi / steps:
        cos, sin = turn.cos(), turn.sin()
        turned = torch.stack(
            [off[..., 0] * cos - off[..., 1] * sin, off[..., 0] * sin + off[..., 1] * cos], -1
        )
        # pair by pair: turns of different pairs are not correlated
        seen += float((queries.unflatten(-1, (-1, 2)) * turned).sum(-1).square().sum((1, 2)).mean()) / steps
    told = float((delta @ key_need(key, gain, power)).square().sum())
    assert told == pytest.approx(seen, rel=1e-10)


def test_value_need_is_what_the_output_projection_lets_through():
    _, _, value = layer()
    out = torch.randn(OUT, C, dtype=torch.float64)
    delta = torch.randn(C, dtype=torch.float64)
    heads = (delta @ value).unflatten(0, (N, -1))
    through = sum(float((head @ part).square().sum()) for head, part in zip(heads, out.chunk(N), strict=True))
    told = float((delta @ value_need(value, out, N)).square().sum())
    assert told == pytest.approx(through, rel=1e-10)

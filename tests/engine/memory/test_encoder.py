"""The encoder against its formulas, written out number by number in float64 (arXiv 2606.04527, section 3)."""

import math
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder

SMALL = EncoderConfig(dim=12, num_heads=3, frames=2, grid_height=1, grid_width=3)
ROWS, EVICTED = 2, 5


@pytest.fixture(params=[False, True], ids=["keys as they are", "keys normed"])
def encoder(request):
    """Returns an encoder in float64 whose every number matters."""
    made = MemoryEncoder(replace(SMALL, normalize_keys=request.param)).double().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(0.5 * torch.randn_like(parameter))
    return made


@pytest.fixture
def evicted():
    """Returns keys and values of tokens that left the window, and a state."""
    shape = (ROWS, EVICTED, SMALL.num_heads, SMALL.dim // SMALL.num_heads)
    keys, values = torch.randn(2, *shape, dtype=torch.float64)
    return torch.randn(ROWS, SMALL.tokens, SMALL.dim, dtype=torch.float64), keys, values


def linear(w, name, x):
    return torch.einsum("oi,...i->...o", w[name + ".weight"], x) + w[name + ".bias"]


def rms(w, name, x):
    return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + 1e-6).sqrt() * w[name + ".weight"]


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attended(q_BMC, keys, values):
    """One query, one head, one key after the other."""
    heads, width = keys.shape[2:]
    made = torch.zeros_like(q_BMC)
    for row in range(q_BMC.shape[0]):
        for token in range(q_BMC.shape[1]):
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                q = q_BMC[row, token, own]
                scores = [(q * k).sum() / math.sqrt(width) for k in keys[row, :, head]]
                powers = [torch.exp(score - max(scores)) for score in scores]
                for power, value in zip(powers, values[row, :, head], strict=True):
                    made[row, token, own] += power / sum(powers) * value
    return made


def updated(w, state, keys, values):
    s = state
    for layer in ("layers.0", "layers.1"):
        q = rms(w, f"{layer}.norm_q", linear(w, f"{layer}.q", rms(w, f"{layer}.norm1", s)))
        s = s + linear(w, f"{layer}.o", attended(q, keys, values))
        inner = gelu(linear(w, f"{layer}.ffn.0", rms(w, f"{layer}.norm2", s)))
        s = s + linear(w, f"{layer}.ffn.2", inner)
    proposed = linear(w, "connector_proj.2", gelu(linear(w, "connector_proj.0", s)))
    proposed = rms(w, "connector_proj.3", proposed)
    gate = 1 / (1 + torch.exp(-linear(w, "gate_linear", torch.cat([state, proposed], -1))))
    return gate * state + (1 - gate) * proposed


def read(w, state, heads):
    keys, values = linear(w, "to_k", state), linear(w, "to_v", state)
    if "norm_k_out.weight" in w:
        keys = rms(w, "norm_k_out", keys)
    shape = (*state.shape[:2], heads, -1)
    return keys.reshape(shape), values.reshape(shape)


def assert_rounding(got, formula, arguments):
    """Equal but for float64's rounding, which is told from how far the formula itself is off in float32.

    Rounding grows with the unit of the format, 2^-53 for 2^-24; another order of sums may double what one
    computation loses, and two are compared.
    """
    exact = formula(*arguments)
    single = formula(
        *({k: t.float() for k, t in a.items()} if isinstance(a, dict) else a.float() for a in arguments)
    )
    unit = (single - exact).abs().max() * 2.0**-29
    assert 0 < unit < 1e-13
    assert (got - exact).abs().max() <= 4 * unit


def test_an_update_is_the_formula(encoder, evicted):
    assert_rounding(encoder.update(*evicted), updated, (encoder.state_dict(), *evicted))


def test_two_updates_are_the_formula_twice(encoder, evicted):
    state, keys, values = evicted

    def twice(w, state, keys, values):
        return updated(w, updated(w, state, keys, values), values, keys)

    got = encoder.update(encoder.update(state, keys, values), values, keys)
    assert_rounding(got, twice, (encoder.state_dict(), *evicted))


@pytest.mark.parametrize("which", [0, 1], ids=["keys", "values"])
def test_what_the_layers_read_is_the_formula(encoder, evicted, which):
    def formula(w, state):
        return read(w, state, SMALL.num_heads)[which]

    assert_rounding(encoder.read(evicted[0])[which], formula, (encoder.state_dict(), evicted[0]))


def test_a_gate_that_is_open_keeps_the_state_to_the_bit(encoder, evicted):
    encoder.gate_linear.bias.fill_(1e4)
    assert torch.equal(encoder.update(*evicted), evicted[0])


def test_a_gate_that_is_shut_replaces_the_state_by_a_normed_proposal(encoder, evicted):
    encoder.gate_linear.bias.fill_(-1e4)
    encoder.connector_proj[3].weight.fill_(1)
    state, keys, values = evicted
    new = encoder.update(state, keys, values)
    # the norm's own 1e-6 takes that share of a mean square of 1, and these are above 0.1
    assert (1 - new.square().mean(-1)).abs().max() < 1e-5
    assert (new - state).abs().max() > 0.1


def test_a_fresh_encoder_keeps_seven_eighths_and_starts_small():
    torch.manual_seed(3)
    made = MemoryEncoder(EncoderConfig(64, 4, 3, 6, 6))
    assert made.gate_linear.bias.unique().tolist() == [2.0]
    assert round(torch.sigmoid(torch.tensor(2.0)).item(), 3) == 0.881
    # the deviation of n samples scatters by 1 / sqrt(2n), about 0.8 % here
    assert abs(made.query_init.std().item() / 0.014 - 1) < 0.04


def test_rows_do_not_see_each_other_and_the_state_does_not_change_in_place(encoder, evicted):
    state, keys, values = evicted
    before = state.clone()
    first = encoder.update(state, keys, values)[0]
    for changed in (state, keys, values):
        changed[1] += 1
        assert torch.equal(encoder.update(state, keys, values)[0], first)
    assert torch.equal(state[0], before[0]) and torch.equal(state[1], before[1] + 1)
    assert torch.equal(encoder.fresh(3), encoder.query_init.expand(3, -1, -1))


def test_gradients_reach_every_parameter(encoder, evicted):
    encoder.requires_grad_(True)
    _, keys, values = evicted
    state = encoder.update(encoder.fresh(ROWS), keys, values)
    made_keys, made_values = encoder.read(encoder.update(state, values, keys))
    (made_keys.sin().sum() + made_values.sin().sum()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_the_published_sizes_have_the_published_parameters():
    """68.57 million."""
    with torch.device("meta"):
        made = MemoryEncoder(EncoderConfig(1536, 12, 3, 30, 52))
    count = sum(parameter.numel() for parameter in made.parameters())
    assert made.config.tokens == 4680 and round(count / 1e6, 2) == 68.57


@pytest.mark.parametrize(
    "change", [{"num_heads": 5}, {"num_heads": 12}, {"frames": 0}, {"grid_width": -1}, {"layers": 0}], ids=str
)
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"memory tokens of 12 channels in .* are not possible"):
        replace(SMALL, **change)

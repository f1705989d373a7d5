"""VideoMLA's formulas, written out token by token in float64 from the state dict alone."""

import math
from dataclasses import replace

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.mla import PROJECTIONS, MlaAttention, MlaModel, MlaSizes
from rivulet.model_patches.arch.parts import project_qkv
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.past import NoPast
from rivulet.model_patches.attention.rope import rope_table
from rivulet.model_patches.attention.sdpa import sdpa

from .absorbed import absorb, absorbed_attention

DIM, HEADS, HEAD = 32, 2, 16
SIZES = MlaSizes(7, 12, RopeLayout.truncated(HEAD, 8), frozenset({"o"}))
FRAMES, ROWS, COLUMNS = (0, 3, 4), 2, 3
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(params=["no bias", "all biases"])
def attention(request):
    sizes = replace(SIZES, biases=frozenset(PROJECTIONS)) if request.param == "all biases" else SIZES
    made = MlaAttention(DIM, HEADS, sizes, 1e-6).double().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.4)
    return made


@pytest.fixture
def tokens():
    return torch.randn(len(FRAMES) * ROWS * COLUMNS, DIM, dtype=torch.float64)


def written_out(weights, x_LC):
    """Score, softmax and sum of every query over every key, pair by pair."""

    def linear(name, x):
        bias = weights.get(f"{name}.bias")
        return weights[f"{name}.weight"] @ x + (0 if bias is None else bias)

    def rms(name, x):
        return x / (x.square().mean() + 1e-6).sqrt() * weights[f"{name}.weight"]

    def turned(vector, place):
        rates = [(place[0], SIZES.rope.time), (place[1], SIZES.rope.row), (place[2], SIZES.rope.column)]
        angles = [at * rate for at, axis in rates for rate in axis]
        out = []
        for (a, b), angle in zip(vector.view(-1, 2).tolist(), angles, strict=True):
            out += [
                a * math.cos(angle) - b * math.sin(angle),
                a * math.sin(angle) + b * math.cos(angle),
            ]
        return torch.tensor(out, dtype=torch.float64)

    places = [(f, r, c) for f in FRAMES for r in range(ROWS) for c in range(COLUMNS)]
    still, wide = SIZES.rope.still, SIZES.rope.turned
    kept = [rms("norm_kv_latent", linear("kv_down", x)) for x in x_LC]
    shared = [turned(linear("k_rope", x), at) for x, at in zip(x_LC, places, strict=True)]
    out = []
    for x, at in zip(x_LC, places, strict=True):
        asked = rms("norm_q_latent", linear("q_down", x))
        heads = []
        for h in range(HEADS):
            q_still = linear("q_up", asked)[h * still : (h + 1) * still]
            q_turned = turned(linear("q_rope", asked)[h * wide : (h + 1) * wide], at)
            keys = [linear("k_up", c)[h * still : (h + 1) * still] for c in kept]
            scores = [
                (q_still @ k + q_turned @ r) / math.sqrt(HEAD) for k, r in zip(keys, shared, strict=True)
            ]
            shares = torch.stack(scores).softmax(0)
            values = torch.stack([linear("v_up", c)[h * HEAD : (h + 1) * HEAD] for c in kept])
            heads.append(shares @ values)
        out.append(linear("o", torch.cat(heads)))
    return torch.stack(out)


def bound(attention, x_LC):
    """Rounding that any order of these sums may show in float64.

    A score is a chain of sums of `terms` products and as much is lost of the magnitudes it is summed from
    (Higham, Accuracy and Stability, 3.1); a share moves by twice that, an output by the shares' magnitudes.
    """
    weights = {name: value.abs() for name, value in attention.state_dict().items()}
    terms = DIM + SIZES.query_latent + SIZES.kv_latent + HEAD

    def through(name, size):
        return (
            size * weights[f"{name}.weight"].sum(1).max() + weights.get(f"{name}.bias", torch.zeros(1)).max()
        )

    kept = weights["norm_kv_latent.weight"].max() * SIZES.kv_latent**0.5
    asked = weights["norm_q_latent.weight"].max() * SIZES.query_latent**0.5
    key = torch.maximum(through("k_up", kept), 2 * through("k_rope", x_LC.abs().max()))
    query = torch.maximum(through("q_up", asked), 2 * through("q_rope", asked))
    score = query * key * HEAD**0.5
    output = through("o", through("v_up", kept))
    return 2 * terms * EPS * (1 + 2 * score) * output


def run(attention, x_LC):
    table = rope_table(FRAMES, ROWS, COLUMNS, HEAD, dtype=torch.float64, layout=attention.sizes.rope)
    q, k, v = project_qkv(attention, x_LC[None])
    past = NoPast(table)
    past.write(0, x_LC[None], k, v)
    return attention.o(sdpa(past.rotate(q), *past.read(0)).flatten(2))[0]


def test_layers_and_the_engines_attention_are_the_formulas(attention, tokens):
    exact = written_out(attention.state_dict(), tokens)
    assert (run(attention, tokens) - exact).abs().max() <= bound(attention, tokens)
    assert exact.abs().max() > 1e3 * bound(attention, tokens)


def test_the_absorbed_form_is_the_expanded_one(attention, tokens):
    c, k_rope = attention.latent(tokens[None])
    asked = attention.query_latent(tokens[None])
    table = rope_table(FRAMES, ROWS, COLUMNS, HEAD, dtype=torch.float64, layout=SIZES.rope)
    turned = table[:, SIZES.rope.still // 2 :]
    q_rope = rotate(attention.q_rope(asked).unflatten(-1, (HEADS, -1)), turned)
    k_rope = rotate(k_rope[:, :, None], turned)[:, :, 0]
    short = absorbed_attention(absorb(attention), asked, q_rope, c, k_rope, HEAD)[0]
    assert (short - run(attention, tokens)).abs().max() <= bound(attention, tokens)


def test_kept_latents_make_the_keys_and_values_of_the_layers(attention, tokens):
    k, v = attention.expand(*attention.latent(tokens))
    assert torch.equal(k.flatten(1), attention.k(tokens)) and torch.equal(v.flatten(1), attention.v(tokens))


def test_published_sizes_have_the_published_parameters():
    with torch.device("meta"):
        attention = MlaAttention(1536, 12, MlaSizes(), 1e-6)
        dense = WanModel(WanConfig(1536, 8960, 1, 12)).blocks[0].self_attn
    count = sum(p.numel() for p in attention.parameters())
    matrices = {n: tuple(p.shape) for n, p in attention.named_parameters() if p.ndim == 2}
    assert matrices == {
        "q_down.weight": (768, 1536),
        "q_up.weight": (1152, 768),
        "q_rope.weight": (384, 768),
        "kv_down.weight": (192, 1536),
        "k_up.weight": (1152, 192),
        "v_up.weight": (1536, 192),
        "k_rope.weight": (32, 1536),
        "o.weight": (1536, 1536),
    }
    # arXiv 2605.30351: 5.58 M beside 9.45 M
    assert (
        round(count / 1e6, 2) == 5.58 and round(sum(p.numel() for p in dense.parameters()) / 1e6, 2) == 9.45
    )
    assert MlaSizes().cache_channels == 224 and MlaSizes().rope.still == 96


def test_a_model_keeps_wans_names_and_every_other_layer():
    config = WanConfig(DIM, 8, 2, HEADS, text_dim=4)
    ours, dense = MlaModel(config, SIZES).state_dict(), WanModel(config).state_dict()
    outside = {key for key in dense if ".self_attn." not in key}
    assert outside == {key for key in ours if ".self_attn." not in key}
    assert {key.split(".")[3] for key in ours if ".self_attn." in key} == {
        *PROJECTIONS,
        "norm_q_latent",
        "norm_kv_latent",
    }


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"kv_latent": 0}, "at least 1 channel"),
        ({"biases": frozenset({"q"})}, r"biases on \['q'\]"),
    ],
)
def test_impossible_sizes_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        replace(SIZES, **sizes)


def test_heads_that_do_not_fit_the_width_are_refused():
    with pytest.raises(ValueError, match="2 heads of 8 still and 8 turned channels do not make 30"):
        MlaAttention(30, HEADS, SIZES, 1e-6)

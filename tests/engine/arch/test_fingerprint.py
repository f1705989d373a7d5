"""Sketch and fingerprint tell weights apart and do not mind how they are kept."""

import pytest
import torch
from rivulet.model_patches.arch.fingerprint import (
    SAME,
    difference,
    farthest,
    fingerprint,
    read_back,
    sketch,
    written,
)
from rivulet.model_patches.arch.wan import WanModel

from ..conftest import SIZES

CPU = torch.device("cpu")
WIDTH = 24


def of(model, dtype=torch.float32):
    return sketch(model, WIDTH, dtype, CPU)


def test_the_same_weights_have_the_same_sketch(make_model):
    assert torch.equal(of(make_model()), of(make_model()))
    assert of(make_model()).shape == (3, 5, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_moves_it_by_rounding(make_model, dtype):
    """Products and sums are rounded once; a sum of 24 signs may be small by chance, its rounding is not."""
    moved = difference(of(make_model()), of(make_model(dtype), dtype))
    assert 0 < moved < 4 * torch.finfo(dtype).eps * WIDTH**0.5


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_a_change_of_weights_moves_it_by_about_its_size(make_model, share):
    model = make_model()
    before = of(model)
    for block in model.blocks:
        for layer in (block.self_attn.q, block.self_attn.k, block.self_attn.v, block.self_attn.o):
            weight = layer.weight
            weight += share * weight.norm() / weight.numel() ** 0.5 * torch.randn_like(weight)
    # four of five kinds of layers have moved
    assert 0.3 * share < difference(before, of(model)) < 3 * share


def test_other_weights_are_far_away(make_model):
    assert difference(of(make_model(seed=1)), of(make_model(seed=2))) > 1


def test_another_depth_is_infinitely_far_away(make_model):
    assert difference(of(make_model()), of(make_model(num_layers=2))) == float("inf")


def test_every_kind_of_layer_is_in_it(make_model):
    before = of(make_model())
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "ffn.0", "ffn.2"):
        model = make_model()
        model.blocks[1].get_submodule(name).weight.mul_(1.1)
        assert difference(before, of(model)) > 1e-3


def of_all(model, dtype=torch.float32):
    return fingerprint(model, 4, dtype, CPU)


# Beside the sum of a layer's weights these are small: a change of a tenth goes under in what rounding may do.
HIDDEN = {
    *("self_attn.v.bias", "ffn.2.bias"),
    *("cross_attn.q.bias", "cross_attn.k.bias", "cross_attn.v.bias"),
}
KINDS = [
    name for name, _ in WanModel(SIZES).named_parameters() if not name.startswith(("blocks.0", "blocks.2"))
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_weight_is_noticed_and_named(make_model, name):
    """In one of three blocks, a tenth more."""
    model = make_model()
    model.get_parameter(name).mul_(1.1)
    apart, kind = farthest(of_all(make_model()), of_all(model))
    own = name.removeprefix("blocks.1.")
    assert apart > 0 and own.startswith(kind)
    assert (apart > SAME) == (own not in HIDDEN)


def test_the_same_weights_have_the_same_fingerprint(make_model):
    before, again = of_all(make_model()), of_all(make_model())
    assert farthest(before, again)[0] == 0
    assert {tuple(numbers.shape) for numbers in before.values()} == {(1, 1, 4), (3, 1, 4)}
    read = {name: read_back(written(numbers)) for name, numbers in before.items()}
    assert farthest(before, read)[0] < 1e-5  # it is written to six digits


def test_a_fingerprint_says_which_weights_are_others(make_model):
    model = make_model()
    model.time_projection[1].weight.neg_()
    apart, kind = farthest(of_all(make_model()), of_all(model))
    assert apart > 1 and kind == "time_projection"


def test_models_that_are_built_otherwise_are_infinitely_far_apart(make_model):
    whole = of_all(make_model())
    assert farthest(whole, of_all(make_model(num_layers=2)))[0] == float("inf")
    part = {name: numbers for name, numbers in whole.items() if name != "ffn"}
    assert farthest(whole, part) == (float("inf"), "ffn")

"""Adapters merged into a model, against float64, and everything that is no whole adapter of it."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.memory.lora import Lora, read_lora

from ..memory.echo_files import LINEARS, filled, lora_shapes

DIM, FFN, LAYERS, RANK = 24, 32, 3, 4
NAMES = [f"blocks.{index}.{name}" for index in range(LAYERS) for name in LINEARS]


@pytest.fixture
def tensors():
    return filled(lora_shapes(DIM, FFN, LAYERS, RANK), seed=5)


@pytest.mark.parametrize("alpha", [None, 8.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_merged_weights_are_w_plus_scale_times_b_a(make_model, tensors, dtype, alpha):
    model, lora = make_model(dtype), read_lora("test", tensors, alpha)
    assert lora.scale == (1.0 if alpha is None else 2.0) and lora.rank == RANK
    merged = lora.merged(model)
    for name in NAMES:
        old, new = (tree.get_submodule(name).weight for tree in (model, merged))
        a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        exact = old.double() + lora.scale * (b @ a)
        # RANK products, their sum, the scale and the weight in float32 or better; then one to the dtype
        wide, unit = (torch.finfo(t).eps / 2 for t in (torch.promote_types(dtype, torch.float32), dtype))
        sums = 2 * (RANK + 2) * wide * (old.double().abs() + lora.scale * (b.abs() @ a.abs()))
        assert new.dtype == dtype and not torch.equal(new, old)
        assert ((new.double() - exact).abs() <= unit * (exact.abs() + sums) + sums).all()


def test_float64_weights_are_not_rounded_to_float32(make_model, tensors):
    """Matrices of small whole numbers: the exact sum has more digits than float32."""
    whole = {name: (tensor * 50).round() for name, tensor in tensors.items()}
    model = make_model(torch.float64)
    merged = read_lora("test", whole).merged(model)
    a, b = (whole[f"base_model.model.blocks.0.ffn.0.lora_{side}.weight"].double() for side in "AB")
    assert torch.equal(merged.blocks[0].ffn[0].weight, model.blocks[0].ffn[0].weight + b @ a)


def test_the_given_model_stays_and_all_other_weights_are_shared(make_model, tensors):
    model = make_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = read_lora("test", tensors).merged(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    own = {key for key, value in merged.named_parameters() if value is not model.get_parameter(key)}
    assert own == {f"{name}.weight" for name in NAMES}
    assert type(merged) is WanModel and not any(p.requires_grad for p in merged.parameters())


PREFIXES = {
    "PEFT": "base_model.model.",
    "PEFT around a wrapper": "base_model.model.model.",
    "a wrapper around PEFT": "model.base_model.model.",
    "a training dict": "generator.model.base_model.model._fsdp_wrapped_module.",
    "the host's": "diffusion_model.",
    "none": "",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES.keys())
@pytest.mark.parametrize("adapter", ["", ".default"], ids=["", "named adapter"])
def test_names_with_any_prefix_are_those_of_the_models_layers(tensors, prefix, adapter):
    renamed = {
        name.replace("base_model.model.", prefix).replace(".weight", f"{adapter}.weight"): tensor
        for name, tensor in tensors.items()
    }
    lora = read_lora("test", renamed)
    assert list(lora.pairs) == NAMES
    a, b = lora.pairs["blocks.1.ffn.2"]
    assert a is tensors["base_model.model.blocks.1.ffn.2.lora_A.weight"]
    assert b is tensors["base_model.model.blocks.1.ffn.2.lora_B.weight"]


def test_the_host_gets_every_pair_under_its_own_key(tensors):
    keys = read_lora("test", tensors, alpha=2.0).host_keys()
    assert list(keys) == [f"diffusion_model.{name}.weight" for name in NAMES]
    a, b, scale = keys["diffusion_model.blocks.0.self_attn.q.weight"]
    assert (a.shape, b.shape, scale) == ((RANK, DIM), (DIM, RANK), 0.5)


def test_the_published_sizes_change_three_hundred_layers():
    """350 million numbers in pairs of rank 256 (arXiv 2606.04527, released configuration)."""
    with torch.device("meta"):
        model = WanModel(WanConfig(1536, 8960, 30))
        tensors = {name: torch.empty(shape) for name, shape in lora_shapes(1536, 8960, 30, 256).items()}
        lora = read_lora("test", tensors, alpha=256)
    assert lora.scale == 1 and lora.coverage(model) == (300, 300) and lora.why_not(model) is None
    assert round(sum(tensor.numel() for tensor in tensors.values()) / 1e6) == 350


def test_a_lora_of_fewer_layers_in_every_block_is_counted(model, tensors):
    lora = read_lora("test", {name: tensor for name, tensor in tensors.items() if "ffn" not in name})
    assert lora.why_not(model) is None and lora.coverage(model) == (24, 30)


def without(*parts):
    return lambda t: {name: v for name, v in t.items() if not any(part in name for part in parts)}


def renamed(old, new):
    return lambda t: {name.replace(old, new): v for name, v in t.items()}


UNFIT = {
    "a block is missing": (
        without("blocks.2."),
        "lacks 10 layers that it changes in other blocks (blocks.2.self",
    ),
    "a layer is missing": (
        without("blocks.1.ffn.0."),
        "lacks 1 layers that it changes in other blocks (blocks.1.f",
    ),
    "a block too many": (
        renamed("blocks.2.", "blocks.3."),
        "10 of the LoRA's 30 layers are no linear layers of",
    ),
    "another layer": (
        renamed("ffn.0", "ffn.1"),
        "3 of the LoRA's 30 layers are no linear layers of the model",
    ),
    "a norm": (
        renamed("self_attn.q.", "self_attn.norm_q."),
        "(blocks.0.self_attn.norm_q, blocks.1.self_attn.norm",
    ),
}


@pytest.mark.parametrize(("change", "words"), UNFIT.values(), ids=UNFIT.keys())
def test_a_lora_that_does_not_fit_the_model_is_refused_before_any_weight_changes(
    model, tensors, change, words
):
    lora = read_lora("test", change(tensors))
    assert words in lora.why_not(model)
    with pytest.raises(ValueError, match=r"^Lora: "):
        lora.merged(model)


def test_another_width_is_refused_in_sizes(make_model, tensors):
    sentence = read_lora("test", tensors).why_not(make_model(dim=32))
    assert "30 of the LoRA's layers have other sizes" in sentence
    assert "blocks.0.self_attn.q makes 24 of 24 channels, the model's 32 of 32" in sentence


def test_packed_weights_are_left_to_the_host(model, tensors):
    layer = model.blocks[1].cross_attn.k
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(
        ValueError, match=r"blocks.1.cross_attn.k is kept as torch.float8.*let the host patch"
    ):
        read_lora("test", tensors).merged(model)


def put(name, *shape):
    return lambda t: t | {f"base_model.model.blocks.0.{name}": torch.zeros(shape)}


BROKEN = {
    "half a pair": (
        without("1.ffn.0.lora_B"),
        "1 of 30 layers of the LoRA have only one of A and B .blocks.1.ffn.0",
    ),
    "a magnitude": (
        put("ffn.0.lora_magnitude_vector", FFN),
        "1 tensors beside the LoRA's matrices cannot be applied",
    ),
    "an alpha of its own": (put("ffn.0.alpha"), "beside the LoRA's matrices cannot be applied .*ffn.0.alpha"),
    "ranks of A and B": (
        put("ffn.0.lora_A.weight", 3, DIM),
        r"ffn.0 has A \[3, 24\] and B \[32, 4\]; the file was",
    ),
    "no matrix": (put("ffn.0.lora_A.weight", 4, DIM, 1), r"ffn.0 has A \[4, 24, 1\] and B"),
    "two adapters": (
        put("ffn.0.lora_A.other.weight", 4, DIM),
        "lora_A.other.weight is there twice once prefixes",
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_whole_adapter_is_refused(tensors, change, words):
    with pytest.raises(ValueError, match=f"^test: .*{words}"):
        read_lora("test", change(tensors))


def test_several_ranks_have_no_one_scale(tensors):
    pair = {f"ffn.0.lora_{side}.weight": shape for side, shape in (("A", (2, DIM)), ("B", (FFN, 2)))}
    for name, shape in pair.items():
        tensors = put(name, *shape)(tensors)
    with pytest.raises(ValueError, match=r"several ranks \(1 of rank 2, 29 of rank 4\)"):
        read_lora("test", tensors)


def test_a_pair_is_a_value_with_its_scale(make_model, tensors):
    """Sums of small whole numbers and weights of few digits are exact."""
    model = make_model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(8).round_().div_(8)
    lora = read_lora("test", {name: (tensor * 20).round() for name, tensor in tensors.items()})
    twice = replace(lora, scale=2 * lora.scale)
    base, once, double = (
        tree.blocks[2].ffn[2].weight for tree in (model, lora.merged(model), twice.merged(model))
    )
    assert isinstance(twice, Lora) and torch.equal(double - base, 2 * (once - base))

"""LoRA files in every form, adapters merged into a model, against float64, and what is no whole adapter."""

import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints.files import shapes_of
from rivulet.model_patches.checkpoints.lora import Lora
from rivulet.model_patches.checkpoints.lora_file import lora_from, read_lora
from safetensors.torch import save_file

from ..memory.echo_files import LINEARS, filled, lora_shapes
from .published_files import SMALL, extracted, lora_of, nested

DIM, FFN, LAYERS, RANK = 24, 32, 3, 4
NAMES = [f"blocks.{index}.{name}" for index in range(LAYERS) for name in LINEARS]


@pytest.fixture
def tensors():
    return filled(lora_shapes(DIM, FFN, LAYERS, RANK), seed=5)


@pytest.mark.parametrize("alpha", [None, 8.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_merged_weights_are_w_plus_scale_times_b_a(make_model, tensors, dtype, alpha):
    model, lora = make_model(dtype), lora_from("test", tensors, alpha)
    scale = 1.0 if alpha is None else 2.0
    assert lora.scales == (scale,) and lora.ranks == (RANK,)
    merged = lora.merge(model)
    for name in NAMES:
        old, new = (tree.get_submodule(name).weight for tree in (model, merged))
        a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        exact = old.double() + scale * (b @ a)
        # RANK products, their sum, the scale and the weight in float32 or better; then one to the dtype
        wide, unit = (torch.finfo(t).eps / 2 for t in (torch.promote_types(dtype, torch.float32), dtype))
        sums = 2 * (RANK + 2) * wide * (old.double().abs() + scale * (b.abs() @ a.abs()))
        assert new.dtype == dtype and not torch.equal(new, old)
        assert ((new.double() - exact).abs() <= unit * (exact.abs() + sums) + sums).all()


def test_float64_weights_are_not_rounded_to_float32(make_model, tensors):
    """Matrices of small whole numbers: the exact sum has more digits than float32."""
    whole = {name: (tensor * 50).round() for name, tensor in tensors.items()}
    model = make_model(torch.float64)
    merged = lora_from("test", whole).merge(model)
    a, b = (whole[f"base_model.model.blocks.0.ffn.0.lora_{side}.weight"].double() for side in "AB")
    assert torch.equal(merged.blocks[0].ffn[0].weight, model.blocks[0].ffn[0].weight + b @ a)


def test_the_given_model_stays_and_all_other_weights_are_shared(make_model, tensors):
    model = make_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = lora_from("test", tensors).merge(model)
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
    lora = lora_from("test", renamed)
    assert list(lora.layers) == NAMES
    a, b, _ = lora.layers["blocks.1.ffn.2"]
    assert a is tensors["base_model.model.blocks.1.ffn.2.lora_A.weight"]
    assert b is tensors["base_model.model.blocks.1.ffn.2.lora_B.weight"]


def test_the_published_sizes_change_three_hundred_layers():
    """350 million numbers in pairs of rank 256 (arXiv 2606.04527, released configuration)."""
    with torch.device("meta"):
        model = WanModel(WanConfig(1536, 8960, 30))
        tensors = {name: torch.empty(shape) for name, shape in lora_shapes(1536, 8960, 30, 256).items()}
        lora = lora_from("test", tensors, alpha=256)
    assert lora.scales == (1,) and lora.coverage(model) == (300, 300) and lora.why_not(model) is None
    assert round(sum(tensor.numel() for tensor in tensors.values()) / 1e6) == 350


def test_a_lora_of_fewer_layers_in_every_block_is_counted(model, tensors):
    lora = lora_from("test", {name: tensor for name, tensor in tensors.items() if "ffn" not in name})
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
    lora = lora_from("test", change(tensors))
    assert words in lora.why_not(model)
    with pytest.raises(ValueError, match=r"^Lora: "):
        lora.merge(model)


def test_another_width_is_refused_in_sizes(make_model, tensors):
    sentence = lora_from("test", tensors).why_not(make_model(dim=32))
    assert "of the LoRA's 30 changes 30 are of another size" in sentence
    assert "blocks.0.self_attn.q [24, 24], the model's [32, 32]" in sentence


def test_packed_weights_are_left_to_the_host(model, tensors):
    layer = model.blocks[1].cross_attn.k
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"blocks.1.cross_attn.k has weights of float8.*let the host patch"):
        lora_from("test", tensors).merge(model)


def put(name, *shape):
    return lambda t: t | {f"base_model.model.blocks.0.{name}": torch.zeros(shape)}


BROKEN = {
    "half a pair": (
        without("1.ffn.0.lora_B"),
        "1 of 30 layers of the LoRA have only one of the two matrices .blocks.1.ffn.0",
    ),
    "ranks of A and B": (
        put("ffn.0.lora_A.weight", 3, DIM),
        r"ffn.0 has \[3, 24\] and \[32, 4\]; copy or download",
    ),
    "no matrix": (put("ffn.0.lora_A.weight", 4), r"ffn.0 has \[4\] and "),
    "two adapters": (
        put("ffn.0.lora_A.other.weight", 4, DIM),
        "lora_A.other.weight is there twice once prefixes",
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_whole_adapter_is_refused(tensors, change, words):
    with pytest.raises(ValueError, match=f"^test: .*{words}"):
        lora_from("test", change(tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("key", ["base_model.model.blocks.1.ffn.0.lora_A.weight", "blocks.0.modulation.diff"])
def test_numbers_that_would_spoil_the_weights_are_refused(tensors, key, dtype):
    spoilt = torch.full((4, 24), 0.5)
    spoilt[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"1 of its \d+ tensors hold NaN.*\(blocks\.\d\.\w+.*download"):
        lora_from("test", tensors | {key: spoilt.to(dtype)})
    for other in (torch.complex64, torch.int32):
        with pytest.raises(ValueError, match="complex or whole numbers"):
            lora_from("test", tensors | {key: torch.ones(4, 24, dtype=other)})


def test_a_layer_may_have_a_rank_and_an_alpha_of_its_own(make_model, tensors):
    pair = {f"ffn.0.lora_{side}.weight": shape for side, shape in (("A", (2, DIM)), ("B", (FFN, 2)))}
    for name, shape in pair.items():
        tensors = put(name, *shape)(tensors)
    lora = lora_from("test", tensors | {"blocks.1.ffn.0.alpha": torch.tensor(2.0)}, alpha=8)
    assert lora.ranks == (4, 2) and lora.scales == (0.5, 2.0, 4.0) and lora.alphas == 1
    assert lora.layers["blocks.1.ffn.0"].scale == 0.5 and lora.layers["blocks.0.ffn.0"].scale == 4
    model = make_model()
    changed = lora.merge(model).blocks[1].ffn[0].weight - model.blocks[1].ffn[0].weight
    down, up, _ = lora.layers["blocks.1.ffn.0"]
    torch.testing.assert_close(changed, 0.5 * up @ down, rtol=0, atol=1e-6)


def test_changes_are_values_with_their_scale(make_model, tensors):
    """Sums of small whole numbers and weights of few digits are exact."""
    model = make_model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(8).round_().div_(8)
    lora = lora_from("test", {name: (tensor * 20).round() for name, tensor in tensors.items()})
    twice = Lora({name: each._replace(scale=2 * each.scale) for name, each in lora.layers.items()})
    base, once, double = (
        tree.blocks[2].ffn[2].weight for tree in (model, lora.merge(model), twice.merge(model))
    )
    assert torch.equal(double - base, 2 * (once - base))


UNREAD = {
    "a magnitude": ("ffn.0.lora_magnitude_vector", (FFN,), "blocks.0.ffn.0"),
    "a bias of a pair": ("ffn.0.lora_B.bias", (FFN,), "blocks.0.ffn.0"),
    "dora": ("self_attn.q.dora_scale", (DIM, 1), "blocks.0.self_attn.q"),
    "a convolution": ("ffn.0.lora_A.weight", (RANK, DIM, 1), "blocks.0.ffn.0"),
    "loha beside it": ("norm3.hada_w1_a", (DIM, 1), "blocks.0.norm3.hada_w1_a"),
}


@pytest.mark.parametrize(("name", "shape", "layer"), UNREAD.values(), ids=UNREAD.keys())
def test_a_change_in_another_form_leaves_its_layer_alone_and_is_named(model, tensors, name, shape, layer):
    lora = lora_from("test", put(name, *shape)(tensors))
    kept, unfit = lora.fitting(shapes_of(model.state_dict()))
    assert unfit.unread == (layer,) and not unfit.absent and not unfit.other
    assert set(kept.layers) == set(NAMES) - {layer} and kept.unread == ()
    assert str(unfit) == f"1 is in a form that is not read: {layer}"
    with pytest.raises(
        ValueError, match=r"^Lora: of the LoRA's 3[01] changes 1 is in a form that is not read"
    ):
        lora.merge(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_an_extractor_writes_is_the_difference_of_two_models(make_model, dtype):
    """As LightX2V's: pairs of large matrices, whole differences of all else."""
    base = make_model(dtype)
    tensors, changes = extracted(base, RANK)
    lora = lora_from("test", {f"diffusion_model.{key}": value for key, value in tensors.items()})
    assert len(lora.layers) == 30 and lora.changes == len(changes) == len(base.state_dict())
    assert lora.why_not(base) is None
    merged, before = lora.merge(base).state_dict(), base.state_dict()
    wide, unit = (torch.finfo(t).eps / 2 for t in (torch.promote_types(dtype, torch.float32), dtype))
    for key, (change, terms) in changes.items():
        old, new = before[key].double(), merged[key].double()
        sums = 2 * (RANK + 2) * wide * (old.abs() + terms)
        assert not torch.equal(old, new), key
        assert ((new - old - change).abs() <= unit * ((old + change).abs() + sums) + sums).all(), key


def test_what_does_not_fit_is_left_out_by_name(model, tensors):
    """As a LoRA for pictures on a model for text: more layers, and a wider patch embedding."""
    more = {
        "blocks.0.cross_attn.k_img.lora_A.weight": torch.zeros(RANK, DIM),
        "blocks.0.cross_attn.k_img.lora_B.weight": torch.zeros(DIM, RANK),
        "blocks.1.cross_attn.norm_k_img.diff": torch.zeros(DIM),
        "patch_embedding.diff": torch.zeros(DIM, 36, 1, 2, 2),
        "blocks.1.norm3.diff_b": torch.ones(DIM),
    }
    lora = lora_from("test", tensors | more)
    kept, unfit = lora.fitting(shapes_of(model.state_dict()))
    assert set(kept.layers) == set(NAMES) and list(kept.added) == ["blocks.1.norm3.bias"]
    assert unfit.changes == 3 and kept.changes == lora.changes - 3 == 31
    taken = model.patch_embedding.weight.shape[1]
    assert str(unfit) == (
        "2 are not in the model: blocks.0.cross_attn.k_img, blocks.1.cross_attn.norm_k_img.weight; 1 is of "
        f"another size: patch_embedding.weight [24, 36, 1, 2, 2], the model's [24, {taken}, 1, 2, 2]"
    )
    assert kept.merge(model).blocks[1].norm3.bias.equal(model.blocks[1].norm3.bias + 1)


PIECES = st.sampled_from(
    [
        *(
            "",
            ".",
            "_",
            "blocks",
            "0",
            "self_attn",
            "q",
            "ffn",
            "modulation",
            "head",
            "norm3",
            "attn1.to_out.0",
        ),
        *(
            "lora_A",
            "lora_B",
            "alpha",
            "diff",
            "diff_b",
            "diff_m",
            "w_norm",
            "dora_scale",
            "weight",
            "default",
        ),
        *("lora_unet_", "lycoris_", "base_model.model", "transformer", "diffusion_model", "blocks_0_ffn_0"),
    ]
)
SHAPES = st.sampled_from([(), (1,), (4, DIM), (DIM, 4), (FFN, 4), (0, 3), (4, DIM, 1, 1), (DIM,)])
KEYS = st.lists(PIECES, min_size=1, max_size=7).map(".".join) | st.text(max_size=9)


@given(st.dictionaries(KEYS, SHAPES, max_size=6))
@example({"blocks.0.ffn.0.lora_A": (), "blocks.0.ffn.0.lora_B": ()})
def test_any_keys_and_shapes_are_read_or_refused_in_a_sentence(keys):
    with torch.device("meta"):
        shapes = shapes_of(WanModel(WanConfig(DIM, FFN, 1, 1)).state_dict())
    try:
        lora = lora_from("test", {key: torch.ones(shape) for key, shape in keys.items()})
    except ValueError as refusal:
        assert str(refusal).startswith("test")
        return
    kept, unfit = lora.fitting(shapes)
    assert kept.changes + unfit.changes == lora.changes and bool(str(unfit)) is bool(unfit.changes)


def test_a_weight_may_be_changed_by_a_pair_and_by_a_whole_difference(make_model, tensors):
    model = make_model(torch.float64)
    own = tensors | {"blocks.0.ffn.0.diff": torch.ones(FFN, DIM)}
    with_, without_ = (
        lora_from("test", each).merge(model).blocks[0].ffn[0].weight for each in (own, tensors)
    )
    torch.testing.assert_close(with_, without_ + 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya", "nested"])
def test_every_form_of_a_lora_gives_the_same_factors(tmp_path, form):
    with torch.device("meta"):
        plain = lora_of_names(WanModel(SMALL))
    tensors = lora_of(WanModel(SMALL), 4, seed=1)
    layers = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    path = tmp_path / "lora.safetensors"
    if form == "nested":
        path = tmp_path / "lora.pt"
        torch.save(
            {"generator_lora": tensors, "query_memory_encoder": {"gate_linear.bias": torch.ones(1)}}, path
        )
    elif form == "kohya":
        down = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for k, v in layers.items()}
        alphas = {f"{layer}.alpha": torch.tensor(2.0) for layer in plain}
        save_file({f"diffusion_model.{k}": v for k, v in (down | alphas).items()}, path)
    elif form == "diffusers":
        said = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
        save_file({f"transformer.{k}": v for k, v in layers.items()}, path, said)
    else:
        save_file(tensors, path)
    file = read_lora("test", path)
    lora = file.lora
    assert set(lora.layers) == plain and lora.ranks == (4,)
    assert file.memory == (1 if form == "nested" else 0)
    scale, known = {"kohya": (0.5, True), "diffusers": (2.0, True)}.get(form, (1.0, False))
    factors = lora.layers["blocks.1.cross_attn.v"]
    assert factors.scale == scale and file.alpha_known is known
    assert torch.equal(factors.up, layers["blocks.1.cross_attn.v.lora_B.weight"])
    assert torch.equal(factors.down, layers["blocks.1.cross_attn.v.lora_A.weight"])
    told = f"{path.name}: 20 layers, rank 4, scale {scale:g}"
    assert str(file).startswith(told) and ("the file has none" in str(file)) is not known


def lora_of_names(model):
    return {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks.")
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {}, r"holds no LoRA"),
        (lambda t: {"blocks.0.ffn.0.weight": torch.zeros(2, 2)}, r"holds no LoRA.*loaded as a model"),
        (
            lambda t: t | {"blocks.0.ffn.0.dora_scale": torch.ones(2)},
            r"what it changes \(blocks.0.ffn.0\) is in none of the forms that are read, pairs .*its trainer",
        ),
        (
            lambda t: {k: v for k, v in t.items() if "lora_A" in k},
            r"1 of 1 layers .* only one of the two matrices \(blocks.0.ffn.0",
        ),
        (
            lambda t: t | {"blocks.0.ffn.0.lora_B.weight": torch.ones(8, 3)},
            r"blocks.0.ffn.0 has \[2, 4\] and \[8, 3\]; copy",
        ),
    ],
)
def test_half_a_lora_or_none_is_refused(tmp_path, change, words):
    pair = {
        "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 4),
        "blocks.0.ffn.0.lora_B.weight": torch.ones(8, 2),
    }
    save_file(change(pair), tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=words):
        read_lora("test", tmp_path / "lora.safetensors")


def test_a_checkpoint_given_as_a_lora_and_unreadable_metadata_are_told(model, tmp_path):
    torch.save(nested("generator")(model.state_dict()), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"holds generator, step and none of .*a checkpoint, not a LoRA"):
        read_lora("test", tmp_path / "model.pt")
    pair = {
        "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 4),
        "blocks.0.ffn.0.lora_B.weight": torch.ones(8, 2),
    }
    save_file(pair, tmp_path / "l.safetensors", {"lora_adapter_metadata": "[1]"})
    with pytest.raises(ValueError, match=r"lora_adapter_metadata.*must be a JSON object, got '\[1\]'"):
        read_lora("test", tmp_path / "l.safetensors")

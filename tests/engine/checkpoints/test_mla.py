"""Layouts a VideoMLA file may have, at its true widths, filled with random numbers.

No published file could be read here: these are its sizes (arXiv 2605.30351) under this project's names and
those of its author's earlier prototype.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch
from rivulet.model_patches.arch.mla import PROJECTIONS, MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints._mla_keys import read_layout, split_layers
from rivulet.model_patches.checkpoints.checkpoint import DENSE, VIDEO_MLA, open_checkpoint
from rivulet.model_patches.checkpoints.nesting import is_mla, plain_key
from safetensors.torch import save_file

DIM, HEADS = 1536, 12
CONFIG = WanConfig(DIM, 4, 2, HEADS, text_dim=4, freq_dim=2)
PRE = "blocks.0.self_attn."


@pytest.fixture(scope="module")
def attention():
    """One self-attention of the published sizes, biases on all layers."""
    with torch.device("meta"):
        made = MlaModel(replace(CONFIG, num_layers=1), MlaSizes(biases=frozenset(PROJECTIONS)))
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=generator).bfloat16()
        for name, value in made.blocks[0].self_attn.state_dict().items()
    }


def by_head(*parts):
    """Rows of several layers, head by head."""
    return torch.cat([p.unflatten(0, (HEADS, -1)) for p in parts], 1).flatten(0, 1)


def ours(a):
    return dict(a)


def no_bias(a):
    return {k: v for k, v in a.items() if not k.endswith(".bias") or k == "o.bias"}


def prototype(a):
    """Bare parameters (in, out), latent and rotary key fused, heads [k | v] and [still | turned]."""
    return {
        "W_q_downsampled": a["q_down.weight"].T,
        "W_q_upsampled": by_head(a["q_up.weight"], a["q_rope.weight"]).T,
        "W_kv_downsampled": torch.cat([a["kv_down.weight"], a["k_rope.weight"]]).T,
        "W_kv_upsampled": by_head(a["k_up.weight"], a["v_up.weight"]).T,
        "norm_q_latent.weight": a["norm_q_latent.weight"],
        "norm_kv_latent.weight": a["norm_kv_latent.weight"],
        "W_o": a["o.weight"].T,
    }


def prototype_later(a):
    made = prototype(a)
    del made["W_o"]
    return made | {"o.weight": a["o.weight"], "o.bias": a["o.bias"]}


def prototype_linears(a):
    """The prototype's names as linear layers (out, in), with a bias on fused ones."""
    turned_over = {k: v for k, v in prototype(a).items() if k.startswith("W_")}
    weights = {f"{key}.weight": value.T for key, value in turned_over.items()}
    biases = {
        "W_kv_downsampled.bias": torch.cat([a["kv_down.bias"], a["k_rope.bias"]]),
        "W_kv_upsampled.bias": by_head(a["k_up.bias"], a["v_up.bias"]),
    }
    return {k: v for k, v in prototype(a).items() if k not in turned_over} | weights | biases


def other_code(a):
    """Names that other code for MLA has: not known."""
    return {
        "wq_a.weight": a["q_down.weight"],
        "q_norm.weight": a["norm_q_latent.weight"],
        "wq_b.weight": by_head(a["q_up.weight"], a["q_rope.weight"]),
        "wkv_a.weight": torch.cat([a["kv_down.weight"], a["k_rope.weight"]]),
        "kv_norm.weight": a["norm_kv_latent.weight"],
        "wkv_b.weight": by_head(a["k_up.weight"], a["v_up.weight"]),
        "wo.weight": a["o.weight"],
    }


LAYOUTS = [ours, no_bias, prototype, prototype_later, prototype_linears]


def shapes_of(tensors):
    return {PRE + key: tuple(value.shape) for key, value in tensors.items()}


def read(tensors, **options):
    return read_layout("test", shapes_of(tensors), DIM, HEADS, **options)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_comes_back_layer_by_layer(attention, layout):
    tensors = layout(attention)
    reading = read(tensors)
    made = split_layers({PRE + key: value for key, value in tensors.items()}, reading)
    assert {key for key in attention if not key.endswith(".bias")} <= {k.removeprefix(PRE) for k in made}
    for key, value in made.items():
        assert torch.equal(value, attention[key.removeprefix(PRE)]), key
    assert {f"{PRE}{layer}.bias" for layer in reading.biases} == {
        key for key in made if key.endswith(".bias")
    }
    with torch.device("meta"):
        sizes = MlaSizes(192, 768, RopeLayout.truncated(128, 32), reading.biases)
        wanted = MlaModel(replace(CONFIG, num_layers=1), sizes).blocks[0].self_attn.state_dict()
    assert {PRE + key for key in wanted} == made.keys()


def test_parts_of_a_fused_projection_may_lie_in_blocks(attention):
    tensors = prototype(attention)
    tensors["W_q_upsampled"] = torch.cat([attention["q_up.weight"], attention["q_rope.weight"]]).T
    tensors["W_kv_upsampled"] = torch.cat([attention["k_up.weight"], attention["v_up.weight"]]).T
    made = split_layers({PRE + k: v for k, v in tensors.items()}, read(tensors, order="in blocks"))
    for key in ("q_up", "q_rope", "k_up", "v_up"):
        assert torch.equal(made[f"{PRE}{key}.weight"], attention[f"{key}.weight"])
    assert "fused up-projections lie per head: assumed" in str(read(prototype(attention)))


@pytest.mark.parametrize(("latent", "query", "turned"), [(64, 768, 32), (512, 768, 64), (192, 768, 16)])
def test_other_published_sizes_are_read_from_shapes(latent, query, turned):
    """The ablations of arXiv 2605.30351."""
    with torch.device("meta"):
        sizes = MlaSizes(latent, query, RopeLayout.truncated(128, turned), frozenset(PROJECTIONS))
        state = MlaModel(replace(CONFIG, num_layers=1), sizes).blocks[0].self_attn.state_dict()
    for layout in (ours, prototype, prototype_linears):
        widths = read(layout(state)).widths
        assert (widths.kv_latent, widths.query_latent, widths.turned) == (latent, query, turned)


@pytest.mark.parametrize(
    "key",
    [
        "model.blocks.3.ffn.0.weight",
        "generator.model.blocks.3.ffn.0.weight",
        "model._fsdp_wrapped_module.blocks.3._fsdp_wrapped_module.ffn.0.weight",
        "module.model.blocks.3._checkpoint_wrapped_module.ffn.0.weight",
        "_orig_mod.model.diffusion_model.blocks.3.ffn.0.weight",
    ],
)
def test_wrappers_are_cut_off(key):
    assert plain_key(key) == "blocks.3.ffn.0.weight"


@pytest.fixture
def whole(attention):
    """A file's tensors: two layers of the layout, and the rest of a model with true widths there."""
    with torch.device("meta"):
        rest = WanModel(CONFIG).state_dict()
    made = {k: torch.zeros(v.shape, dtype=torch.bfloat16) for k, v in rest.items() if ".self_attn." not in k}
    layout = prototype_later(attention).items()
    return made | {
        f"blocks.{i}.self_attn.{key}": value.clone().contiguous() for i in range(2) for key, value in layout
    }


@pytest.mark.parametrize("nested", ["generator", "both", "flat"])
def test_a_nested_training_file_is_read(attention, whole, tmp_path, nested):
    keys = {f"model._fsdp_wrapped_module.{key}": value for key, value in whole.items()}
    other = {key: torch.zeros_like(value) for key, value in keys.items()}
    stored = {"generator": {"generator": keys, "step": 2500}, "flat": keys}
    stored |= {"both": {"generator": other, "generator_ema": keys}}
    torch.save(stored[nested], tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt", kind=VIDEO_MLA)
    model = checkpoint.load()
    for block in model.blocks:
        state = block.self_attn.state_dict()
        assert all(torch.equal(value, attention[key]) for key, value in state.items())
    assert not any(p.requires_grad for p in model.parameters())
    wanted = {"generator": ("generator",), "both": ("generator_ema",), "flat": ()}[nested]
    assert checkpoint.nest == wanted and checkpoint.prefix == "model._fsdp_wrapped_module."
    assert "224 numbers kept of a token and layer, dense 3072" in str(checkpoint)
    assert "bands truncated: assumed" in str(checkpoint) and checkpoint.mla.sizes.biases == {"o"}
    if nested == "both":
        assert "from generator_ema (left: generator)" in str(checkpoint)
        other = open_checkpoint(tmp_path / "model.pt", copy="generator").load()
        assert other.blocks[0].self_attn.o.weight.sum() == 0


def test_our_own_file_says_its_bands(attention, whole, tmp_path):
    layout = RopeLayout(96, *[tuple(0.5 / (i + 1) for i in range(n)) for n in (6, 5, 5)])
    config = {"transformer": {"rope_layout": asdict(layout), "num_heads": HEADS}}
    save_file(whole, tmp_path / "m.safetensors", {"config": json.dumps(config)})
    path = tmp_path / "m.safetensors"
    checkpoint = open_checkpoint(path)
    with pytest.raises(ValueError, match=r"VideoMLA's attention, and Wan's dense attention is needed here"):
        open_checkpoint(path, kind=DENSE)
    assert checkpoint.kind == VIDEO_MLA and checkpoint.load().rope_layout == layout
    assert checkpoint.mla.bands == "of the file" and "assumed" in str(checkpoint)
    derived = open_checkpoint(path, bands="derived").load()
    assert derived.rope_layout == RopeLayout.derived(128, 32)
    with pytest.raises(ValueError, match="bands are truncated or derived, not 'wide'"):
        open_checkpoint(path, bands="wide")


def dropped(name):
    return lambda a: {key: value for key, value in a.items() if key != name}


def added(name, *shape):
    return lambda a: a | {name: torch.empty(shape, device="meta")}


def renamed(old, new):
    return lambda a: {new if key == old else key: value for key, value in a.items()}


@pytest.mark.parametrize(
    "layout, change, words",
    [
        (no_bias, dropped("k_rope.weight"), "missing k_rope"),
        (no_bias, dropped("q_up.weight"), "missing q_up"),
        (no_bias, dropped("o.weight"), r"missing o; without a weight o.bias"),
        (no_bias, dropped("norm_kv_latent.weight"), "missing norm_kv_latent"),
        (no_bias, added("gate.weight", 77, 5), "unknown gate.weight"),
        (no_bias, added("norm_k.weight", 1536), "unknown norm_k.weight"),
        (no_bias, added("W_o", 1536, 1536), "twice o"),
        (no_bias, renamed("o.bias", "q_rope.bias"), "q_rope.bias of shapes that do not fit together"),
        (no_bias, renamed("q_down.weight", "kv_new.weight"), "unknown kv_new.weight; missing q_down"),
        (no_bias, added("k_up.weight", 192, 1152), "k_up.weight of shapes that do not fit together"),
        (no_bias, added("q_down.weight", 3), r"unknown q_down.weight; missing q_down"),
        (prototype, dropped("W_o"), "missing o"),
        (
            prototype,
            added("W_q_downsampled", 768, 1536),
            "W_q_downsampled of shapes that do not",
        ),
        (other_code, dropped("none"), "unknown wq_a.weight, q_norm.weight, wq_b.weight, wkv_a.weight, kv_no"),
    ],
)
def test_another_layout_is_refused_with_its_keys_and_those_expected(attention, layout, change, words):
    tensors = change(layout(attention))
    with pytest.raises(ValueError, match=f"^test: .* layout that is not known here: {words}") as refusal:
        read(tensors)
    said = str(refusal.value)
    assert all(f"{name} {list(value.shape)}" in said for name, value in tensors.items())
    for words in ("W_kv_downsampled", "q_down, q_up, q_rope", "norm_q_latent.weight", "Report this list"):
        assert words in said


def test_dense_and_mixed_models_are_refused(attention):
    with torch.device("meta"):
        dense = WanModel(CONFIG).state_dict()
    shapes = {key: tuple(value.shape) for key, value in dense.items()}
    assert not is_mla(shapes)
    with pytest.raises(ValueError, match=r"unknown q.weight, q.bias, .*; missing norm_q_latent, .*, v_up"):
        read_layout("test", shapes, DIM, HEADS)
    mixed = {k: v for k, v in shapes.items() if "blocks.0.self_attn" not in k} | shapes_of(attention)
    assert is_mla(mixed)
    with pytest.raises(ValueError, match="not known here: block 1 unlike block 0"):
        read_layout("test", mixed, DIM, HEADS)
    with pytest.raises(ValueError, match="per head or in blocks, not 'mixed'"):
        read_layout("test", mixed, DIM, HEADS, order="mixed")


def test_left_over_and_missing_tensors_elsewhere_are_named(whole, tmp_path):
    whole["extra.bias"] = torch.zeros(3)
    del whole["blocks.1.ffn.0.bias"]
    torch.save(whole, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"lacks 1 of .* \(blocks.1.ffn.0.bias\), has 1 left over \(extra.bias\)"
    ):
        open_checkpoint(tmp_path / "model.pt")


def test_broken_files_are_refused(whole, tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match=r"give the path of a Wan 2\.1 checkpoint"):
        open_checkpoint(path)
    torch.save({"generator": whole}, path)
    with pytest.raises(ValueError, match="has no weights called 'ema'; there are generator"):
        open_checkpoint(path, copy="ema")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"is not a whole file of plain tensors.*Copy or download it again"):
        open_checkpoint(path)
    torch.save({"critic": whole}, path)
    with pytest.raises(ValueError, match="holds critic, none known as a model's weights"):
        open_checkpoint(path)

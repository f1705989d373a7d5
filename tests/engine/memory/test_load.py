"""Memory files in every form they may have, and everything that would leave a wrong memory without a word."""

import json
import re
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from rivulet.model_patches.memory.load import load_memory
from rivulet.model_patches.memory.reorder import reorder_encoder
from safetensors.torch import save_file

from ..conftest import SIZES as SIZES_OF_MODEL
from .echo_files import base, encoder_shapes, filled, lora_shapes, save, second, under

DIM, HEADS, LAYERS, FFN, RANK = 24, 2, 3, 32, 4
GRID, TOKENS = (3, 2, 4), 24
SIZES = {"frames": 3, "grid_height": 2, "grid_width": 4}
HELD = {**SIZES, "num_heads": HEADS, "alpha": 8, "rank": RANK, "preset": "echo"}


@pytest.fixture
def encoder():
    return filled(encoder_shapes(DIM, TOKENS), seed=1)


@pytest.fixture
def lora():
    return filled(lora_shapes(DIM, FFN, LAYERS, RANK), seed=2)


@pytest.fixture
def load(model, tmp_path):
    """Returns a loader of what it first saves."""

    def load(stored, name="memory.pt", about=None, grid=GRID, **options):
        return load_memory(save(tmp_path / name, stored, **(about or {})), model, grid=grid, **options)

    return load


def test_a_change_of_any_byte_of_ours_is_found(model, encoder, tmp_path):
    """A file of others has no checksum, and is read."""
    path = tmp_path / "ours.safetensors"
    tensors = under("query_memory_encoder.", encoder)
    save_file(tensors, path, {"memory": json.dumps(SIZES | {"sealed": True}), CHECKSUM: EMPTY})
    seal(path)
    whole = path.read_bytes()
    assert load_memory(path, model)
    for place in (whole.index(b"frames"), len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"load_memory: .*ours.safetensors .*does not agree"):
            load_memory(path, model)
    path.write_bytes(whole.replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(ValueError, match=r"ours.safetensors has lost its checksum, and may be altered"):
        load_memory(path, model)
    save_file(tensors, path, {"memory": json.dumps(SIZES)})
    assert load_memory(path, model)


def form(name, encoder, lora, weights):
    """What is stored, under which name, with which metadata."""
    flat = under("generator_lora.", lora) | under("query_memory_encoder.", encoder)
    own = under("query_memory_encoder.", encoder)
    return {
        "base file": (base(encoder, weights), "echo_infinity.pt", {}),
        "base file without wrappers": (base(encoder, weights, wrapper=""), "echo.pth", {}),
        "base file with `model`": ({"model": under("model.", own | weights)}, "echo.pt", {}),
        "base file of plain keys": (under("model.", own) | under("model.", weights), "echo.pt", {}),
        "second file": (second(encoder, lora), "lora.pt", {}),
        "encoder alone": (encoder, "encoder.pt", {}),
        "encoder alone, wrapped": ({"state_dict": under("module.", encoder)}, "encoder.pt", {}),
        "encoder alone, safetensors": (encoder, "encoder.safetensors", {}),
        "model and encoder, safetensors": (own | weights, "echo.safetensors", {}),
        "our own file": (flat, "memory.safetensors", HELD),
    }[name]


FORMS = {
    "base file": ("generator.model.query_memory_encoder.", False),
    "base file without wrappers": ("generator.model.query_memory_encoder.", False),
    "base file with `model`": ("model.model.query_memory_encoder.", False),
    "base file of plain keys": ("model.query_memory_encoder.", False),
    "second file": ("query_memory_encoder.", True),
    "encoder alone": ("", False),
    "encoder alone, wrapped": ("state_dict.module.", False),
    "encoder alone, safetensors": ("", False),
    "model and encoder, safetensors": ("query_memory_encoder.", False),
    "our own file": ("query_memory_encoder.", True),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_memory(model, tmp_path, encoder, lora, name):
    stored, file, about = form(name, encoder, lora, model.state_dict())
    got = load_memory(save(tmp_path / file, stored, **about), model, grid=None if about else GRID)
    state = got.encoder.state_dict()
    assert state.keys() == encoder.keys() and all(torch.equal(state[key], encoder[key]) for key in state)
    config = got.encoder.config
    assert (config.frames, config.grid_height, config.grid_width, config.num_heads) == (*GRID, HEADS)
    assert not config.normalize_keys and not got.encoder.training
    assert not any(p.requires_grad for p in got.encoder.parameters())
    root, has_lora = FORMS[name]
    assert got.names.root == root and (got.lora is not None) == has_lora and got.metadata == about
    # every form holds the same encoder, so all have one fingerprint
    assert got.fingerprint == load_memory(save(tmp_path / "again.pt", encoder), model, grid=GRID).fingerprint
    if has_lora:
        assert got.coverage == (30, 30) and got.lora.scales == ((2.0 if about else 1.0),)
        a, b, _ = got.lora.layers["blocks.1.cross_attn.v"]
        assert torch.equal(a, lora["base_model.model.blocks.1.cross_attn.v.lora_A.weight"])
        assert torch.equal(b, lora["base_model.model.blocks.1.cross_attn.v.lora_B.weight"])


def test_of_an_average_the_encoder_comes_from_the_weights(load, encoder, model):
    stored = base(encoder, model.state_dict())
    got = load(stored)
    assert got.encoder.query_init.abs().max() > 0 and "model.query_memory_encoder." in got.names.unused[0]
    assert got.names.unused == ("generator_ema.model.query_memory_encoder.",)
    assert got.names.others == 3 * len(model.state_dict())
    stored["generator_ema"] = {k: v for k, v in stored["generator_ema"].items() if "memory" not in k}
    assert load(stored).fingerprint == got.fingerprint
    alone = {"generator_ema": stored["generator"]}
    assert load(alone).names.root == "generator_ema.model.query_memory_encoder."


def test_the_encoder_beside_a_lora_takes_the_place_of_the_bases(load, encoder, lora, model):
    other = {name: tensor + 1 for name, tensor in encoder.items()}
    got = load(base(other, model.state_dict()) | second(encoder, lora))
    assert torch.equal(got.encoder.query_init, encoder["query_init"])
    assert got.names.unused[0].startswith("generator.") and got.names.unused[-1] == "critic_lora"


@pytest.mark.parametrize("normed", [True, False])
def test_the_log_says_what_was_found(load, encoder, lora, model, normed):
    encoder |= {"norm_k_out.weight": torch.ones(DIM)} if normed else {}
    got = load(second(encoder, lora) if not normed else base(encoder, model.state_dict()))
    text = str(got)
    assert got.encoder.config.normalize_keys == normed
    assert f"{len(encoder)} tensors under" in text and got.fingerprint[:16] in text
    assert "2 layers of 24, 2 heads, 3 x 2 x 4 = 24 memory tokens" in text
    if normed:
        assert "keys normed: trained with growing positions, without a LoRA\nno LoRA" in text
        assert "; not used: generator_ema.model.query_memory_encoder." in text
    else:
        assert "LoRA of rank 4, scale 1: changes 30 of the 30 linear layers" in text and "critic_lora" in text


def test_numbers_are_in_the_dtype_asked_for_and_the_fingerprint_is_the_files(load, encoder, lora):
    got = load(second(encoder, lora), dtype=torch.bfloat16)
    assert {p.dtype for p in got.encoder.parameters()} == {torch.bfloat16}
    assert got.lora.layers["blocks.0.ffn.0"].down.dtype == torch.float32
    assert got.fingerprint == load(encoder).fingerprint
    encoder["to_k.bias"][3] += 1e-6
    assert got.fingerprint != load(encoder).fingerprint


def test_more_layers_than_published_are_read_from_the_names(load, encoder):
    third = {
        n.replace("layers.1.", "layers.2."): v + 1 for n, v in encoder.items() if n.startswith("layers.1.")
    }
    assert load(encoder | third).encoder.config.layers == 3


def test_a_memory_goes_with_latent_attention_and_its_lora_does_not(tmp_path, encoder, lora):
    """VideoMLA's attentions give whole keys and values too, but have no layers q, k and v to change."""
    sizes = MlaSizes(6, 8, RopeLayout.truncated(12, 6))
    with torch.device("meta"):
        latent = MlaModel(replace(SIZES_OF_MODEL, num_layers=LAYERS), sizes)
    assert load_memory(save(tmp_path / "e.pt", encoder), latent, grid=GRID).encoder.config.dim == DIM
    with pytest.raises(
        ValueError, match=r"9 of the LoRA's 30 layers are no linear .*\(blocks.0.self_attn.q, "
    ):
        load_memory(save(tmp_path / "l.pt", second(encoder, lora)), latent, grid=GRID)


def test_a_converted_model_reads_the_memory_it_was_taught_and_no_other(tmp_path, model, encoder, lora):
    layout = RopeLayout.truncated(12, 6)
    with torch.device("meta"):
        latent = MlaModel(replace(SIZES_OF_MODEL, num_layers=LAYERS), MlaSizes(6, 8, layout))
    path = save(tmp_path / "l.pt", second(encoder, lora))
    dense = load_memory(path, model, grid=GRID)
    got = load_memory(path, latent, grid=GRID, model_memory=dense.fingerprint)
    assert got.lora is None and got.changes_the_model and got.fingerprint == dense.fingerprint
    wanted = reorder_encoder(dense.encoder, layout).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in got.encoder.state_dict().items())
    assert not torch.equal(got.encoder.to_k.weight, dense.encoder.to_k.weight)
    assert str(got).endswith("trained with this memory: a LoRA in the file is not used")
    encoder["to_k.bias"][3] += 1e-6
    other = save(tmp_path / "other.pt", second(encoder, lora))
    with pytest.raises(
        ValueError, match=f"the model was trained with {dense.fingerprint[:16]}; take the memory"
    ):
        load_memory(other, latent, grid=GRID, model_memory=dense.fingerprint)


def test_the_true_sizes_of_the_base_file(tmp_path):
    """1536 channels and 4680 tokens in float16: the published grid, and no metadata."""
    with torch.device("meta"):
        model = WanModel(WanConfig(1536, 8, 1))
    shapes = encoder_shapes(1536, 4680, normed=True)
    encoder = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    got = load_memory(
        save(tmp_path / "echo_infinity.pt", {"generator": under("model.query_memory_encoder.", encoder)}),
        model,
    )
    config = got.encoder.config
    assert (config.frames, config.grid_height, config.grid_width) == (3, 30, 52)
    assert config.num_heads == 12 and config.normalize_keys
    assert sum(p.numel() for p in got.encoder.parameters()) == 68_570_112 + 1536


def dropped(*names):
    return lambda e: {name: v for name, v in e.items() if name not in names}


def put(name, *shape, fill=0.0):
    return lambda e: e | {name: torch.full(shape, fill)}


UNFIT = {
    "a key is missing": (
        dropped("gate_linear.bias"),
        "lacks 1 of 34 keys (gate_linear.bias) and has 0 unknown",
    ),
    "keys are missing": (
        dropped("to_k.weight", "to_v.weight"),
        "lacks 2 of 34 keys (to_k.weight, to_v.weight)",
    ),
    "the state is missing": (dropped("query_init"), "lacks 1 of 34 keys (query_init)"),
    "a whole layer": (
        lambda e: {n: v for n, v in e.items() if not n.startswith("layers.0.")},
        "lacks 11 of 34 keys (layers.0.ffn.0.bias, layers.0.ffn.0.weight",
    ),
    "a key is left over": (put("norm_v_out.weight", DIM), "has 1 unknown ones (norm_v_out.weight)"),
    "a group of options": (put("sink_memory.state", 2), "has 1 unknown ones (sink_memory.state)"),
    "a shape": (put("to_k.weight", DIM, 2 * DIM), "to_k.weight is (24, 48), needs (24, 24)"),
    "a key norm of heads": (put("norm_k_out.weight", 12), "norm_k_out.weight is (12,), needs (24,)"),
    "another width": (
        lambda e: filled(encoder_shapes(48, TOKENS)),
        "is for models of 48 channels, this one has 24; take the memory that was trained with this model",
    ),
    "other tokens": (
        lambda e: filled(encoder_shapes(DIM, 25)),
        "has 25 tokens, the grid asked for is 3 x 2 x 4 = 24; give the frames, rows and columns it",
    ),
    "groups of layers": (put("query_init", 2, TOKENS, DIM), "query_init in", "several groups of layers"),
    "a flat state": (put("query_init", TOKENS, DIM), "is [24, 24], not [1, tokens, channels]"),
    "NaN": (
        put("to_v.bias", DIM, fill=float("nan")),
        "1 tensors in",
        "hold NaN or infinite numbers (to_v.bias)",
    ),
    "infinity": (put("norm_x", DIM, fill=1.0), "norm_x"),
    "packed": (
        lambda e: e | {"to_k.weight": e["to_k.weight"].to(torch.float8_e4m3fn)},
        "not plain numbers (to_k.weight is float8_e4m3fn); give a file in float32",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("in_base", [True, False], ids=["base file", "encoder alone"])
def test_an_encoder_that_is_not_whole_is_refused(load, encoder, model, case, in_base):
    change, *words = UNFIT[case]
    encoder = change(encoder)
    with pytest.raises(ValueError, match=r"^load_memory: ") as refused:
        load(base(encoder, model.state_dict()) if in_base else encoder)
    assert all(word in str(refused.value) for word in words)


def test_a_loras_faults_are_told_with_the_files_name(load, encoder, lora):
    with pytest.raises(
        ValueError, match=r"^load_memory: .*memory.pt: 10 of the LoRA's 40 layers are no linear"
    ):
        load(second(encoder, filled(lora_shapes(DIM, FFN, 4, RANK))))
    with pytest.raises(
        ValueError, match=r"^load_memory: .*memory.pt: of the LoRA's 30 changes 30 are of another"
    ):
        load(second(encoder, filled(lora_shapes(48, FFN, LAYERS, RANK))))
    lora.popitem()
    with pytest.raises(ValueError, match=r"^load_memory: .*memory.pt: 1 of 30 layers .* only one of the two"):
        load(second(encoder, lora))
    name = "base_model.model.blocks.0.ffn.0.lora_B.weight"
    with pytest.raises(ValueError, match=re.escape(f"memory.pt hold NaN or infinite numbers ({name})")):
        load(second(encoder, lora | {name: torch.full((FFN, RANK), float("inf"))}))


def test_a_lora_without_its_memory_is_refused(load, lora, model):
    for stored in ({"generator_lora": lora}, lora):
        with pytest.raises(
            ValueError, match=r"holds a LoRA without the memory that was trained with it \(60 tens"
        ):
            load(stored)
    with pytest.raises(
        ValueError, match=r"holds no memory encoder \(.* tensors: blocks.0.* its file of LoRA and"
    ):
        load(model.state_dict())
    with pytest.raises(ValueError, match=r"holds no memory encoder \(0 tensors: none\)"):
        load({"step": 3})


def test_a_loras_left_overs_are_not_passed_over(load, encoder, lora):
    """In its own dict, and by their names where all tensors lie together."""
    magnitude = {"blocks.0.ffn.0.lora_magnitude_vector": torch.ones(FFN)}
    for stray in (magnitude, {"blocks.0.ffn.0.diff_b": torch.ones(FFN)}, {"head.diff_m": torch.ones(DIM)}):
        with pytest.raises(
            ValueError, match=r"changes (blocks.0.ffn.0|head.mod).* that of a memory has pairs"
        ):
            load(second(encoder, lora | stray))
        with pytest.raises(
            ValueError, match=r"changes (blocks.0.ffn.0|head.mod).* that of a memory has pairs"
        ):
            load(under("query_memory_encoder.", encoder) | lora | stray, "flat.safetensors")


def test_the_lora_of_a_memory_has_one_rank_and_one_alpha(load, encoder, lora):
    """Training goes on from it at one scale."""
    alpha = {"blocks.0.ffn.0.alpha": torch.ones(())}
    with pytest.raises(ValueError, match=r"has ranks 4 and 1 layers with an alpha of their own; that of a"):
        load(second(encoder, lora | alpha))
    shapes = {"lora_A": (2, DIM), "lora_B": (FFN, 2)}
    pair = {f"base_model.model.blocks.0.ffn.0.{name}.weight": torch.ones(s) for name, s in shapes.items()}
    with pytest.raises(ValueError, match=r"has ranks 4, 2 and 0 layers with an alpha of their own"):
        load(second(encoder, lora | pair))


def test_one_tensor_twice_and_two_encoders_are_refused(load, encoder):
    twice = encoder | {"_fsdp_wrapped_module.to_k.bias": encoder["to_k.bias"]}
    with pytest.raises(ValueError, match=r"to_k.bias are one tensor once wrappers are cut off"):
        load(twice)
    with pytest.raises(ValueError, match=r"holds 2 memory encoders, under one\., two\.; only one can be"):
        load({"one": encoder, "two": encoder})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grid_height": 3}, r"has 24 tokens, the grid in the metadata entry `memory` is 3 x 3 x 4 = 36"),
        (
            {"num_heads": 3},
            "is for 3 heads, the model has 2; take the memory that was trained with this model",
        ),
        ({"rank": 8}, "says a LoRA of rank 8, its matrices have 4"),
        ({"frames": 0}, "has frames 0; frames, grid_height, grid_width, num_heads, rank are whole numbers"),
        ({"frames": "3"}, "has frames '3'"),
        ({"grid_width": True}, "has grid_width True"),
        ({"alpha": 0}, "has alpha 0"),
        ({"alpha": float("nan")}, "has alpha nan"),
        ({"alpha": "256"}, "has alpha '256'"),
    ],
    ids=str,
)
def test_metadata_that_does_not_fit_is_refused(load, encoder, lora, change, words):
    flat = under("generator_lora.", lora) | under("query_memory_encoder.", encoder)
    with pytest.raises(ValueError, match=words):
        load(flat, "memory.safetensors", HELD | change, grid=None)


def test_metadata_that_is_no_object_is_refused(model, encoder, tmp_path):
    from safetensors.torch import save_file

    for text in ("[3]", "{"):
        save_file(encoder, tmp_path / "m.safetensors", {"memory": text})
        with pytest.raises(ValueError, match=re.escape(f"must be a JSON object, got {text!r}")):
            load_memory(tmp_path / "m.safetensors", model)


def test_without_a_grid_only_the_published_tokens_are_understood(load, encoder):
    with pytest.raises(
        ValueError, match=r"the grid published is 3 x 30 x 52 = 4680; give .* as `grid`, or in a"
    ):
        load(encoder, grid=None)


def test_a_dtype_that_cannot_be_computed_in_is_refused(load, encoder):
    with pytest.raises(ValueError, match=r"cannot compute in int8 .*; give dtype as one of f"):
        load(encoder, dtype=torch.int8)


def test_a_training_state_that_would_run_code_is_not_opened(load, encoder):
    """As a file of a whole training may, it holds an object of a class beside its tensors."""
    with pytest.raises(
        ValueError, match=r"is not opened: beside tensors it asks for .* save its weights alone"
    ):
        load({"query_memory_encoder": encoder, "config": re.compile("x")})


@pytest.mark.parametrize("name", ["memory.pt", "memory.safetensors"])
def test_files_that_are_absent_or_cut_off_are_refused(model, encoder, tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match=r"load_memory: no file at .*; give the path of a memory: Echo"
    ):
        load_memory(tmp_path / name, model)
    path = save(tmp_path / name, encoder)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"load_memory: .* is not a whole .*Copy or download it again"):
        load_memory(path, model)

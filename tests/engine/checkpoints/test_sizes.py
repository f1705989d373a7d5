import json
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints._sizes import read_config
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from safetensors.torch import save_file

SIZES = WanConfig(dim=48, ffn_dim=40, num_layers=2, num_heads=2, text_dim=10, in_channels=4, out_channels=4)


@pytest.fixture
def weights():
    return WanModel(SIZES).state_dict()


@pytest.fixture
def write(tmp_path):
    def write(tensors, config=None) -> Path:
        text = config if isinstance(config, str) else json.dumps(config)
        metadata = None if config is None else {"config": text}
        save_file(tensors, tmp_path / "model.safetensors", metadata=metadata)
        return tmp_path / "model.safetensors"

    return write


def load(path, dtype=None):
    """The model of a file; four latent channels keep it small."""
    return open_checkpoint(path, channels=4).load(dtype)


HEADS = {"transformer": {"num_heads": 2, "causal_ar": True, "model_type": "t2v"}}


def test_a_saved_model_comes_back_with_its_sizes_and_every_weight(weights, write):
    model = load(write(weights, HEADS))
    assert model.config == SIZES
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_the_published_1_3b_sizes_are_read_from_its_shapes():
    published = {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "text_embedding.0.weight": (1536, 4096),
        "time_embedding.0.weight": (1536, 256),
        "head.head.weight": (64, 1536),
        "head.modulation": (1, 2, 1536),
        **{f"blocks.{i}.ffn.0.weight": (8960, 1536) for i in range(30)},
    }
    assert read_config("test", published) == WanConfig(dim=1536, ffn_dim=8960, num_layers=30, num_heads=12)


def test_published_names_in_the_metadata_override_the_shapes():
    shapes = {key: tuple(value.shape) for key, value in WanModel(SIZES).state_dict().items()}
    config = read_config("test", shapes, {"num_heads": 4, "in_dim": 5, "patch_size": [1, 1, 1], "eps": 1e-5})
    assert (config.num_heads, config.in_channels, config.patch, config.eps) == (4, 5, (1, 1, 1), 1e-5)


def test_dtype_is_the_files_unless_given(weights, write):
    path = write({key: value.bfloat16() for key, value in weights.items()}, HEADS)
    assert {p.dtype for p in load(path).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(path, torch.float64).parameters()} == {torch.float64}


def test_float8_weights_ask_for_a_dtype_to_compute_in(weights, write):
    path = write({key: value.to(torch.float8_e4m3fn) for key, value in weights.items()}, HEADS)
    with pytest.raises(ValueError, match=r"cannot compute in float8_e4m3fn .* give dtype as one of"):
        load(path)
    assert load(path, torch.float32).patch_embedding.weight.dtype == torch.float32


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*absent.safetensors; give the path"):
        load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 200, -1], ids="{} bytes".format)
def test_a_truncated_file_says_to_copy_it_again(weights, write, kept):
    path = write(weights, HEADS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"is not a whole safetensors file: .*Copy or download it again"):
        load(path)


def test_missing_and_unknown_keys_are_counted_and_named(weights, write):
    del weights["blocks.1.self_attn.q.weight"]
    weights["blocks.1.self_attn.scale"] = torch.zeros(3)
    with pytest.raises(
        ValueError,
        match=r"lacks 1 of .* tensors \(blocks.1.self_attn.q.weight\), has "
        r"1 left over \(blocks.1.self_attn.scale\) .* damaged, or a variant not known here",
    ):
        load(write(weights, HEADS))


def test_wrong_shapes_are_named_with_both_shapes(weights, write):
    weights["blocks.0.ffn.2.weight"] = torch.zeros(48, 39)
    with pytest.raises(ValueError, match=r"1 of other shapes \(blocks.0.ffn.2.weight is \[48, 39\], needs"):
        load(write(weights, HEADS))


def test_sizes_in_the_metadata_must_be_those_of_the_tensors(weights, write):
    with pytest.raises(ValueError, match=r"text_embedding.0.weight is \[48, 10\], needs \[48, 12\]"):
        load(write(weights, {"transformer": {"num_heads": 2, "text_dim": 12}}))


def test_another_kind_of_file_is_recognised(write):
    with pytest.raises(ValueError, match=r"model.safetensors is a VAE \(decoder.conv1.weight\)"):
        load(write({"decoder.conv1.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"blocks.0.ffn.0.weight, .* absent from the 1 keys, which begin wi"):
        load(write({"head.modulation": torch.zeros(1, 2, 48)}))


@pytest.mark.parametrize("config", ["{", "[1]", '{"transformer": 3}'])
def test_unreadable_metadata_is_quoted(weights, write, config):
    with pytest.raises(ValueError, match=r"metadata entry `config` of .* must be a JSON object"):
        load(write(weights, config))


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"dim": 100}, r"num_heads must be a whole number from 1 to [0-9]+, got 0; num_heads is dim // 128"),
        ({"num_heads": 3}, r"even width, got dim 256 for 3 heads"),
        ({"num_layers": 0}, r"num_layers must be a whole number from 1 to [0-9]+, got 0"),
        ({"text_dim": "wide"}, r"text_dim must be a whole number from 1 to [0-9]+, got 'wide'"),
    ],
)
def test_impossible_sizes_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        WanConfig(**{"dim": 256, "ffn_dim": 8, "num_layers": 1, **sizes})


def test_a_model_without_memory_draws_no_random_numbers():
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = WanModel(SIZES)
    assert torch.equal(torch.get_rng_state(), before) and model.head.modulation.is_meta


def test_a_fresh_model_is_still_and_ready_to_learn():
    model = WanModel(SIZES)
    assert model.head.head.weight.abs().sum() == 0
    assert 0.5 < model.blocks[1].modulation.std() * 48**0.5 < 2
    assert model.time_embedding[0].weight.std() < 0.03 < model.blocks[0].ffn[0].weight.std()
    assert all(value.isfinite().all() for value in model.state_dict().values())

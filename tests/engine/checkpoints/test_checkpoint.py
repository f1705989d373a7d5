"""Every published family's file, at its true keys, shapes and nesting: read whole, recognised, run."""

import json
import os
import pickle

import pytest
import torch
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.checkpoints._families import structure_of
from rivulet.model_patches.checkpoints.checkpoint import DENSE, VIDEO_MLA, open_checkpoint
from rivulet.model_patches.checkpoints.recipes import find_recipe
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.engine.checkpoints.published_files import (
    BY_NAME,
    FAMILIES,
    SMALL,
    WAN_14B,
    lora_of,
    nested,
)
from safetensors.torch import save_file


def read(path, **options):
    return open_checkpoint(path, caller="test", **options)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.recipe)
def test_a_file_of_the_true_keys_and_shapes_is_read_whole_and_gets_its_recipe(family, tmp_path):
    """Depth and widths are the published ones; nothing but the file's head is touched."""
    path = family.write(tmp_path)
    found = read(path)
    choice = found.recipe(file=str(path.relative_to(tmp_path)))
    assert choice.recipe.name == family.recipe
    wanted = {key: tuple(value.shape) for key, value in family.model(small=False).state_dict().items()}
    assert {key: tuple(value.shape) for key, value in found.tensors.items()} == wanted
    assert len(found.memory) == len(family.encoder(small=False))
    assert "every one in its place" in str(found)
    if family.memory:
        assert f"Memory encoder inside ({len(found.memory)} tensors)" in str(found)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.recipe)
@torch.inference_mode()
def test_one_block_of_the_loaded_model_is_that_of_the_weights_it_was_written_from(family, tmp_path):
    torch.manual_seed(3)
    model = family.model(small=True)
    path = family.write(tmp_path, model)
    found = read(path, prefer=find_recipe(family.recipe).copy)
    recipe = found.recipe(file=family.file).recipe
    loaded = found.load(torch.float32)
    sizes = (Geometry(32, 32), recipe.preset, recipe.block_frames)
    config = StreamConfig(*sizes, recipe.sigmas[:2], sampler=recipe.sampler)
    text = torch.randn(1, 4, SMALL.text_dim)
    callers = [ModelCaller(each) for each in (model, loaded)]
    blocks = [step(caller, init(caller, (text,), config))[0] for caller in callers]
    assert blocks[0].std() > 0.1 and torch.equal(*blocks)


def test_the_copy_that_is_preferred_is_taken_and_the_others_are_told(tmp_path):
    torch.manual_seed(3)
    family = BY_NAME["causal_forcing"]
    path = family.write(tmp_path, family.model(small=True))
    for options, name, zero in (
        ({}, "generator_ema", True),
        ({"prefer": "generator"}, "generator", False),
        ({"copy": "generator_ema", "prefer": "generator"}, "generator_ema", True),
    ):
        found = read(path, **options)
        assert found.nest == (name,) and (not found.tensors["head.head.weight"].any()) is zero
        assert f"from {name} (left: " in str(found)
    with pytest.raises(ValueError, match=r"has no weights called 'ema'; there are generator, generator_ema"):
        read(path, copy="ema")


def test_a_file_of_another_attention_than_is_needed_is_refused(tmp_path):
    for name, kind, other, words in (
        ("self_forcing", DENSE, VIDEO_MLA, r"dense attention, and VideoMLA's attention is needed here"),
        ("videomla", VIDEO_MLA, DENSE, r"VideoMLA's attention, and Wan's dense attention is needed here"),
    ):
        path = BY_NAME[name].write(tmp_path, BY_NAME[name].model(small=True))
        assert read(path, kind=kind).kind == kind
        with pytest.raises(ValueError, match=rf"^test: .*{words}.*convert-mla"):
            read(path, kind=other)


def test_a_recipe_that_is_chosen_must_be_of_the_same_attention(tmp_path):
    family = BY_NAME["self_forcing"]
    checkpoint = read(family.write(tmp_path, family.model(small=True), "mine.pt"))
    assert checkpoint.recipe("longlive").recipe.name == "longlive"
    assert checkpoint.recipe("longlive").why == "Your choice."
    assert checkpoint.recipe(file="longlive/mine.pt").recipe.name == "longlive"
    assert checkpoint.recipe().why.startswith("A guess")
    with pytest.raises(ValueError, match=r"recipe videomla is for another self-attention than mine.pt has"):
        checkpoint.recipe("videomla")


def test_beside_a_memory_encoder_the_copy_of_the_release_is_taken(tmp_path):
    family = BY_NAME["echo_infinity"]
    tensors = family.tensors(family.model(small=True), small=True)
    torch.save(nested("generator", other="generator_ema")(tensors), tmp_path / "mine.pt")
    for options, taken in (({}, "generator"), ({"prefer": "generator_ema"}, "generator_ema")):
        assert read(tmp_path / "mine.pt", **options).nest == (taken,)


def small_file(tmp_path, tensors, name="model.safetensors", metadata=None):
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name, metadata)
    return tmp_path / name


@pytest.fixture
def weights():
    torch.manual_seed(3)
    return BY_NAME["self_forcing"].model(small=True).state_dict()


def test_a_whole_checkpoint_gives_its_diffusion_model_alone(weights, tmp_path):
    beside = {
        "vae.decoder.conv1.weight": torch.zeros(2),
        "text_encoders.umt5xxl.shared.weight": torch.zeros(2),
    }
    path = small_file(tmp_path, {f"model.diffusion_model.{k}": v for k, v in weights.items()} | beside)
    found = read(path)
    assert found.tensors.keys() == weights.keys() and found.unused == ("text_encoders", "vae")


def test_scales_of_quantised_weights_stay_beside_them(weights, tmp_path):
    extra = {"scaled_fp8": torch.zeros(2), "blocks.0.ffn.0.scale_weight": torch.ones(())}
    found = read(small_file(tmp_path, weights | extra))
    assert found.structure.quantised and found.tensors.keys() == weights.keys() | extra.keys()
    with pytest.raises(ValueError, match=r"quantised weights with scales.*load it in ComfyUI"):
        found.load()


def test_sizes_that_keys_tell_are_said_in_the_metadata(weights, tmp_path):
    stored = {"config": json.dumps({"transformer": {"num_heads": 2, "causal_ar": True}}), "recipe": "{}"}
    found = read(small_file(tmp_path, weights, metadata=stored))
    assert found.metadata == stored
    metadata = found.metadata_with_sizes()
    assert json.loads(metadata["config"])["transformer"] == {
        "text_dim": 64, "freq_dim": 256, "num_heads": 2, "causal_ar": True,
    }  # fmt: skip
    assert metadata["recipe"] == "{}"


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_a_file_that_would_run_code_is_not_opened(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, write in (("zip.pt", torch.save), ("old.pt", dump)):
        write({"generator": Harmful()}, tmp_path / name)
        with pytest.raises(
            ValueError, match=r"not opened: beside tensors it asks for \w+.system.*safetensors"
        ):
            read(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def dump(value, path):
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=2)


def test_an_old_file_without_a_zip_is_read(weights, tmp_path):
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read(tmp_path / "old.pt").tensors.keys() == weights.keys()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in", r"is a web page, not a model.*download the file itself"),
        (b"\n <html>", r"is a web page"),
        (
            b"GGUF\3\0\0\0",
            r"is a GGUF file.*load it with Unet Loader \(GGUF\).*take the model as .safetensors",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"pointer of Git LFS.*git lfs pull"),
        (b"", r"is not a whole .*Copy or download it again"),
        (b"abc" * 100, r"is not a whole .*Copy or download it again"),
    ],
)
def test_what_a_download_leaves_in_place_of_a_model_is_told(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_truncated_download_is_told(weights, tmp_path, name):
    path = tmp_path / name
    torch.save(weights, path) if name.endswith(".pt") else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"is not a whole .*Copy or download it again"):
        read(path)


def test_a_part_of_a_model_is_told(weights, tmp_path):
    path = small_file(tmp_path, weights, "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"is one of 2 parts of a model.*single-file version"):
        read(path)


STRANGERS = [
    ("lora.safetensors", {"blocks.0.ffn.0.lora_A.weight": (4, 8)}, r"is a LoRA.*give this file as its LoRA"),
    ("vae.safetensors", {"decoder.middle.0.residual.0.gamma": (4,)}, r"is a VAE.*models/vae"),
    (
        "umt5.safetensors",
        {"encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4)},
        r"text encoder.*type wan",
    ),
    ("umt5.pt", {"token_embedding.weight": (4, 4)}, r"text encoder.*models/text_encoders"),
    ("sdxl.safetensors", {"input_blocks.0.0.weight": (4, 4)}, r"is Stable Diffusion 1, 2 or XL"),
    ("flux.safetensors", {"double_blocks.0.img_attn.qkv.weight": (4, 4)}, r"is Flux or HunyuanVideo"),
    (
        "ltx.safetensors",
        {"transformer_blocks.0.attn1.to_q.weight": (4, 4)},
        r"another video model, such as LTX",
    ),
    ("other.safetensors", {"layers.0.weight": (4, 4)}, r"is no Wan 2.1 model: it has no head.modulation"),
]


@pytest.mark.parametrize(("name", "keys", "words"), STRANGERS, ids=[each[0] for each in STRANGERS])
def test_another_kind_of_file_is_called_what_it_is(name, keys, words):
    with pytest.raises(ValueError, match=words):
        structure_of("test", name, keys)


def added(*keys):
    return lambda shapes: shapes | dict.fromkeys(keys, (4, 4))


def given(channels):
    return lambda shapes: shapes | {"patch_embedding.weight": (SMALL.dim, channels, 1, 2, 2)}


VARIANTS = [
    (added("img_emb.proj.0.bias"), r"is an image-to-video model \(img_emb.proj.0.bias\).*call t2v"),
    (added("blocks.0.cross_attn.k_img.weight"), r"is an image-to-video model"),
    (added("vace_blocks.0.norm3.bias", "img_emb.proj.0.bias"), r"is a VACE model"),
    (added("control_adapter.conv.weight"), r"is a camera model"),
    (added("audio_proj.audio_proj_glob_1.layer.bias"), r"takes sound, a face or a pose"),
    (added("ref_conv.weight"), r"with a reference picture"),
    (given(36), r"is an image-to-video model, which takes 36 latent channels and gives 16"),
    (given(48), r"is a control model, which takes 48 latent channels and gives 16"),
    (given(20), r"is another variant of Wan"),
]


@pytest.mark.parametrize(("change", "words"), VARIANTS)
def test_other_variants_of_wan_are_refused_with_the_reason(change, words):
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in WanModel(SMALL).state_dict().items()}
    assert structure_of("test", "plain", shapes, {"num_heads": 2}).kind == "dense"
    with pytest.raises(ValueError, match=words):
        structure_of("test", "model.pt", change(shapes))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("blocks.1.ffn.0.bias", None, r"lacks 1 of .* tensors \(blocks.1.ffn.0.bias\)"),
        ("blocks.1.extra.weight", torch.zeros(3), r"has 1 left over \(blocks.1.extra.weight\)"),
        (
            "blocks.1.ffn.2.weight",
            torch.zeros(256, 9),
            r"1 of other shapes \(blocks.1.ffn.2.weight is \[256, 9",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(weights, tmp_path, key, value, words):
    changed = {k: v for k, v in weights.items() if k != key} | ({} if value is None else {key: value})
    with pytest.raises(ValueError, match=words + r".*copy or download it again"):
        read(small_file(tmp_path, changed))


def test_dicts_that_hold_no_model_are_told(weights, tmp_path):
    path = tmp_path / "x.pt"
    for stored, words in (
        ({"generator_lora": lora_of(WanModel(SMALL), 2)}, r"holds a LoRA \(generator_lora\).*as its LoRA"),
        ({"critic": weights}, r"holds critic, none known as a model's weights; name the one to take"),
        ([torch.zeros(2)], r"holds a list, not tensors by name"),
        ({"epoch": 3}, r"epoch in .* are no tensors"),
    ):
        torch.save(stored, path)
        with pytest.raises(ValueError, match=words):
            read(path)


def test_the_sizes_of_14b_are_read_from_its_shapes():
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in WanModel(WAN_14B).state_dict().items()}
    found = structure_of("test", "krea.safetensors", shapes)
    assert (found.size, found.config) == ("14B", WAN_14B)
    assert str(found) == "Wan 2.1 text to video, 14B: 40 layers of 5120, dense attention"


@pytest.mark.parametrize("name", ["causal_forcing", "krea_realtime"])
def test_tensors_of_a_file_are_mapped_not_copied(tmp_path, name):
    """Bytes that change in the file change in the tensors: there is no copy of them."""
    family = BY_NAME[name]
    path = family.write(tmp_path, family.model(small=True))
    before = read(path, prefer="generator").tensors["head.head.weight"].clone()
    found = read(path, prefer="generator").tensors["head.head.weight"]
    held = bytearray(path.read_bytes())
    at = held.index(before.numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(before.nbytes))
    assert before.any() and not found.any()

"""Models of quantised weights stream with every cache format: layers are called, weights never read."""

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.loading import streamed
from safetensors.torch import save_file

SIZES = WanConfig(dim=128, ffn_dim=192, num_layers=2, text_dim=64)
CONFIG = StreamConfig(Geometry(64, 64), "pocket", 3, (1.0, 0.5), seed=5)
FORMATS = ("dense", "int8", "latent")
KINDS = ("packed", "fp8", "fp8 scaled")
FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of FP8


def is_quantised(key, value):
    return value.ndim == 2 and key.endswith(".weight")


def scaled(tensors):
    """(fp8 weights with a scale beside each, what they hold)."""
    stored, held = {"scaled_fp8": torch.zeros(2, dtype=FP8)}, dict(tensors)
    for key, value in tensors.items():
        if not is_quantised(key, value):
            stored[key] = value
            continue
        scale = value.abs().max() / LARGEST
        stored[key] = (value / scale).to(FP8)
        stored[key.removesuffix("weight") + "scale_weight"] = scale.reshape(())
        held[key] = stored[key].float() * scale
    return stored, held


@pytest.fixture(scope="module")
def tensors():
    """Returns a small model's weights."""
    torch.manual_seed(2)
    with torch.inference_mode(False):
        state = WanModel(SIZES).requires_grad_(False).state_dict()
    return {key: value + 0.05 * torch.randn_like(value) for key, value in state.items()}


@pytest.fixture(scope="module")
def made(comfyui, tensors, tmp_path_factory):
    """Returns a function: (the MODEL with quantised weights, the MODEL with the numbers that those hold)."""
    import comfy.sd
    import folder_paths
    from rivulet.nodes.load_streaming_model import RivuletLoadModel

    folder = tmp_path_factory.mktemp("quantised")
    known = {}

    def node(file, weight_dtype="default"):
        recipe, rest = (
            "as recognised",
            ("none", 1.0, weight_dtype, "as released", "as the file says", "per head"),
        )
        return RivuletLoadModel.execute(file, recipe, *rest).args[0]

    def of(kind):
        if kind in known:
            return known[kind]
        name, held = f"{kind.replace(' ', '_')}.safetensors", dict(tensors)
        if kind == "packed":
            from rivulet.tests.host.packed import PackedOps, pack, unpack

            packed = {k: pack(v) if is_quantised(k, v) else v for k, v in tensors.items()}
            held = {k: unpack(packed[k]) if is_quantised(k, v) else v for k, v in tensors.items()}
            config = '{"transformer": {"text_dim": 64}}'
            options = {"custom_operations": PackedOps}
            model = comfy.sd.load_diffusion_model_state_dict(packed, options, {"config": config})
        else:
            stored, held = scaled(tensors) if kind == "fp8 scaled" else (tensors, cast(tensors))
            save_file(stored, folder / name)
            model = node(name, "fp8_e4m3fn" if kind == "fp8" else "default")
        save_file(held, folder / f"held_{name}")
        known[kind] = model, node(f"held_{name}")
        return known[kind]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("diffusion_models", "checkpoints", "loras"):
            patch.setitem(folder_paths.folder_names_and_paths, name, ([str(folder)], {".safetensors"}))
        patch.setattr(folder_paths, "filename_list_cache", {})
        yield of


def cast(tensors):
    """Weights as the host's fp8 option keeps them: all but those of norms' and embeddings' own dtype."""
    return {key: value.to(FP8).float() for key, value in tensors.items()} | {
        key: value for key, value in tensors.items() if key.startswith("patch_embedding")
    }


class Clip:
    """Text of the model's width, another for every prompt."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        return [[torch.randn(1, 12, 64, generator=generator), {}]]


@pytest.fixture(scope="module")
def basis(made):
    """Returns a basis that was calibrated on packed weights, by asking their layers."""
    from rivulet.model_patches.cache.calibration.calibrate import Goal
    from rivulet.nodes.calibrate import CalibrationRun

    with torch.inference_mode():
        calibration_run = CalibrationRun(made("packed")[0], Clip(), ["one", "two", "three"], CONFIG, 6)
        calibration = calibration_run.calibrate()
        chosen = calibration.choose(Goal(token_bytes=4 * SIZES.dim / 4))
        return calibration.basis(chosen, {"checkpoint": "packed", **calibration_run.about()})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_model_streams_as_the_numbers_it_holds(made, basis, kind, name):
    from rivulet.nodes.small_cache import CacheChoice

    cache = CacheChoice(name, basis if name == "latent" else None)
    text = Clip().encode_from_tokens_scheduled("one")
    got, wanted = (streamed(model, text, CONFIG, cache=cache)[0] for model in made(kind))
    # the same float32 weights, unpacked for every call
    assert got.std() > 0.1 and torch.equal(got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_quantised_indeed(made, tensors, kind):
    layer = made(kind)[0].model.diffusion_model.blocks[0].self_attn.k
    stored = {"packed": torch.uint8}.get(kind, FP8)
    assert layer.weight.dtype == stored or getattr(layer.weight, "_qdata", layer.weight).dtype == stored
    plain = tensors["blocks.0.self_attn.k.weight"]
    held = made(kind)[1].model.diffusion_model.blocks[0].self_attn.k.weight
    assert 1e-4 < (held - plain).norm() / plain.norm() < 0.1

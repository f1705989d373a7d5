"""GGUF files through their own pack, ComfyUI-GGUF: what its loader gives streams as the numbers in the file.

COMFYUI_GGUF_PATH names a checkout of it (github.com/city96/ComfyUI-GGUF), whose library `gguf` must be there.
Without it these tests are skipped; with RIVULET_REQUIRE_GGUF=1 they fail.
"""

import asyncio
import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.loading import REST, streamed
from safetensors.torch import save_file

# rows of 256 numbers, the longest block of a GGUF type; a file of that pack says neither heads nor text width
SIZES = WanConfig(dim=256, ffn_dim=512, num_layers=2)
CONFIG = StreamConfig(Geometry(64, 64), "pocket", 3, (1.0, 0.5), seed=5)
FORMATS = ("dense", "int8", "latent")
KINDS = {"Q8_0": "F16", "Q4_0": "BF16", "Q4_K": "BF16"}  # of the blocks' matrices: of the others
PROMPTS = ["one", "two", "three", "four"]


def _no_pack(reason):
    refuse = pytest.fail if os.environ.get("RIVULET_REQUIRE_GGUF") == "1" else pytest.skip
    refuse(f"needs ComfyUI-GGUF: {reason}")


@pytest.fixture(scope="module")
def pack(comfyui):
    """Returns the pack's nodes by name, loaded as the host loads packs."""
    import nodes

    named = os.environ.get("COMFYUI_GGUF_PATH")
    if not named:
        _no_pack("COMFYUI_GGUF_PATH is not set to a checkout of it")
    if not (Path(named) / "nodes.py").is_file():
        _no_pack(f"{named} has no nodes.py; set COMFYUI_GGUF_PATH to a checkout of it")
    if importlib.util.find_spec("gguf") is None:
        _no_pack("pip install gguf, which it imports")
    assert asyncio.run(nodes.load_custom_node(named)), "the pack did not load; its log says why"
    return nodes.NODE_CLASS_MAPPINGS


def quantised(value, kind):
    """(bytes of a matrix in GGUF's type, the float32 numbers that gguf's own code finds in them)."""
    import gguf

    made = gguf.GGMLQuantizationType[kind]
    raw = (
        codes_of(value, *gguf.GGML_QUANT_SIZES[made])
        if kind == "Q4_K"
        else gguf.quants.quantize(value.numpy(), made)
    )
    return raw, torch.from_numpy(gguf.quants.dequantize(raw, made).copy()).reshape(value.shape)


def codes_of(value, block, size):
    """Q4_K's bytes, which gguf reads and cannot write: two half-precision scales d and m, then random ones.

    A number is d * scale * code - m * minimum of 6, 4 and 6 bits. With m = 8 d it is a whole number from -504
    to 945 times d, which half precision holds.
    """
    import numpy

    count = value.numel() // block
    codes = numpy.random.default_rng(count).integers(0, 256, (count, size - 4), dtype=numpy.uint8)
    scales = numpy.full((count, 2), (2**-12, 2**-9), dtype=numpy.float16)
    return numpy.concatenate([scales.view(numpy.uint8), codes], 1).reshape(value.shape[0], -1)


def write(path, tensors, kind):
    """A file as that pack's converter and llama-quantize leave Wan's: returns the numbers in it."""
    import gguf

    writer, held = gguf.GGUFWriter(path=None, arch="wan"), {}
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}" + ("_M" if kind == "Q4_K" else "")])
    for key, value in tensors.items():
        of = "F32" if value.ndim != 2 else kind if key.startswith("blocks.") else KINDS[kind]
        raw, held[key] = quantised(value, of)
        writer.add_tensor(key, raw, raw_dtype=gguf.GGMLQuantizationType[of])
    writer.write_header_to_file(path=path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def is_packed(key, value):
    return value.ndim == 2 and key.startswith("blocks.")


@pytest.fixture(scope="module")
def files(pack, tmp_path_factory):
    """Returns a folder that ComfyUI's loaders look in: each kind's file, and the numbers in it beside it."""
    import folder_paths

    folder = tmp_path_factory.mktemp("gguf")
    torch.manual_seed(2)
    with torch.inference_mode(False):
        state = WanModel(SIZES).requires_grad_(False).state_dict()
    tensors = {key: value + 0.05 * torch.randn_like(value) for key, value in state.items()}
    for kind in KINDS:
        held = write(folder / f"{kind}.gguf", tensors, kind)
        # the loader multiplies scale and code, which are exact there, in half precision
        held = {key: value.half().float() if is_packed(key, value) else value for key, value in held.items()}
        save_file(held, folder / f"{kind}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("diffusion_models", "checkpoints", "loras", "unet_gguf"):
            endings = {".gguf"} if name == "unet_gguf" else {".safetensors"}
            patch.setitem(folder_paths.folder_names_and_paths, name, ([str(folder)], endings))
        patch.setattr(folder_paths, "filename_list_cache", {})
        yield folder


@pytest.fixture(scope="module")
def packed(pack, files):
    """Returns a function that loads a kind's GGUF file."""
    known = {}

    def of(kind):
        if kind not in known:
            (known[kind],) = pack["UnetLoaderGGUF"]().load_unet(f"{kind}.gguf")
        return known[kind]

    return of


@pytest.fixture(scope="module")
def held(files):
    """Returns a function that loads a kind's numbers with our own loader."""
    from rivulet.nodes.load_streaming_model import RivuletLoadModel

    known = {}

    def of(kind):
        if kind not in known:
            known[kind] = RivuletLoadModel.execute(f"{kind}.safetensors", **REST).args[0]
        return known[kind]

    return of


@pytest.fixture(scope="module")
def assigned(pack, files):
    """Returns the file of Q8_0 as the host loads it where it manages graphics memory itself (dynamic VRAM).

    Every parameter, those of norms and `modulation` too, is the tensor that the pack read.
    """
    import comfy.model_base

    load = comfy.model_base.BaseModel.load_model_weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            comfy.model_base.BaseModel,
            "load_model_weights",
            lambda self, state, prefix="", assign=False: load(self, state, prefix, assign=True),
        )
        (model,) = pack["UnetLoaderGGUF"]().load_unet("Q8_0.gguf")
    return model


class Clip:
    """Text of Wan's width, another for every prompt."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        return [[torch.randn(1, 12, SIZES.text_dim, generator=generator), {}]]


TEXT = Clip().encode_from_tokens_scheduled("one")


def calibration_run(model):
    from rivulet.nodes.calibrate import CalibrationRun

    return CalibrationRun(model, Clip(), PROMPTS, CONFIG, 8)


@pytest.fixture(scope="module")
def basis(assigned):
    """Returns a basis that was calibrated on the file of Q8_0."""
    from rivulet.model_patches.cache.calibration.calibrate import Goal

    with torch.inference_mode():
        made = calibration_run(assigned).calibrate()
        chosen = made.choose(Goal(token_bytes=4 * SIZES.dim / 4))
        return made.basis(chosen, {"checkpoint": "it", **calibration_run(assigned).about()})


@pytest.fixture
def cache(request):
    """Returns a function that gives a choice of a format."""
    from rivulet.nodes.small_cache import CacheChoice

    return lambda name: CacheChoice(name, request.getfixturevalue("basis") if name == "latent" else None)


def latents(model, cache, config=CONFIG):
    return streamed(model, TEXT, config, cache=cache)[0]


def same(one, other, cache, config=CONFIG):
    """Whether two models stream the same numbers, and any at all."""
    got, wanted = (latents(model, cache, config) for model in (one, other))
    return got.std() > 0.1 and torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, name) for kind in ("Q8_0", "Q4_0") for name in FORMATS), ("Q4_K", "dense")]
)
def test_a_file_streams_as_the_numbers_in_it(packed, held, cache, kind, name):
    # both multiply with the same float32 numbers: the pack unpacks them for every call
    assert same(packed(kind), held(kind), cache(name))


@pytest.mark.parametrize("name", FORMATS)
def test_parameters_of_the_packs_own_class_change_nothing(assigned, held, cache, name):
    """They answer `clone`, `detach`, `shape` and `new_empty` in their own way, and results inherit it."""
    block = assigned.model.diffusion_model.blocks[0]
    for parameter in (block.modulation, block.self_attn.norm_k.weight, block.self_attn.k.weight):
        assert type(parameter).__name__ == "GGMLTensor"
    assert same(assigned, held("Q8_0"), cache(name))


def test_a_basis_is_made_from_the_numbers_in_the_file(assigned, packed, held, basis):
    assert basis.provenance["tokens"] == 3 * 8 * 48 and basis.provenance["error"] < 0.01
    asked = [calibration_run(each) for each in (held("Q8_0"), packed("Q8_0"), assigned)]
    wanted, *got = [(each.about(), each.weights(1)) for each in asked]
    for about, weights in got:
        assert about == wanted[0]
        for name in ("key_CO", "key_bias_O", "value_CO", "value_bias_O", "out_OC", "gain_O"):
            found = getattr(weights, name)
            assert type(found) is torch.Tensor and torch.equal(found, getattr(wanted[1], name))


def test_in_half_the_precision_it_is_the_same(pack, files, assigned, cache):
    """As on a card: the host casts both to what it computes in, layer by layer."""
    import comfy.ops
    import comfy.sd
    from safetensors.torch import load_file

    (loaded,) = pack["UnetLoaderGGUF"]().load_unet("Q8_0.gguf")
    state, casting = load_file(files / "Q8_0.safetensors"), {"custom_operations": comfy.ops.manual_cast}
    plain = comfy.sd.load_diffusion_model_state_dict(state, casting)
    config = replace(CONFIG, dtype=torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        for model in (plain, loaded, assigned):
            patch.setattr(model.model, "manual_cast_dtype", torch.bfloat16)
        assert same(loaded, plain, cache("dense"), config)
        assert same(assigned, plain, cache("dense"), config)


def test_a_lora_is_added_to_what_is_unpacked_and_taken_away_again(packed, held, cache):
    import comfy.sd

    pairs = {}
    for layer in ("self_attn.k", "cross_attn.o", "ffn.0"):
        key = f"diffusion_model.blocks.1.{layer}"
        rows = 512 if layer == "ffn.0" else 256
        pairs |= {
            f"{key}.lora_up.weight": torch.randn(rows, 4),
            f"{key}.lora_down.weight": torch.randn(4, 256),
        }
    before = latents(packed("Q8_0"), cache("dense"))
    with_lora = [comfy.sd.load_lora_for_models(of("Q8_0"), None, pairs, 0.1, 0)[0] for of in (packed, held)]
    assert same(*with_lora, cache("dense"))
    assert not torch.equal(latents(with_lora[0], cache("dense")), before)
    assert torch.equal(latents(packed("Q8_0"), cache("dense")), before)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_packed_and_are_counted_so(packed, files, kind):
    import gguf
    from rivulet.nodes.doctor import findings
    from rivulet.nodes.plan import request_of

    model, reader = packed(kind), gguf.GGUFReader(files / f"{kind}.gguf")
    layer = model.model.diffusion_model.blocks[1].ffn[0]
    assert layer.weight.tensor_type.name == kind and layer.weight.nbytes == layer.weight.numel()
    # the pack counts the longest of the packed ones once more in half precision, which unpacking it takes
    packs = [tensor for tensor in reader.tensors if tensor.tensor_type.name not in ("F32", "F16")]
    most = max(packs, key=lambda tensor: tensor.data.size)
    wanted = sum(int(tensor.n_bytes) for tensor in reader.tensors) + 2 * int(most.n_elements)
    beside = sum(levels.nbytes for levels in model.model.model_sampling.state_dict().values())
    assert request_of(model, None, CONFIG, 16.0, 2.0).weights_bytes == wanted + beside
    assert findings(model)["Model"] == "WanModel, can be streamed"

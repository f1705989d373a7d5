"""Published checkpoints in ComfyUI: its own loader, with recipe, LoRA, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.checkpoints.recipes import find_recipe
from rivulet.tests.engine.checkpoints.published_files import (
    BY_NAME,
    FAMILIES,
    SHARDED,
    SMALL,
    lora_of,
    nested,
)
from rivulet.tests.host.loading import close, own_stream, streamed
from safetensors.torch import save_file


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(5)
    return [[torch.randn(1, 6, SMALL.text_dim, generator=generator), {}]]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.recipe)
def test_every_family_streams_as_the_weights_it_was_written_from(family, load_file, written, text, caplog):
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config, switch_of

    model = written(family.recipe)
    loaded, report = load_file(family.file)
    assert not [line for line in caplog.messages if "missing" in line or "unexpected" in line]
    record = find_recipe(family.recipe)
    config = stream_config(loaded, 32, 48, FROM_MODEL, 0, 0.0)
    assert (config.preset.name, config.block_frames, config.cfg) == (record.preset, record.block_frames, 1.0)
    assert (config.sigmas, config.first_sigmas) == (record.sigmas, record.first_sigmas)
    said = f"New prompts: {record.switch}, as the recipe of {record.name} says."
    assert switch_of(loaded) == (record.switch, said)
    assert record.title in report and "every one in its place" in report
    assert ("connect Evolving Memory" in report) is (record.memory != "off")
    config = replace(config, sigmas=config.sigmas[:2], first_sigmas=config.first_sigmas[:3])
    got, _ = streamed(loaded, text, config)
    assert close(got, own_stream(model, text, config, loaded))


def test_the_hosts_own_block_sampler_takes_a_dense_model(load_file, written):
    import comfy.ldm.wan.ar_model

    written("self_forcing")
    model, _ = load_file(BY_NAME["self_forcing"].file)
    assert isinstance(model.model.diffusion_model, comfy.ldm.wan.ar_model.CausalWanModel)


def test_the_host_can_make_the_model_again(load_file, written):
    """As it does for torch.compile and for several cards."""
    written("videomla")
    model, _ = load_file(BY_NAME["videomla"].file)
    factory, arguments = model.cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    one, other = (each.model.diffusion_model.state_dict() for each in (model, again))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_a_lora_is_added_by_alpha_over_rank(load_file, written, folders, alpha):
    model = written("longlive")
    file, rank, strength = BY_NAME["longlive"].file, 4, 0.5
    tensors = lora_of(model, rank)
    if alpha is None:
        torch.save({"generator_lora": tensors}, folders / "loras" / "lora.pt")
    else:
        said = {
            f"{key[: -len('.lora_A.weight')]}.alpha": torch.tensor(alpha)
            for key in tensors
            if "lora_A" in key
        }
        torch.save(tensors | said, folders / "loras" / "lora.pt")
    loaded, report = load_file(file, lora_file="lora.pt", lora_strength=strength)
    scale = 1.0 if alpha is None else alpha / rank
    assert f"lora.pt: 20 layers, rank 4, scale {scale:g}" in report and "strength 0.5" in report
    loaded.patch_model()
    try:
        for name in ("blocks.0.self_attn.q", "blocks.1.cross_attn.o", "blocks.1.ffn.2"):
            pair = [tensors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB"]
            base = model.get_submodule(name).weight.double()
            wanted = base + strength * scale * pair[1] @ pair[0]
            got = loaded.model.diffusion_model.get_submodule(name).weight.double()
            # three roundings to float32: the product's sum of four, the scaling, the sum
            assert (got - wanted).abs().max() <= 8 * torch.finfo(torch.float32).eps * wanted.abs().max()
    finally:
        loaded.unpatch_model()


def test_a_base_and_its_memory_come_from_one_file(load_file, folders, text, stream):
    """The loader leaves the encoder, Evolving Memory takes it from the same file and sets the positions."""
    import folder_paths
    from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config
    from rivulet.nodes.memory import RivuletMemory, memory_of

    torch.manual_seed(3)
    with torch.inference_mode(False):
        base = BY_NAME["echo_infinity"].model(small=True).state_dict()
        encoder = MemoryEncoder(EncoderConfig(SMALL.dim, SMALL.num_heads, 3, 2, 3, normalize_keys=True))
    inside = {f"query_memory_encoder.{key}": value.detach() for key, value in encoder.state_dict().items()}
    said = {"memory": json.dumps({"frames": 3, "grid_height": 2, "grid_width": 3})}
    save_file(base | inside, folders / "diffusion_models" / "echo.safetensors", said)
    folder_paths.filename_list_cache.clear()
    loaded, report = load_file("echo.safetensors")
    assert f"Memory encoder inside ({len(inside)} tensors)" in report and "Recipe Echo-Infinity" in report
    (model,) = RivuletMemory.execute(loaded, "learned", "diffusion_models/echo.safetensors").args
    config = replace(stream_config(model, 48, 32, FROM_MODEL, 0, 0.0), sigmas=(1.0,))
    assert config.preset.name == "echo_std"
    made = []
    for each in (model, loaded):
        policy = memory_of(each).policy_for(config, each.load_device)
        latents, _ = stream(each, text, [], config, blocks=6, memory=policy)
        made.append(latents)
    # frames first leave a window of 9 beside a sink of 3 when the fifth block is made
    assert torch.equal(made[0][:, :, :12], made[1][:, :, :12]) and not torch.equal(*made)


def test_a_base_gives_the_copy_that_its_release_runs_whatever_it_is_called(load_file, folders):
    family = BY_NAME["echo_infinity"]
    tensors = family.tensors(family.model(small=True), small=True)
    stored = nested("generator", SHARDED, "generator_ema")(tensors)
    torch.save(stored, folders / "diffusion_models" / "mine.pt")
    for inputs, taken in (({}, "generator"), ({"weights": "generator_ema"}, "generator_ema")):
        model, report = load_file("mine.pt", **inputs)
        assert f"from {taken} (left: " in report and "Recipe Echo-Infinity" in report
        own = model.model.diffusion_model.head.head.weight
        assert bool(own.any()) == (taken == "generator"), "the other copy is zero"


def test_a_lora_with_a_memory_is_left_to_the_node_of_the_memory(load_file, written, folders):
    model = written("longlive")
    stored = {
        "generator_lora": lora_of(model, 2),
        "query_memory_encoder": {"gate_linear.bias": torch.ones(1)},
    }
    torch.save(stored, folders / "loras" / "echo.pt")
    with pytest.raises(
        ValueError, match=r"echo.pt holds a memory beside its LoRA; choose it in Evolving Memory"
    ):
        load_file(BY_NAME["longlive"].file, lora_file="echo.pt")


def test_the_file_is_found_in_both_folders_and_its_time_counts(load_file, written, folders):
    from rivulet.nodes.load_streaming_model import NOTHING, RivuletLoadModel, model_files

    assert RivuletLoadModel.define_schema().inputs[0].options == [NOTHING]
    written("krea_realtime", "one.safetensors")
    shutil.copy(folders / "diffusion_models" / "one.safetensors", folders / "checkpoints" / "two.safetensors")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    assert model_files() == ["one.safetensors", "checkpoints: two.safetensors"]
    assert "two.safetensors: Wan 2.1" in load_file("checkpoints: two.safetensors")[1]
    before = RivuletLoadModel.fingerprint_inputs(model_file="one.safetensors")
    (folders / "diffusion_models" / "one.safetensors").touch()
    assert RivuletLoadModel.fingerprint_inputs(model_file="one.safetensors") != before
    assert RivuletLoadModel.fingerprint_inputs(model_file="gone.pt") == ("gone.pt", "none")


def test_missing_vae_and_text_encoder_are_told_with_the_next_step(load_file, written, folders):
    written("krea_realtime", "one.safetensors")
    _, report = load_file("one.safetensors")
    assert "No file in models/vae is called like Wan 2.1's VAE: put wan_2.1_vae.safetensors there" in report
    assert "No file in models/text_encoders is called like the text encoder umT5" in report
    (folders / "vae" / "Wan2_1_VAE_bf16.safetensors").touch()
    (folders / "text_encoders" / "umt5-xxl-enc-fp8.safetensors").touch()
    import folder_paths

    folder_paths.filename_list_cache.clear()
    assert "No file" not in load_file("one.safetensors")[1]


def test_what_the_user_chooses_wins_and_is_reported(load_file, written, caplog):
    from rivulet.nodes.host.recipe import FROM_MODEL, overrides, stream_config

    written("self_forcing", "model.pt")
    _, report = load_file("model.pt")
    assert "Why: A guess" in report and "choose its recipe" in report
    model, report = load_file("model.pt", recipe="longlive")
    assert "Recipe LongLive" in report and "Why: Your choice." in report and "adds a LoRA: lora.pt" in report
    assert stream_config(model, 32, 32, FROM_MODEL, 0, 0.0).preset.name == "longlive_infinity"
    assert overrides(model, FROM_MODEL, 0, 0.0) == []
    with caplog.at_level("INFO"):
        config = stream_config(model, 32, 32, "echo", 1, 2.0, torch.tensor([1.0, 0.5, 0.0]))
    assert (config.preset.name, config.block_frames, config.cfg, config.sigmas) == (
        "echo",
        1,
        2.0,
        (1.0, 0.5),
    )
    for words in (
        "preset is echo, not the longlive_infinity of the recipe of longlive",
        "num_frame_per_block is 1, not the 3",
        "cfg is 2.0, not the 1.0",
        "sigmas is 1, 0.5, not the 1, 0.9375, 0.8333, 0.625",
    ):
        assert words in caplog.text


def test_the_plan_tells_what_the_widgets_change_of_a_recipe(load_file, written, monkeypatch):
    from rivulet.model_patches.plan.probe import Device
    from rivulet.nodes import plan

    card = Device("a card", matmul_flops=1e14, bytes_per_second=1e12, free_bytes=10**12)
    monkeypatch.setattr(plan, "free_on", lambda *_: card)
    written("longlive")
    model, _ = load_file(BY_NAME["longlive"].file)
    for preset, said in (("as the model was trained", False), ("echo", True)):
        text = plan.RivuletPlan.execute(model, 48, 48, 2.0, 16.0, preset, 0, 0.0, True).args[1]
        assert ("preset is echo, not the longlive_infinity of the recipe of longlive." in text) is said
        assert "New prompts: recache, as the recipe of longlive says." in text


REFUSED = [
    ("no file yet", {}, r"there is no model yet; put a checkpoint into models/diffusion_models"),
    (
        "wan.Q4_K_M.GGUF",
        {},
        r"a GGUF file, which another pack reads: load it with Unet Loader \(GGUF\) of ComfyUI-GGUF",
    ),
    ("absent.pt", {}, r"there is no absent.pt in models/diffusion_models; press R"),
    ("../secret.pt", {}, r"there is no ../secret.pt in models/diffusion_models"),
    (
        "one.safetensors",
        {"recipe": "videomla"},
        r"recipe videomla is for another self-attention than one.safe",
    ),
    ("one.safetensors", {"lora_file": "absent.safetensors"}, r"no absent.safetensors in models/loras"),
    (
        "one.safetensors",
        {"weights": "generator"},
        r"has no weights called 'generator'; it has one copy",
    ),
    ("page.safetensors", {}, r"is a web page, not a model"),
    ("lora.safetensors", {}, r"is a LoRA.* give this file as its LoRA"),
    (
        "blocks.safetensors",
        {},
        r"of blocks.safetensors cannot be read \(.*block of 12 latent frames does not fit the window of "
        r"preset pocket, 9 latent frames beside 3",
    ),
    ("parts.safetensors", {}, r"of parts.safetensors cannot be read \(.*at least 1 latent frame, got 2.5;"),
    (
        "said.safetensors",
        {},
        r"the metadata entry `recipe` of said.safetensors cannot be read.*choose a recipe",
    ),
    ("fades.safetensors", {}, r"of fades.safetensors cannot be read .*no switch 'fade'"),
]


@pytest.mark.parametrize(("name", "inputs", "words"), REFUSED, ids=[each[2][:30] for each in REFUSED])
def test_what_cannot_be_is_refused_in_a_sentence(load_file, written, folders, name, inputs, words):
    model = written("krea_realtime", "one.safetensors")
    place = folders / "diffusion_models"
    (place / "page.safetensors").write_text("<!doctype html><html>")
    save_file(lora_of(model, 2), place / "lora.safetensors")
    save_file(model.state_dict(), place / "said.safetensors", {"recipe": '{"preset": "none"}'})
    fades = {
        "preset": "pocket",
        "block_frames": 3,
        "cfg": 1,
        "timesteps": [1000],
        "shift": 5,
        "switch": "fade",
    }
    others = {"fades": fades, "blocks": fades | {"block_frames": 12}, "parts": fades | {"block_frames": 2.5}}
    for name_, recipe in others.items():
        said = recipe if name_ == "fades" else recipe | {"switch": ""}
        save_file(model.state_dict(), place / f"{name_}.safetensors", {"recipe": json.dumps(said)})
    with pytest.raises(ValueError, match=words):
        load_file(name, **inputs)


def test_a_file_that_cannot_be_loaded_is_refused_before_the_graph_is_queued(written, folders):
    from rivulet.nodes.load_streaming_model import NOTHING, RivuletLoadModel

    written("krea_realtime", "one.safetensors")
    for name in ("absent.pt", "a.gguf", "../one.safetensors", NOTHING):
        assert "Load Streaming Model: " in RivuletLoadModel.validate_inputs(name)
    assert RivuletLoadModel.validate_inputs("one.safetensors") is True
    assert RivuletLoadModel.validate_inputs(None) is True

"""Published checkpoints in ComfyUI: its own loader, with recipe, LoRA, casts and VideoMLA's layers."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.recipes import recipe_named
from rivulet.model_patches.state import StreamConfig
from rivulet.pocket.models import MLA_FILE, WEIGHTS
from rivulet.tests.engine.checkpoints import BY_NAME, FAMILIES, SMALL, lora_of
from safetensors.torch import save_file

FAST = {"lora_file": "none", "lora_strength": 1.0, "weight_dtype": "default", "weights": "as released"}
REST = {**FAST, "recipe": "as recognised", "rope_bands": "as the file says", "fused_order": "per head"}
PICTURE = Geometry(32, 48)


@pytest.fixture
def folders(comfyui, tmp_path, monkeypatch):
    """Returns the models folder of this test."""
    import folder_paths

    for name in ("diffusion_models", "checkpoints", "loras", "vae", "text_encoders"):
        (tmp_path / name).mkdir()
        known = ([str(tmp_path / name)], folder_paths.supported_pt_extensions)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, known)
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def load_file(folders):
    """Returns a function that runs the node: (MODEL, report)."""
    from rivulet.nodes.load import RivuletLoadModel

    def run(name, **inputs):
        return RivuletLoadModel.execute(name, **{**REST, **inputs}).args

    return run


@pytest.fixture
def written(folders):
    """Returns a function that writes a family's small file: the model it was written from."""

    def write(name, file=None):
        torch.manual_seed(3)
        family = BY_NAME[name]
        with torch.inference_mode(False):
            model = family.model(small=True)
        family.write(folders / "diffusion_models", model, file)
        return model

    return write


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(5)
    return [[torch.randn(1, 6, SMALL.text_dim, generator=generator), {}]]


def streamed(model, text, config, blocks=3, cache=None):
    from rivulet.nodes.cache import CacheChoice
    from rivulet.nodes.host import HostStream

    kept = (cache or CacheChoice("dense")).format_for(config, model.get_model_object("diffusion_model"))
    made = HostStream(model, text, [], config, cache=kept)
    state, parts = made.begin(), []
    for _ in range(blocks):
        latents, state = made.step(state)
        parts.append(latents)
    return torch.cat(parts, 2), state


def own_stream(model, text, config, host, blocks=3):
    """The engine's own stream of the model it was written from, in the VAE's units."""
    from rivulet.model_patches import stream as engine

    state, parts = engine.init(model, text[0][0], config), []
    for _ in range(blocks):
        latents, state = engine.step(model, state)
        parts.append(latents)
    return host.model.process_latent_out(torch.cat(parts, 2))


def close(a, b, share=1e-4):
    return bool((a - b).abs().max() <= share * b.abs().max())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.recipe)
def test_every_family_streams_as_the_weights_it_was_written_from(family, load_file, written, text, caplog):
    from rivulet.nodes.recipe import FROM_MODEL, configured

    model = written(family.recipe)
    loaded, report = load_file(family.file)
    assert not [line for line in caplog.messages if "missing" in line or "unexpected" in line]
    record = recipe_named(family.recipe)
    config = configured(loaded, 32, 48, FROM_MODEL, 0, 0.0)
    assert (config.preset.name, config.block_frames, config.cfg) == (record.preset, record.block_frames, 1.0)
    assert config.sigmas == record.sigmas
    assert record.title in report and "every one in its place" in report
    assert ("connect Evolving Memory" in report) is (record.memory != "off")
    config = replace(config, sigmas=config.sigmas[:2])
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


@pytest.fixture
def mla(load_file, written):
    """Returns (the model of a VideoMLA file in the host, the engine's own, the report)."""
    model = written("videomla")
    loaded, report = load_file(BY_NAME["videomla"].file)
    return loaded, model, report


MLA_CONFIG = StreamConfig(PICTURE, "videomla_7", 3, (1.0, 0.8), seed=4)


def test_videomla_keeps_its_latents_in_the_host(mla, text):
    from rivulet.nodes.cache import CacheChoice

    loaded, model, report = mla
    assert "bands truncated: assumed" in report and "W_kv_upsampled -> k_up + v_up" in report
    dense, state = streamed(loaded, text, MLA_CONFIG, 4)
    latent, small = streamed(loaded, text, MLA_CONFIG, 4, CacheChoice("mla"))
    tokens = 7 * 6  # capacity 7; 2 x 3 tokens a frame
    assert small.cache.bytes == tokens * SMALL.num_layers * (20 + 32) * 4
    assert state.cache.bytes == tokens * SMALL.num_layers * 2 * SMALL.dim * 4
    assert close(latent, dense) and close(dense, own_stream(model, text, MLA_CONFIG, loaded, 4))
    eight, smaller = streamed(loaded, text, MLA_CONFIG, 4, CacheChoice("mla-int8"))
    assert smaller.cache.bytes < 0.4 * small.cache.bytes
    assert 0 < (eight - dense).norm() < 0.05 * dense.norm()


def test_videomla_runs_by_the_hosts_own_forward(mla, text):
    """What ordinary samplers call: whole clips, every frame at one timestep."""
    from rivulet.model_patches.attention.forward import bidirectional

    loaded, model, _ = mla
    x = torch.randn(1, 16, 5, 8, 6)
    theirs = loaded.model.diffusion_model(x, torch.tensor([500.0]), text[0][0], transformer_options={})
    ours = bidirectional(model, x, torch.full((1, 5), 500.0), text[0][0])
    assert close(theirs, ours)


@pytest.mark.parametrize("how", ["lora", "fp8"])
def test_videomla_is_patched_and_cast_as_every_model(mla, load_file, folders, text, how):
    from rivulet.nodes.cache import CacheChoice

    loaded, model, _ = mla
    plain, _ = streamed(loaded, text, MLA_CONFIG)
    if how == "lora":
        save_file(lora_of(model, 4), folders / "loras" / "l.safetensors")
        changed, _ = load_file(BY_NAME["videomla"].file, lora_file="l.safetensors", lora_strength=0.5)
    else:
        changed, _ = load_file(BY_NAME["videomla"].file, weight_dtype="fp8_e4m3fn")
        linear = changed.model.diffusion_model.blocks[0].self_attn.k_up
        assert linear.weight.dtype == torch.float8_e4m3fn
    dense, _ = streamed(changed, text, MLA_CONFIG)
    latent, _ = streamed(changed, text, MLA_CONFIG, cache=CacheChoice("mla"))
    assert close(latent, dense, 1e-3) and not close(dense, plain)


def test_videomla_computes_the_same_while_its_weights_are_offloaded(mla, load_file, folders):
    """Weights elsewhere, a LoRA added to each as it is used: what the host does where memory is short."""
    model = mla[1]
    save_file(lora_of(model, 4), folders / "loras" / "l.safetensors")
    loaded, _ = load_file(BY_NAME["videomla"].file, lora_file="l.safetensors")
    attention, x = loaded.model.diffusion_model.blocks[1].self_attn, torch.randn(1, 5, SMALL.dim)
    made = []
    for whole in (True, False):
        loaded.load(torch.device("cpu"), lowvram_model_memory=0 if whole else 1, full_load=whole)
        assert bool(attention.k_up.weight_function) is not whole
        made.append([*attention.latent(x), attention.q(x), attention.k(x), attention.v(x)])
        loaded.unpatch_model(torch.device("cpu"))
    assert all(close(*pair, 1e-5) for pair in zip(*made, strict=True))


def test_a_take_of_videomla_goes_on_bit_for_bit(mla, text, tmp_path):
    from rivulet.nodes.cache import CacheChoice
    from rivulet.nodes.host import HostStream
    from rivulet.nodes.kept import Kept, save, taken_up

    loaded = mla[0]
    kept = CacheChoice("mla").format_for(MLA_CONFIG, loaded.get_model_object("diffusion_model"))
    stream = HostStream(loaded, text, [], MLA_CONFIG, cache=kept)
    state = stream.begin()
    for _ in range(3):
        _, state = stream.step(state)
    save(Kept(state, None, 0, 0, None), stream, tmp_path / "take.safetensors")
    on, _ = stream.step(state)
    again = HostStream(loaded, text, [], MLA_CONFIG, cache=kept)
    assert torch.equal(again.step(taken_up(tmp_path / "take.safetensors", again).state)[0], on)


def test_the_trained_pocket_model_streams_from_its_latents_in_the_host(load_file, folders):
    from rivulet.model_patches import stream as engine
    from rivulet.nodes.cache import CacheChoice
    from rivulet.nodes.recipe import FROM_MODEL, configured
    from rivulet.pocket.models import load_pocket

    shutil.copy(WEIGHTS / MLA_FILE, folders / "diffusion_models")
    loaded, report = load_file(MLA_FILE)
    assert "Recipe: written in the file itself." in report and "bands of the file" in report
    pocket = load_pocket(dit_file=MLA_FILE)
    text = pocket.encode("a red circle on a green ground")
    config = replace(configured(loaded, 64, 64, FROM_MODEL, 0, 1.0, seed=2))
    assert (config.preset.name, config.block_frames) == (pocket.recipe.preset, pocket.recipe.block_frames)
    got, _ = streamed(loaded, [[text, {}]], config, 2, CacheChoice("mla"))
    state, parts = engine.init(pocket.dit, text, config), []
    for _ in range(2):
        latents, state = engine.step(pocket.dit, state)
        parts.append(latents)
    assert close(got, loaded.model.process_latent_out(torch.cat(parts, 2)), 1e-3)


def test_the_bands_of_videomla_can_be_chosen(load_file, written):
    written("videomla")
    derived, report = load_file(BY_NAME["videomla"].file, rope_bands="derived")
    usual, _ = load_file(BY_NAME["videomla"].file)
    layouts = [each.model.diffusion_model.rope_layout for each in (derived, usual)]
    assert layouts[0] != layouts[1] and "bands derived" in report


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


@pytest.mark.parametrize("change", ["another width", "another layer", "videomla"])
def test_a_lora_of_another_model_is_refused(load_file, written, folders, change):
    model = written("longlive")
    tensors = lora_of(model, 2)
    if change == "another width":
        tensors = {k: v[:, :8].contiguous() if "ffn.0.lora_A" in k else v for k, v in tensors.items()}
    elif change == "another layer":
        tensors = {k.replace("blocks.1.", "blocks.7."): v for k, v in tensors.items()}
    save_file(tensors, folders / "loras" / "l.safetensors")
    family = BY_NAME["longlive"]
    if change == "videomla":
        family = BY_NAME["videomla"]
        written("videomla")
    with pytest.raises(
        ValueError, match=r"layers of l.safetensors .* are not in this model or have another size"
    ):
        load_file(family.file, lora_file="l.safetensors")


def test_a_base_and_its_memory_come_from_one_file(load_file, folders, text):
    """The loader leaves the encoder, Evolving Memory takes it from the same file and sets the positions."""
    import folder_paths
    from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
    from rivulet.nodes.host import HostStream
    from rivulet.nodes.memory import RivuletMemory
    from rivulet.nodes.memory import of as memory_of
    from rivulet.nodes.recipe import FROM_MODEL, configured

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
    (model,) = RivuletMemory.execute(
        loaded, "learned", "diffusion_models/echo.safetensors", False, 0.999
    ).args
    config = replace(configured(model, 48, 32, FROM_MODEL, 0, 0.0), sigmas=(1.0,))
    assert config.preset.name == "echo_std"
    made = []
    for each in (model, loaded):
        policy = memory_of(each).policy_for(config, each.load_device)
        stream = HostStream(each, text, [], config, memory=policy)
        state, parts = stream.begin(), []
        for _ in range(6):
            latents, state = stream.step(state)
            parts.append(latents)
        made.append(torch.cat(parts, 2))
    # frames first leave a window of 9 beside a sink of 3 when the fifth block is made
    assert torch.equal(made[0][:, :, :12], made[1][:, :, :12]) and not torch.equal(*made)


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
    from rivulet.nodes.load import NOTHING, RivuletLoadModel, model_files

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
    from rivulet.nodes.recipe import FROM_MODEL, configured, overridden

    written("self_forcing", "model.pt")
    _, report = load_file("model.pt")
    assert "Why: A guess" in report and "choose its recipe" in report
    model, report = load_file("model.pt", recipe="longlive")
    assert "Recipe LongLive" in report and "Why: Your choice." in report and "adds a LoRA: lora.pt" in report
    assert configured(model, 32, 32, FROM_MODEL, 0, 0.0).preset.name == "longlive_infinity"
    assert overridden(model, FROM_MODEL, 0, 0.0) == []
    with caplog.at_level("INFO"):
        config = configured(model, 32, 32, "echo", 1, 2.0, torch.tensor([1.0, 0.5, 0.0]))
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
    from rivulet.model_patches.probe import Device
    from rivulet.nodes import plan

    card = Device("a card", matmul_flops=1e14, bytes_per_second=1e12, free_bytes=10**12)
    monkeypatch.setattr(plan, "free_on", lambda *_: card)
    written("longlive")
    model, _ = load_file(BY_NAME["longlive"].file)
    for preset, said in (("as the model was trained", False), ("echo", True)):
        text = plan.RivuletPlan.execute(model, 48, 48, 2.0, 16.0, preset, 0, 0.0, True).args[1]
        assert ("preset is echo, not the longlive_infinity of the recipe of longlive." in text) is said


REFUSED = [
    ("no file yet", {}, r"there is no model yet; put a checkpoint into models/diffusion_models"),
    ("absent.pt", {}, r"there is no absent.pt in models/diffusion_models; press R"),
    ("../secret.pt", {}, r"there is no ../secret.pt in models/diffusion_models"),
    (
        "one.safetensors",
        {"recipe": "videomla"},
        r"recipe videomla is for another self-attention than one.safe",
    ),
    ("one.safetensors", {"lora_file": "absent.safetensors"}, r"no absent.safetensors in models/loras"),
    ("one.safetensors", {"weights": "generator"}, r"has no 'generator'; leave `nest` out"),
    ("page.safetensors", {}, r"is a web page, not a model"),
    ("lora.safetensors", {}, r"is a LoRA.* give this file as its LoRA"),
    (
        "said.safetensors",
        {},
        r"the metadata entry `recipe` of said.safetensors cannot be read.*choose a recipe",
    ),
]


@pytest.mark.parametrize(("name", "inputs", "words"), REFUSED, ids=[each[2][:30] for each in REFUSED])
def test_what_cannot_be_is_refused_in_a_sentence(load_file, written, folders, name, inputs, words):
    model = written("krea_realtime", "one.safetensors")
    place = folders / "diffusion_models"
    (place / "page.safetensors").write_text("<!doctype html><html>")
    save_file(lora_of(model, 2), place / "lora.safetensors")
    save_file(model.state_dict(), place / "said.safetensors", {"recipe": '{"preset": "none"}'})
    with pytest.raises(ValueError, match=words):
        load_file(name, **inputs)

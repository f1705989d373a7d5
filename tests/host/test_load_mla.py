"""VideoMLA in ComfyUI: its latents are kept; casts, LoRA, offload and resuming work as for every model."""

import shutil
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.pocket.models import MLA_FILE, WEIGHTS
from rivulet.tests.engine.checkpoints.published_files import BY_NAME, SMALL, lora_of
from rivulet.tests.host.loading import close, make_blocks, own_stream, streamed
from rivulet.tests.host.streams import HostRun
from safetensors.torch import save_file


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(5)
    return [[torch.randn(1, 6, SMALL.text_dim, generator=generator), {}]]


@pytest.fixture
def mla(load_file, written):
    """Returns (the model of a VideoMLA file in the host, the engine's own, the report)."""
    model = written("videomla")
    loaded, report = load_file(BY_NAME["videomla"].file)
    return loaded, model, report


MLA_CONFIG = StreamConfig(Geometry(32, 48), "videomla_7", 3, (1.0, 0.8), seed=4)


def test_videomla_keeps_its_latents_in_the_host(mla, text):
    from rivulet.nodes.small_cache import CacheChoice

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


def test_videomla_has_a_memory_over_the_latents_it_keeps(mla, text):
    from rivulet.nodes.memory import RivuletMemory
    from rivulet.nodes.small_cache import CacheChoice

    model = RivuletMemory.execute(mla[0], "ema", "none", ema_keep=0.9).args[0]
    dense, whole = streamed(model, text, MLA_CONFIG, 5)
    without, plain = streamed(mla[0], text, MLA_CONFIG, 5)
    latent, small = streamed(model, text, MLA_CONFIG, 5, CacheChoice("mla"))
    folded, kept, untouched = (state.cache.keys_values(1, (0,))[1] for state in (whole, small, plain))
    assert latent.isfinite().all() and close(latent, dense) and not torch.equal(dense, without)
    assert close(kept, folded) and not close(folded, untouched, 0.1)
    eight, _ = streamed(model, text, MLA_CONFIG, 5, CacheChoice("mla-int8", keep_sink=True))
    assert 0 < (eight - dense).norm() < 0.05 * dense.norm()
    with pytest.raises(ValueError, match="cache format mla-int8 keeps 1 of its 1 frames rounded"):
        streamed(model, text, MLA_CONFIG, 5, CacheChoice("mla-int8"))


def test_videomla_runs_by_the_hosts_own_forward(mla, text):
    """What ordinary samplers call: whole clips, every frame at one timestep."""
    from rivulet.model_patches.attention.forward import forward_bidirectional

    loaded, model, _ = mla
    x = torch.randn(1, 16, 5, 8, 6)
    theirs = loaded.model.diffusion_model(x, torch.tensor([500.0]), text[0][0], transformer_options={})
    ours = forward_bidirectional(model, x, torch.full((1, 5), 500.0), text[0][0])
    assert close(theirs, ours)


@pytest.mark.parametrize("how", ["lora", "fp8"])
def test_videomla_is_patched_and_cast_as_every_model(mla, load_file, folders, text, how):
    from rivulet.nodes.small_cache import CacheChoice

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
    from rivulet.nodes.small_cache import CacheChoice

    loaded, path = mla[0], tmp_path / "take.safetensors"
    form = CacheChoice("mla").format_for(MLA_CONFIG, loaded.get_model_object("diffusion_model"))
    run, again = (HostRun(loaded, text, [], MLA_CONFIG, cache=form) for _ in range(2))
    _, state = make_blocks(run, run.begin(), 3)
    save(run.caller, state, path)
    on, _ = run.step(state)
    assert torch.equal(again.step(load(path, again.caller, MLA_CONFIG, cache=form))[0], on)


def test_the_trained_pocket_model_streams_from_its_latents_in_the_host(load_file, folders):
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config
    from rivulet.nodes.small_cache import CacheChoice
    from rivulet.pocket.models import load_pocket

    shutil.copy(WEIGHTS / MLA_FILE, folders / "diffusion_models")
    loaded, report = load_file(MLA_FILE)
    assert "Recipe: written in the file itself." in report and "bands of the file" in report
    pocket = load_pocket(dit_file=MLA_FILE)
    text = pocket.encode("a red circle on a green ground")
    config = replace(stream_config(loaded, 64, 64, FROM_MODEL, 0, 1.0, seed=2))
    assert (config.preset.name, config.block_frames) == (pocket.recipe.preset, pocket.recipe.block_frames)
    got, _ = streamed(loaded, [[text, {}]], config, 2, CacheChoice("mla"))
    assert close(got, own_stream(pocket.dit, [[text, {}]], config, loaded, 2), 1e-3)


def test_the_bands_of_videomla_can_be_chosen(load_file, written):
    written("videomla")
    derived, report = load_file(BY_NAME["videomla"].file, rope_bands="derived")
    usual, _ = load_file(BY_NAME["videomla"].file)
    layouts = [each.model.diffusion_model.rope_layout for each in (derived, usual)]
    assert layouts[0] != layouts[1] and "bands derived" in report

"""What the host loads between the blocks of a stream, and what it has in its books."""

import gc
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.host.carried import carry, settle
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(64, 48), "pocket", 3, (1.0, 0.5), dtype=torch.bfloat16)
GIB = 2**30


@pytest.fixture
def book(comfyui, monkeypatch):
    """Returns the host's list of loaded models, empty; what was in it is back afterwards."""
    import comfy.model_management as management

    monkeypatch.setattr(management, "current_loaded_models", [])
    return management.current_loaded_models


@pytest.fixture
def emptied(card, load, monkeypatch, book):
    """Returns a function that makes blocks on the card: how often its cache was emptied in each.

    A load that the host is not spared empties it: half of what is free is torch's own.
    """
    import comfy.model_management as management

    real_load, real_free = management.load_models_gpu, management.free_memory
    model, calls = carry(card, load("plain"), monkeypatch), []
    monkeypatch.setattr(management, "load_models_gpu", real_load)
    monkeypatch.setattr(management, "free_memory", real_free)
    monkeypatch.setattr(management, "soft_empty_cache", lambda *_: calls.append(1))
    settle(model, card.device, monkeypatch)

    def run(blocks, free, prompt, before=lambda block, model: None):
        def free_memory(*_, torch_free_too=False):
            return (free, free // 2) if torch_free_too else free

        monkeypatch.setattr(management, "get_free_memory", free_memory)
        run, counts = HostRun(model, prompt(0), prompt(1), CONFIG), []
        with card:
            state = run.begin()
            for block in range(blocks):
                before(block, run.caller.model)
                calls.clear()
                _, state = run.step(state)
                counts.append(len(calls))
        return counts

    return run


def test_a_model_that_is_there_is_not_loaded_again(emptied, prompt):
    assert emptied(4, 16 * GIB, prompt) == [1, 0, 0, 0]


def test_where_there_is_no_room_the_host_makes_it(emptied, prompt):
    """As much as the host keeps free for any model's run."""
    assert emptied(2, GIB, prompt)[1] > 0


@pytest.mark.parametrize("change", ["moved away", "other patches", "partly on the card"])
def test_a_model_that_has_changed_is_the_hosts_to_load(emptied, prompt, monkeypatch, book, change):
    def before(block, model):
        if block == 2 and change == "moved away":
            book.clear()
        elif block == 2 and change == "other patches":
            monkeypatch.setattr(model.model, "current_weight_patches_uuid", "of another clone")
        elif block == 2:
            monkeypatch.setattr(model.model, "model_loaded_weight_memory", model.model_size() - 1)

    if change == "other patches":
        monkeypatch.setattr("comfy.model_patcher.ModelPatcher.unpatch_model", lambda *_, **__: None)
    assert emptied(3, 16 * GIB, prompt, before) == [1, 0, 1]


def once_loaded(load_vae, name):
    """Returns (the VAE of a kind, a function that has it work on what follows a past)."""
    from rivulet.nodes.host.decoder import decoder_for
    from rivulet.nodes.host.encoder import HostEncoder

    if name == "encoder":
        vae = load_vae("vae")
        encoder = HostEncoder(vae)
        return vae, lambda past: encoder(torch.zeros(12, 32, 32, 3), past)[1]
    vae = load_vae(name)
    decoder = decoder_for(vae, lambda latents: latents)
    return vae, lambda past: decoder.decode(torch.zeros(1, 16, 3, 4, 4), past)[1]


@pytest.mark.parametrize("name", ["vae", "lighttaew2_1", "encoder"])
def test_a_vae_that_is_there_is_not_loaded_again(load_vae, book, monkeypatch, name):
    import comfy.model_management as management

    vae, work = once_loaded(load_vae, name)
    loads, real, past = [], management.load_models_gpu, None
    monkeypatch.setattr(management, "load_models_gpu", lambda *a, **more: (loads.append(a), real(*a, **more)))
    management.unload_all_models()
    counts = []
    for block in range(5):
        if block == 3:
            management.unload_all_models()
        loads.clear()
        past = work(past)
        counts.append(len(loads))
        (entry,) = (each for each in book if each.model is vae.patcher)
        assert entry.currently_used
        entry.currently_used = False
    assert counts == [1, 0, 0, 1, 0]


def test_where_there_is_no_room_for_the_vaes_work_the_host_makes_it(load_vae, book, monkeypatch):
    import comfy.model_management as management

    _, work = once_loaded(load_vae, "vae")
    asked = []
    past = work(None)
    monkeypatch.setattr(management, "load_models_gpu", lambda *_, memory_required: asked.append(1))
    past = work(past)
    assert asked == []
    monkeypatch.setattr(management, "get_free_memory", lambda *_, **__: 1)
    work(past)
    assert asked == [1]


def test_the_entry_of_a_model_that_is_gone_is_none_of_ours(load_vae, book):
    import comfy.model_management as management
    from rivulet.nodes.host.loaded import in_place

    vae = load_vae("vae")
    management.load_models_gpu([vae.patcher])
    layers = vae.first_stage_model  # held by another clone, say
    del vae
    gc.collect()
    assert [each.model for each in book] == [None] and layers is book[0].real_model()
    assert not in_place([None], 0)


def test_the_memorys_encoder_is_in_the_hosts_books(load, prompt, book):
    import comfy.model_management as management
    from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
    from rivulet.model_patches.memory.learned import LearnedMemory
    from rivulet.nodes.host.memory import managed

    config = replace(CONFIG, preset="pocket_memory", dtype=torch.float32)
    torch.manual_seed(3)
    encoder = MemoryEncoder(EncoderConfig(128, 2, 3, 3, 4))
    policy = managed(LearnedMemory(encoder, "x"), load("plain").load_device)
    plain = HostRun(load("plain"), prompt(0), prompt(1), config, memory=LearnedMemory(encoder, "x"))
    expected, _ = make_blocks(plain, plain.begin(), 6)
    run = HostRun(load("plain"), prompt(0), prompt(1), config, memory=policy)
    latents, state = make_blocks(run, run.begin(), 5)
    size = sum(each.numel() * each.element_size() for each in encoder.parameters())
    (entry,) = (each for each in book if each.model is policy.encoder.patcher)
    assert entry.model_memory() == size
    management.unload_all_models()
    assert not book
    last = make_blocks(run, state, 1)[0]
    assert torch.equal(torch.cat([latents, last], 2), expected)
    assert policy.encoder.patcher in [each.model for each in book]
    del run, policy, state, entry
    gc.collect()
    assert [each for each in book if each.model is not None and each.model.model is encoder] == []


def test_a_model_moved_away_in_mid_run_is_brought_back(load, load_vae, prompt, book):
    """As by "Unload models" of the host's menu, or another node's wish for room, between any two blocks."""
    import comfy.model_management as management
    from rivulet.nodes.host.decoder import decoder_for

    config = replace(CONFIG, dtype=torch.float32)

    def made(disturbed):
        run, vae, past, pictures = (
            HostRun(load("plain"), prompt(0), prompt(1), config),
            load_vae("vae"),
            None,
            [],
        )
        decoder, state = decoder_for(vae, run.caller.to_vae), run.begin()
        for _ in range(3):
            latents, state = run.step(state)
            if disturbed:
                management.unload_all_models()
                assert not book
            frames, past = decoder.decode(run.caller.from_vae(latents), past)
            assert vae.patcher in [each.model for each in book]
            pictures.append(frames)
            if disturbed:
                management.unload_all_models()
        return torch.cat(pictures)

    assert torch.equal(made(True), made(False))

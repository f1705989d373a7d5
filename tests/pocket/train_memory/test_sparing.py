"""Changes do less to what is ordinary and the same along stories, in closed form and on a model."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.memory.load import load_memory
from rivulet.model_patches.stream.step import step
from rivulet.pocket.hiding import ENCODED, HidingClips
from rivulet.pocket.models import MEMORY_FILE, MLA_FILE, WEIGHTS, save_dit, save_vae
from rivulet.pocket.train_memory import main, own_clips, sparing
from rivulet.pocket.train_memory.lora import Adapters
from rivulet.pocket.train_memory.memory_rollout import MemoryRollout
from rivulet.pocket.train_memory.own_clips import load_or_stream
from rivulet.pocket.train_memory.sparing import Moments, spare, spare_ordinary
from rivulet.pocket.train_memory.teacher import load_teacher
from rivulet.tests.bench.small_pocket import small_pocket, write_memory
from rivulet.tests.pocket.train_memory.tiny_memory import tiny

PRESSURE = 0.3


def moments_of(adapters, seed, rank):
    """Returns second moments of random inputs, of less than full rank."""
    generator, found = torch.Generator().manual_seed(seed), Moments.empty(adapters)
    for index, kept in enumerate(found.sums):
        inputs = torch.randn(rank, len(kept), generator=generator)
        found.sums[index], found.counts[index] = inputs.T @ inputs, rank
    return found


def changed(dit):
    """Returns adapters of a model that do change it."""
    adapters = Adapters(dit, 3, 3.0)
    for layer in adapters.layers:
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    adapters.fold()
    return adapters


def test_every_change_is_the_one_that_costs_least():
    """Where E |D' x - D x|^2 + pressure E |D' x|^2 is least, its derivative in A is nought."""
    adapters = changed(tiny()[0])
    before = [layer.lora_A.detach().double().clone() for layer in adapters.layers]
    stories, ordinary = moments_of(adapters, 1, 16), moments_of(adapters, 2, 16)
    spare(adapters, stories, ordinary, PRESSURE)
    for index, (layer, old) in enumerate(zip(adapters.layers, before, strict=True)):
        kept, other = stories.mean(index), ordinary.mean(index)
        new = layer.lora_A.detach().double()
        slope = (new - old) @ kept + PRESSURE * new @ other
        # float32 of A and the steadying beside S are all that is left
        least = (sparing.STEADY + torch.finfo(torch.float32).eps) * (kept + other).norm() * old.norm()
        assert slope.norm() <= 2 * least and (new - old).norm() > 0.1 * old.norm()
        assert torch.equal(layer.folded, layer.layer.weight + layer.scale * (layer.lora_B @ layer.lora_A))


def test_what_ordinary_streams_never_give_a_layer_keeps_its_change():
    adapters = changed(tiny()[0])
    stories, ordinary = moments_of(adapters, 1, 200), moments_of(adapters, 2, 200)
    for index in range(len(stories.sums)):
        half = len(stories.sums[index]) // 2
        stories.sums[index][half:] = stories.sums[index][:, half:] = 0
        ordinary.sums[index][:half] = ordinary.sums[index][:, :half] = 0
    before = [layer.lora_A.detach().clone() for layer in adapters.layers]
    spare(adapters, stories, ordinary, PRESSURE)
    for layer, old in zip(adapters.layers, before, strict=True):
        half = old.shape[1] // 2
        torch.testing.assert_close(layer.lora_A[:, :half].detach(), old[:, :half], atol=1e-3, rtol=1e-3)
        assert layer.lora_A[:, half:].abs().max() < 1e-3, "what stories never give it goes"


def test_a_layer_that_was_given_nothing_is_told():
    adapters = changed(tiny()[0])
    with pytest.raises(ValueError, match="was given nothing"):
        spare(adapters, Moments.empty(adapters), moments_of(adapters, 2, 8), PRESSURE)


@pytest.fixture
def files(tmp_path):
    """Returns a small pocket, its folder with a memory, and stories of noise."""
    pocket = small_pocket()
    pocket = replace(pocket, recipe=replace(pocket.recipe, cfg=2.0))
    write_memory(tmp_path / MEMORY_FILE)
    save_dit(pocket.dit, pocket.recipe, tmp_path)
    save_vae(pocket.vae, tmp_path)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(3, 16, 3 * sum(ENCODED), 4, 4, generator=generator).half()
    texts = torch.cat(
        [pocket.encode(f"a {c} circle on a blue ground") for c in ("red", "green", "cyan", "red")]
    )
    look = torch.zeros(3, 3, dtype=torch.int64)
    return pocket, tmp_path, HidingClips(latents, texts.expand(3, *texts.shape), look)


def test_on_a_model_ordinary_streams_come_nearer_to_what_they_were(files, monkeypatch):
    pocket, folder, told = files
    monkeypatch.setattr(sparing, "STREAMS", 2)
    monkeypatch.setattr(sparing, "BLOCKS", 5)
    memory = load_memory(folder / MEMORY_FILE, pocket.dit, torch.float32)
    adapters = Adapters.from_lora(pocket.dit, memory.lora, memory.lora.ranks[0])
    seen = {}

    def watch(adapters, stories, ordinary, pressure):
        seen.update(stories=stories, ordinary=ordinary)
        spare(adapters, stories, ordinary, pressure)

    monkeypatch.setattr(sparing, "spare", watch)

    def effects():
        """Mean square of every layer's change along each."""
        found = {}
        for kind, moments in seen.items():
            parts = []
            for index, layer in enumerate(adapters.layers):
                change = (layer.lora_B @ layer.lora_A).detach().double()
                parts.append(float((change @ moments.mean(index) @ change.T).trace()))
            found[kind] = torch.tensor(parts)
        return found

    state = {key: value.clone() for key, value in adapters.state_dict().items()}
    spare_ordinary(adapters, pocket, memory, told, 1.0)
    after = effects()
    adapters.load_state_dict(state)
    before = effects()
    assert all(count > 0 for moments in seen.values() for count in moments.counts)
    assert bool((after["ordinary"] < before["ordinary"]).all())
    lost = (
        1 - after["ordinary"].sum() / before["ordinary"].sum(),
        1 - after["stories"].sum() / before["stories"].sum(),
    )
    assert lost[0] > lost[1]
    assert not any(layer._forward_pre_hooks for layer in adapters.layers), "nobody watches any longer"


def test_a_teacher_is_the_folder_s_model_with_this_memory_alone(files):
    pocket, folder, _ = files
    memory = load_memory(folder / MEMORY_FILE, pocket.dit, torch.float32)
    teacher = load_teacher(folder, memory.encoder)
    assert isinstance(teacher, MemoryRollout)
    merged = memory.lora.merge(small_pocket().dit).state_dict()
    for key, value in teacher.dit.state_dict().items():
        torch.testing.assert_close(value, merged[key], atol=2e-3, rtol=2e-3)  # the file is in float16
    with torch.no_grad():
        next(memory.encoder.parameters()).add_(1)
    with pytest.raises(ValueError, match="is not the memory of --encoder"):
        load_teacher(folder, memory.encoder)


def test_what_does_not_go_together_is_refused_before_anything_is_drawn(tmp_path, capsys):
    memory, converted = (str(WEIGHTS / name) for name in (MEMORY_FILE, MLA_FILE))
    for more, said in (
        (["--spare", "0.3", "--dit", converted, "--encoder", memory], "a converted one has none"),
        (["--teacher", str(tmp_path), "--dit", converted, "--encoder", memory], "a converted one has none"),
        (["--teacher", str(WEIGHTS), "--encoder", memory], "give --keep-encoder"),
        (["--spare", "11", "--encoder", memory], "--spare 11.0: a weight"),
        (["--spare", "0.3"], "give its file as --encoder"),
        (["--streamed", "8"], "give --sampled 1"),
    ):
        assert main(["--run", str(tmp_path), *more]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "stories.pt").exists()


def test_streamed_clips_are_the_unchanged_models_own_and_first_blocks_have_prompts_alone(tmp_path):
    pocket = small_pocket()
    clips = load_or_stream(tmp_path / "clips.pt", pocket, 2, 2)
    latents, texts = clips.latents_BVCTHW, clips.texts_BVLC
    assert torch.equal(latents[:, 0], latents[:, 1]) and torch.equal(texts[:, 0], texts[:, 1])
    state = pocket.begin(texts[:, 0], pocket.config(own_clips.SEED))
    for block in range(2):
        made, state = step(pocket.caller, state)
        assert torch.equal(made.half(), latents[:, 0, :, 3 * block : 3 * block + 3])
    first = load_or_stream(tmp_path / "first.pt", pocket, 3, 0)
    assert first.latents_BVCTHW.shape == (3, 2, 16, 3, 4, 4) and not first.latents_BVCTHW.any()
    again = load_or_stream(tmp_path / "clips.pt", pocket, 9, 2)
    assert torch.equal(again.latents_BVCTHW, latents), "what is there is taken"

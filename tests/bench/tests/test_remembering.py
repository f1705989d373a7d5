"""Weights, positions and memory of a bench's streams are one choice."""

import pytest
import torch
from rivulet.tests.bench import remembering as module
from rivulet.tests.bench.remembering import remembering
from rivulet.tests.bench.small_pocket import GRID, LAYERS, small_pocket, write_memory


def test_off_and_ema_run_the_pocket_as_it_is():
    pocket = small_pocket()
    assert remembering(pocket, "off")[0] is pocket and remembering(pocket, "off")[1].name == "off"
    given, memory = remembering(pocket, "ema")
    assert given is pocket and (memory.name, memory.sink_frames) == ("ema", 3)


def test_learned_brings_its_lora_and_its_positions(tmp_path):
    pocket = small_pocket()
    before = {name: tensor.clone() for name, tensor in pocket.dit.state_dict().items()}
    given, memory = remembering(
        pocket, "learned", write_memory(tmp_path / "memory.safetensors", trained="never")
    )
    assert given.recipe.trained == "random; with memory.safetensors, never"
    assert given.recipe.preset == given.config().positions.name == "pocket_memory"
    assert memory.encoder.config.tokens == 3 * GRID * GRID and memory.recaches and not memory.turned
    changed = {
        name
        for name, tensor in given.dit.state_dict().items()
        if not torch.equal(tensor, pocket.dit.state_dict()[name])
    }
    assert len(changed) == 10 * LAYERS and "blocks.0.self_attn.q.weight" in changed
    assert all(torch.equal(before[name], tensor) for name, tensor in pocket.dit.state_dict().items())


def test_a_memory_without_its_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    with pytest.raises(SystemExit, match=r"none at .*pocket_memory.safetensors; give one with --memory-file"):
        remembering(small_pocket(), "learned")


def test_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(SystemExit, match=r"bench: load_memory: .*text.safetensors"):
        remembering(small_pocket(), "learned", tmp_path / "text.safetensors")
    alone = write_memory(tmp_path / "alone.safetensors", lora=False)
    with pytest.raises(SystemExit, match="trained together with a LoRA, which is not on the model"):
        remembering(small_pocket(), "learned", alone)
    growing = write_memory(tmp_path / "growing.safetensors", preset="echo_std")
    with pytest.raises(SystemExit, match="preset echo_std has growing ones"):
        remembering(small_pocket(), "learned", growing)

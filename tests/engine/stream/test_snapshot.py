"""A stream on disk."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.stream.step import init, load, save, set_text, step
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..formats import LOSSY

CONTINUE = """
import importlib.util, sys
root, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "rivulet", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["rivulet"])
import torch
from pathlib import Path
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.stream.step import load, step
from safetensors.torch import save_file
torch.set_num_threads(1)
model = open_checkpoint(Path(folder, "model.safetensors"), channels=4).load()
made = {}
for i in range(count):
    state = load(f"{folder}/{i}.safetensors", model)
    for ahead in range(2):
        latents, state = step(model, state)
        made[f"{i}+{ahead}"] = latents.clone()
save_file(made, folder + "/made.safetensors")
"""


@pytest.fixture
def state(model, make_text, config):
    """Returns a guided stream of four blocks with extras."""
    state = init(model, make_text(1), replace(config, cfg=2.0), make_text(2, tokens=3))
    for _ in range(4):
        _, state = step(model, state)
    shared = torch.arange(6.0)
    return replace(
        state,
        extras={
            "decoder.0": shared,
            "decoder.1": shared,
            "part": shared[2:4],
            "frames": torch.tensor(45),
            "slice": torch.arange(9.0)[3:5],
            "turned": torch.arange(6.0).reshape(2, 3).mT,
            "nothing": torch.zeros(0),
        },
    )


def test_saved_after_any_block_it_goes_on_in_another_process_bit_for_bit(
    model, make_text, config, root, tmp_path
):
    config = replace(config, cfg=2.0)
    metadata = {"config": json.dumps({"transformer": {"num_heads": 2}})}
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata=metadata)
    state, made, blocks = init(model, make_text(1), config, make_text(2)), [], 5
    for block in range(blocks + 2):
        if block == 3:
            state = set_text(model, state, make_text(4))
        if block < blocks:
            save(model, state, tmp_path / f"{block}.safetensors")
        latents, state = step(model, state)
        made.append(latents)
    code = [sys.executable, "-c", CONTINUE, str(root), str(tmp_path), str(blocks)]
    subprocess.run(code, check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    continued = load_file(tmp_path / "made.safetensors")
    for block in range(blocks):
        assert torch.equal(continued[f"{block}+0"], made[block]), block
        # the prompt changes between blocks 2 and 3, which the stream saved before that cannot know
        assert torch.equal(continued[f"{block}+1"], made[block + 1]) == (block != 2), block


def test_what_is_saved_is_what_comes_back(model, state, tmp_path):
    save(model, state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", model, state.config)
    assert (back.config, back.block, back.start_frame) == (state.config, state.block, state.start_frame)
    assert back.cache.table == state.cache.table and back.cache.shape == state.cache.shape
    assert torch.equal(back.cache.tensors()["kv"], state.cache.tensors()["kv"])
    assert back.extras.keys() == state.extras.keys()
    assert all(torch.equal(back.extras[name], value) for name, value in state.extras.items())
    assert back.extras["frames"].dtype == torch.int64 and back.extras["frames"].shape == ()
    assert [group.branches for group in back.text.groups] == [1, 1]
    assert torch.equal(step(model, back)[0], step(model, state)[0])


@pytest.mark.parametrize("name", LOSSY)
def test_every_format_goes_on_bit_for_bit(model, make_text, config, tmp_path, name):
    path, made = tmp_path / "stream.safetensors", LOSSY[name]
    state = init(model, make_text(1), replace(config, cfg=2.0), make_text(2, tokens=3), cache=made)
    for _ in range(4):
        save(model, state, path)
        back = load(path, model, cache=made)
        for name, tensor in state.cache.tensors().items():
            assert torch.equal(back.cache.tensors()[name], tensor)
        expected, state = step(model, state)
        latents, back = step(model, back)
        assert torch.equal(latents, expected)
        assert torch.equal(step(model, back)[0], step(model, state)[0])
        # a stream cannot go on from a state after its successor was continued
        state = back


def test_another_basis_is_refused_by_its_fingerprint(model, make_text, config, tmp_path):
    path, made = tmp_path / "stream.safetensors", LOSSY["latent"]
    save(model, init(model, make_text(), config, cache=made), path)
    other = LatentFormat(replace(made.basis, group=4))
    with pytest.raises(ValueError, match=rf"basis {made.basis.fingerprint}, not {other.basis.fingerprint}"):
        load(path, model, cache=other)
    with pytest.raises(ValueError, match="cache format 'latent' and was to be taken up with 'dense'"):
        load(path, model)


def test_only_kept_frames_are_stored(model, state, tmp_path):
    save(model, state, tmp_path / "stream.safetensors")
    with safe_open(tmp_path / "stream.safetensors", "pt") as file:
        shape = file.get_slice("cache.kv").get_shape()
    # 3 layers, keys and values, 2 branches, sink 1 + 2 frames of 6 tokens, 2 heads of 12
    assert shape == [3, 2, 2, 3 * 6, 2, 12]


def test_a_snapshot_is_a_copy(model, state, tmp_path):
    save(model, state, tmp_path / "stream.safetensors")
    expected, later = step(model, state)
    step(model, later)
    assert torch.equal(step(model, load(tmp_path / "stream.safetensors", model))[0], expected)


def test_a_later_save_takes_the_place_of_the_one_before(model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    save(model, step(model, state)[1], path)
    assert load(path, model).block == 5 and os.listdir(tmp_path) == ["stream.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="files have no modes there")
@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_whoever_may_read_new_files_may_read_it(model, state, tmp_path, umask):
    before = os.umask(umask)
    try:
        save(model, state, tmp_path / "stream.safetensors")
        assert (tmp_path / "stream.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


def test_a_failed_save_keeps_the_file_before(model, state, tmp_path, monkeypatch):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write the stream to .*No space left on device.* has room"):
        save(model, step(model, state)[1], path)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["stream.safetensors"]


def test_an_interrupted_save_leaves_nothing_half_written(model, state, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(model, state, tmp_path / "stream.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(model, state, tmp_path):
    with pytest.raises(OSError, match=r"cannot write the stream to .*absent.*choose a folder that exists"):
        save(model, state, tmp_path / "absent" / "stream.safetensors")


def test_another_contract_is_refused_by_name(model, state, tmp_path):
    save(model, state, tmp_path / "stream.safetensors")
    for change, words in (
        ({"seed": 8}, "made with seed 7, not 8. It cannot go on differently"),
        ({"sigmas": (1.0, 0.5)}, r"sigmas \(1.0, 0.8, 0.5\), not \(1.0, 0.5\)"),
        ({"preset": "pocket", "cfg": 1.0}, r"preset PositionPreset.*infinity_rope.*; cfg 2.0, not 1.0"),
        ({"dtype": torch.float64}, "dtype torch.float32, not torch.float64"),
    ):
        with pytest.raises(ValueError, match=words):
            load(tmp_path / "stream.safetensors", model, replace(state.config, **change))


def test_another_model_is_refused(make_model, model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    for sizes in ({"num_layers": 2}, {"num_heads": 1}, {"dim": 48, "num_heads": 2}):
        with pytest.raises(ValueError, match=r"model with \(layers, heads, width, patch\) \(3, 2, 24, 2\)"):
            load(path, make_model(**sizes))
    with pytest.raises(ValueError, match=r"refused torch.float32 on cpu.*needs the model in that dtype"):
        load(path, make_model(torch.float64))


def test_other_weights_of_the_same_sizes_are_refused(make_model, model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    load(path, make_model())
    with pytest.raises(ValueError, match=r"made with weights that differ from this model's by 1\d\d\.\d %"):
        load(path, make_model(seed=2))
    adapted = make_model()
    for block in adapted.blocks:
        weight = block.self_attn.v.weight
        weight += 0.1 * weight.std() * torch.randn_like(weight)
    with pytest.raises(ValueError, match=r"differ .* by \d\.\d %.*with the same adapters"):
        load(path, adapted)


def test_a_stream_of_a_release_without_a_sketch_goes_on(model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["rivulet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del about["weights"]
    save_file(tensors, path, {"rivulet": json.dumps(about)})
    assert torch.equal(step(model, load(path, model))[0], step(model, state)[0])


def test_files_that_are_no_stream_are_refused(model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file at .*; give the path of a stream that was saved"):
        load(path, model)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"holds 'no stream' .* needs 'rivulet stream' in version 1"):
        load(path, model)
    save(model, state, path)
    for kept in (0, 7, 300, -1):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"bytes\) is not a whole safetensors file.*Copy it again"):
            load(path, model)
        save(model, state, path)


def test_another_cache_format_is_refused_by_name(model, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(model, state, path)
    other = replace(DENSE, name="other")
    with pytest.raises(
        ValueError, match=r"in cache format 'dense' and was to be taken up with 'other' \(name"
    ):
        load(path, model, cache=other)
    save(model, replace(state, format=other), path)
    assert load(path, model, cache=other).format == other
    with pytest.raises(ValueError, match=r"'other' and was to be taken up with 'dense'.*start a new stream"):
        load(path, model)

"""A stream on disk."""

import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.ledger import FrameLedger
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, read_ending, read_header, save, verify
from rivulet.model_patches.stream.step import init, recache, step
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.vae.decoder import VaeBuffers
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
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load
from rivulet.model_patches.stream.step import step
from safetensors.torch import save_file
torch.set_num_threads(1)
caller = ModelCaller(open_checkpoint(Path(folder, "model.safetensors"), channels=4).load())
made = {}
for i in range(count):
    state = load(f"{folder}/{i}.safetensors", caller)
    for ahead in range(2):
        latents, state = step(caller, state)
        made[f"{i}+{ahead}"] = latents.clone()
save_file(made, folder + "/made.safetensors")
"""


@pytest.fixture
def state(caller, make_text, config):
    """Returns a guided stream of four blocks before a recache, in a blend, a fade and all else there is."""
    negative = make_text(2, tokens=3)
    state = init(caller, (make_text(1), negative), replace(config, cfg=2.0))
    for _ in range(4):
        _, state = step(caller, state)
    state = switch(caller, state, (make_text(4), negative), "recache")
    state = switch(caller, state, (make_text(3), negative), "blend", text="a red circle")
    shared = torch.arange(6.0)
    layers = (shared, shared, shared[2:4], torch.arange(9)[3:5], shared.reshape(2, 3).mT, torch.zeros(0))
    pictures = (torch.arange(32 * 48 * 3) % 256).to(torch.uint8).reshape(32, 48, 3)
    counts = {"scene": -1, "written": 44, "skip": 3, "prefilled": 1, "hidden": 1, "limit": 90}
    ledger = FrameLedger(
        **counts, file_frame=9, file_block=2, ending_HWC=pictures, lost_HWC=pictures.float() / 300
    )
    past = VaeBuffers((*layers, "Rep", None), pending=torch.ones(1, 2, 3))
    return replace(state, past=past, ledger=ledger, followed=True, steered=True)


def said_in(path):
    """What the file's header says."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["rivulet"])


def test_a_file_that_says_nothing_of_shots_is_of_none(caller, make_text, config, tmp_path):
    """Takes of earlier releases."""
    _, state = step(caller, init(caller, (make_text(1),), config))
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    about, tensors = said_in(path), load_file(path)
    assert about.pop("shot") is False
    put(path, about, tensors)
    assert not load(path, caller, config).shot and not read_header(path).shot


def put(path, about, tensors):
    """Writes a file of ours with a checksum that is right, whatever it says."""
    said = about if isinstance(about, str) else json.dumps(about)
    save_file(tensors, path, {"rivulet": said, CHECKSUM: EMPTY})
    seal(path)


def in_full(value):
    """All that a value holds, for a comparison bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.tolist()
    if hasattr(value, "tensors"):
        return getattr(value, "table", ()), {name: in_full(t) for name, t in value.tensors().items()}
    if is_dataclass(value):
        return {field.name: in_full(getattr(value, field.name)) for field in fields(value)}
    return [in_full(part) for part in value] if isinstance(value, tuple) else value


def test_saved_after_any_block_it_goes_on_in_another_process_bit_for_bit(
    model, caller, make_text, config, root, tmp_path
):
    config = replace(config, cfg=2.0)
    metadata = {"config": json.dumps({"transformer": {"num_heads": 2}})}
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata=metadata)
    state, made, blocks = init(caller, (make_text(1), make_text(2)), config), [], 5
    for block in range(blocks + 2):
        if block == 3:
            state = switch(caller, state, (make_text(4), make_text(2)), "smooth")
        if block < blocks:
            save(caller, state, tmp_path / f"{block}.safetensors")
        latents, state = step(caller, state)
        made.append(latents)
    code = [sys.executable, "-c", CONTINUE, str(root), str(tmp_path), str(blocks)]
    subprocess.run(code, check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    continued = load_file(tmp_path / "made.safetensors")
    for block in range(blocks):
        assert torch.equal(continued[f"{block}+0"], made[block]), block
        # the prompt changes between blocks 2 and 3, which the stream saved before that cannot know
        assert torch.equal(continued[f"{block}+1"], made[block + 1]) == (block != 2), block


def test_what_is_saved_is_what_comes_back(caller, state, tmp_path):
    save(caller, state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", caller, state.config)
    assert in_full(back) == in_full(state)
    assert torch.equal(step(caller, back)[0], step(caller, state)[0])


@pytest.mark.parametrize("name", LOSSY)
def test_every_format_goes_on_bit_for_bit(caller, make_text, config, tmp_path, name):
    path, made = tmp_path / "stream.safetensors", LOSSY[name]
    state = init(caller, (make_text(1), make_text(2, tokens=3)), replace(config, cfg=2.0), cache=made)
    for _ in range(4):
        save(caller, state, path)
        back = load(path, caller, cache=made)
        for name, tensor in state.cache.tensors().items():
            assert torch.equal(back.cache.tensors()[name], tensor)
        expected, state = step(caller, state)
        latents, back = step(caller, back)
        assert torch.equal(latents, expected)
        assert torch.equal(step(caller, back)[0], step(caller, state)[0])
        # a stream cannot go on from a state after its successor was continued
        state = back


def test_another_basis_is_refused_by_its_fingerprint(caller, make_text, config, tmp_path):
    path, made = tmp_path / "stream.safetensors", LOSSY["latent"]
    save(caller, init(caller, (make_text(),), config, cache=made), path)
    other = LatentFormat(replace(made.basis, group=4))
    with pytest.raises(ValueError, match=rf"basis {made.basis.fingerprint}, not {other.basis.fingerprint}"):
        load(path, caller, cache=other)
    with pytest.raises(ValueError, match=r"cache latent, not dense\. Set the cache to latent\. Give"):
        load(path, caller)


def test_only_kept_frames_are_stored(caller, state, tmp_path):
    save(caller, recache(caller, state), tmp_path / "stream.safetensors")
    with safe_open(tmp_path / "stream.safetensors", "pt") as file:
        shape = file.get_slice("cache.kv").get_shape()
    # 3 layers, keys and values, 2 branches, sink 1 + 2 frames of 6 tokens, 2 heads of 12
    assert shape == [3, 2, 2, 3 * 6, 2, 12]


def test_a_snapshot_is_a_copy(caller, state, tmp_path):
    save(caller, state, tmp_path / "stream.safetensors")
    expected, later = step(caller, state)
    step(caller, later)
    assert torch.equal(step(caller, load(tmp_path / "stream.safetensors", caller))[0], expected)


def test_a_later_save_takes_the_place_of_the_one_before(caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    save(caller, step(caller, state)[1], path)
    assert load(path, caller).block == 5 and os.listdir(tmp_path) == ["stream.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="files have no modes there")
@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_whoever_may_read_new_files_may_read_it(caller, state, tmp_path, umask):
    before = os.umask(umask)
    try:
        save(caller, state, tmp_path / "stream.safetensors")
        assert (tmp_path / "stream.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


def test_a_failed_save_keeps_the_file_before(caller, state, tmp_path, monkeypatch):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write the stream to .*the disk is full.* has room"):
        save(caller, step(caller, state)[1], path)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["stream.safetensors"]


def test_an_interrupted_save_leaves_nothing_half_written(caller, state, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(caller, state, tmp_path / "stream.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(caller, state, tmp_path):
    with pytest.raises(OSError, match=r"cannot write the stream to .*absent.*choose a folder that exists"):
        save(caller, state, tmp_path / "absent" / "stream.safetensors")


MAY_DIFFER = [{"seed": 8}, {"cfg": 3.0}, {"sigmas": (1.0, 0.5)}, {"first_sigmas": (1.0, 0.9, 0.5)}]


@pytest.mark.parametrize("change", MAY_DIFFER, ids=lambda change: next(iter(change)))
def test_what_may_differ_holds_from_here_on(caller, make_text, state, tmp_path, change):
    save(caller, state, tmp_path / "stream.safetensors")
    config = replace(state.config, **change)
    back = load(tmp_path / "stream.safetensors", caller, config)
    assert back.config == config
    if "first_sigmas" in change:  # they are those of another scene
        prompt = (make_text(4), make_text(2))
        back, state = (switch(caller, each, prompt, "cut") for each in (back, state))
    latents, _ = step(caller, back)
    assert torch.equal(latents, step(caller, replace(state, config=config))[0])
    assert not torch.equal(latents, step(caller, state)[0])


REFUSED = [
    ({"geometry": Geometry(32, 32, latent_channels=4)}, "48x32 pixels, not 32x32 pixels"),
    ({"preset": "pocket"}, "preset infinity_rope, not preset pocket"),
    ({"block_frames": 1}, "3 latent frames a block, not 1"),
    ({"dtype": torch.float64}, "a model that computes in float32, not a .* in float64"),
    (
        {"fresh_noise": False, "block_frames": 1},
        "3 latent frames a block, not 1",
    ),
    ({"cfg": 1.0}, r"guidance \(cfg 2\), not no guidance.* and guidance where it had guidance"),
]


@pytest.mark.parametrize("change, words", REFUSED, ids=lambda value: str(value)[:20])
def test_another_contract_is_refused_by_name(caller, state, tmp_path, change, words):
    save(caller, state, tmp_path / "stream.safetensors")
    with pytest.raises(ValueError, match=rf"the take in stream\.safetensors was made with {words}"):
        load(tmp_path / "stream.safetensors", caller, replace(state.config, **change))


def test_guidance_cannot_begin_later(caller, make_text, config, tmp_path):
    save(caller, init(caller, (make_text(),), config), tmp_path / "stream.safetensors")
    with pytest.raises(ValueError, match=r"no guidance \(cfg 1\), not guidance \(cfg 2\)"):
        load(tmp_path / "stream.safetensors", caller, replace(config, cfg=2.0))


def test_another_model_is_refused(make_model, caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    for sizes, words in (
        ({"num_layers": 2}, "a model of 3 layers, not a model of 2 layers"),
        ({"num_heads": 1}, "2 heads, not 1 heads; heads of 12 channels, not heads of 24 channels"),
        ({"dim": 48, "num_heads": 2}, "heads of 12 channels, not heads of 24 channels"),
    ):
        with pytest.raises(ValueError, match=f"was made with {words}. Give it the same model"):
            load(path, ModelCaller(make_model(**sizes)))
    with pytest.raises(ValueError, match=r"refused float32 on cpu.*the model's own dtype"):
        load(path, ModelCaller(make_model(torch.float64)))


def test_other_weights_of_the_same_sizes_are_refused(make_model, model, caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    load(path, ModelCaller(make_model()))
    with pytest.raises(
        ValueError, match=r"made with weights that differ from this model's by [12]\d\d\.\d %"
    ):
        load(path, ModelCaller(make_model(seed=2)))
    adapted = make_model()
    for block in adapted.blocks:
        weight = block.self_attn.v.weight
        weight += 0.1 * weight.std() * torch.randn_like(weight)
    with pytest.raises(ValueError, match=r"differ .* by \d+\.\d % in self_attn.v.*with the same adapters"):
        load(path, ModelCaller(adapted))


def test_a_stream_whose_weights_were_not_loaded_yet_goes_on(make_model, caller, make_text, config, tmp_path):
    class NotLoaded(ModelCaller):
        def fingerprint(self, config):
            return None

    path = tmp_path / "stream.safetensors"
    save(NotLoaded(caller.tree), init(caller, (make_text(),), config), path)
    other = ModelCaller(make_model(seed=2))
    assert torch.equal(step(other, load(path, other))[0], step(other, init(other, (make_text(),), config))[0])


def test_files_that_are_no_stream_are_refused(caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file at .*; give the path of a stream that was saved"):
        load(path, caller)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"holds 'none' .* needs 'rivulet stream' in version 3"):
        load(path, caller)
    save(caller, state, path)
    for kept in (0, 7, 300, -1):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"bytes\) is not a whole safetensors file.*Copy it again"):
            load(path, caller)
        save(caller, state, path)


def test_a_file_of_an_earlier_release_is_refused_in_a_sentence(caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    about = said_in(path)
    save_file(load_file(path), path, {"rivulet": json.dumps(about | {"version": 2})})
    for read in (lambda path: load(path, caller), read_header, read_ending, verify):
        with pytest.raises(ValueError, match=r"in version 2, needs .* in version 3; .* with Start From"):
            read(path)


SAID = ("block", "start_frame", "config", "shape", "weights", "table", "cache", "memory", "blend",
        "must_recache", "ledger", "text", "followed", "steered")  # fmt: skip
ALTERED = [*((name,) for name in SAID), ("config", "dtype"), ("config", "geometry"), ("config", "sigmas"),
           ("config", "preset", "sink_frames"), ("ledger", "written"), ("ledger", "limit")]  # fmt: skip


@pytest.mark.parametrize("place", ALTERED, ids=".".join)
def test_a_header_that_was_altered_is_refused_in_a_sentence(caller, state, tmp_path, place):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    said = json.dumps(said_in(path))
    tensors, absent = load_file(path), object()
    for value in (absent, 2.5, [{}], {"a": 1}):
        about = json.loads(said)
        *folders, name = place
        inside = about
        for folder in folders:
            inside = inside[folder]
        inside.pop(name)
        if value is not absent:
            inside[name] = value
        put(path, about, tensors)
        with pytest.raises(ValueError, match=r"stream\.safetensors was (altered .*Copy it again|made with)"):
            load(path, caller, state.config)


@pytest.mark.parametrize("said", ["", "{", "[]", "null"])
def test_a_header_that_is_none_is_refused_in_a_sentence(caller, state, tmp_path, said):
    path = tmp_path / "stream.safetensors"
    put(path, said, {"tail": torch.zeros(1)})
    for read in (lambda path: load(path, caller), read_header, read_ending):
        with pytest.raises(ValueError, match=r"stream\.safetensors was altered since it was saved"):
            read(path)


@pytest.mark.parametrize("name", ["tail", "cache.kv", "blend.0"])
def test_a_file_that_lacks_a_tensor_is_refused_in_a_sentence(caller, state, tmp_path, name):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    about, tensors = said_in(path), load_file(path)
    del tensors[name]
    put(path, about, tensors)
    with pytest.raises(ValueError, match=r"stream\.safetensors was altered since it was saved"):
        load(path, caller, state.config)


def test_another_cache_format_is_refused_by_name(caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    other = replace(DENSE, name="other")
    for made, given in ((DENSE, other), (other, DENSE)):
        save(caller, replace(state, format=made), path)
        assert load(path, caller, cache=made).format == made
        with pytest.raises(ValueError, match=f"with cache {made.name}, not {given.name}.*begin a new stream"):
            load(path, caller, cache=given)


def test_a_header_says_where_the_stream_stands_without_its_tensors(caller, state, tmp_path):
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    header = read_header(path)
    assert (header.config, header.block, header.start_frame) == (state.config, 4, 12)
    assert header.ledger == replace(state.ledger, ending_HWC=None, lost_HWC=None)
    assert (header.text, header.followed) == ("a red circle", True)
    # the scene began a frame before the video; its 12 latents are 45 pictures
    assert header.ahead == -1 + 45 - 44
    again, tail_BCTHW = read_ending(path)
    assert again == header and torch.equal(tail_BCTHW, state.tail_BCTHW[:, :, -state.config.tail_frames :])

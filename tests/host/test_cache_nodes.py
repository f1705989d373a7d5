"""A small cache in ComfyUI: calibrated, chosen, planned and streamed, on the checkout's own model classes."""

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.snapshot import load as load_take
from rivulet.model_patches.stream.snapshot import save
from rivulet.tests.host.graphs import stream_graph
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.loading import streamed as streamed_of
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(48, 48), "pocket", 3, (1.0, 0.5), seed=5)
PROMPTS = "one\ntwo\n\nthree\nfour\ntwo\n"


class Clip:
    """Text of the small checkpoint's width, another for every prompt."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        generator = torch.Generator().manual_seed(sum(map(ord, tokens)))
        return [[torch.randn(1, 12, 64, generator=generator), {}]]


@pytest.fixture
def folder(comfyui, tmp_path, monkeypatch):
    """Returns the models/rivulet of this test."""
    import folder_paths
    from rivulet.nodes.small_cache import FOLDER

    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path / FOLDER)], set()))
    return tmp_path / FOLDER


@pytest.fixture
def calibrate(folder, load):
    """Returns a function that runs the node on the plain checkpoint."""
    from rivulet.nodes.calibrate import RivuletCalibrate

    def run(model=None, **inputs):
        given = {
            **{"prompts": PROMPTS, "name": "small", "width": 64, "height": 64, "bytes_per_token": 0},
            **{"error_percent": 0.0, "cfg": 1.0, "preset": "pocket", "num_frame_per_block": 3},
            **{"blocks": 4, "seed": 0, **inputs},
        }
        return RivuletCalibrate.execute(model or load("plain"), Clip(), **given).args

    return run


@pytest.fixture(scope="module")
def made():
    """Returns what the first calibration of this file made."""
    return {}


@pytest.fixture
def basis(made, calibrate, folder):
    """Returns the basis of the plain checkpoint at an eighth, learned once."""
    if not made:
        made["basis"], _ = calibrate()
        shutil.rmtree(folder)
    return made["basis"]


@pytest.fixture
def choose(folder):
    """Returns a function that runs the node of the cache."""
    from rivulet.nodes.small_cache import RivuletLatentCache

    def run(format="latent", basis_file="none", sink=False, newest=False, basis=None):
        return RivuletLatentCache.execute(format, basis_file, sink, newest, basis).args[0]

    return run


def with_lora(model, strength, seed=0):
    """Returns a clone of the MODEL with a difference on every linear layer of its blocks, as a LoRA has."""
    clone, generator = model.clone(), torch.Generator().manual_seed(seed)
    patches = {}
    for name, value in model.model.state_dict().items():
        if name.startswith("diffusion_model.blocks") and name.endswith(".weight") and value.ndim == 2:
            noise = torch.randn(value.shape, generator=generator)
            patches[name] = ("diff", (strength * value.std() * noise,))
    assert clone.add_patches(patches, 1.0)
    return clone


def streamed(load, prompt, cache, config=CONFIG, model=None, blocks=4):
    return streamed_of(model or load("plain"), prompt(0), config, blocks, cache)


def test_a_calibration_is_measured_written_and_told(calibrate, folder, basis):
    from rivulet.model_patches.cache.basis_file import load_basis
    from rivulet.nodes.calibrate import free_path

    again, text = calibrate()
    # four prompts, one of them kept aside; 4 blocks of 3 frames of 4 x 4 tokens
    about = basis.provenance
    assert about["prompts"] == ["one", "two", "three"] and about["held_out_prompts"] == ["four"]
    assert about["tokens"] == 3 * 4 * 48 and about["token_bytes"] <= 4 * 128 / 8
    assert load_basis(folder / "small.safetensors").fingerprint == basis.fingerprint
    assert re.search(r"it keeps 0\.001 GB of sums in RAM and at most 0\.00\d GB of samples in RAM\.", text)
    assert text.startswith("small.safetensors in models/rivulet: ") and "instead of 1,024" in text
    assert f"{100 * about['error']:.2g} %" in text and "1 held-out prompts" in text
    assert again.fingerprint == basis.fingerprint
    assert [free_path(name).name for name in ("small", "large")] == [
        "small_2.safetensors",
        "large.safetensors",
    ]


def test_guidance_and_an_error_can_be_asked_for(calibrate):
    basis, text = calibrate(error_percent=20.0, cfg=2.0, name="a b.c")
    assert basis.provenance["tokens"] == 2 * 3 * 4 * 48
    assert 0.05 < basis.provenance["error"] < 0.4 and basis.provenance["token_bytes"] < 64
    assert "over 5 %: expect pictures to change" in text


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"bytes_per_token": 90, "error_percent": 2.0},
            r"bytes_per_token is 90 and error_percent is 2; only one of",
        ),
        ({"bytes_per_token": 3}, r"3 bytes per token and layer were asked for, and the smallest basis"),
        ({"prompts": "one\n"}, r"got 1 prompts; give two or more"),
        ({"prompts": "one\ntwo\n", "blocks": 2}, r"96 tokens were seen, .* 128 channels needs 512 or more"),
        ({"name": "../out"}, r"name must be a file's name .* without folders, got '../out'"),
        ({"name": "/tmp/out"}, r"without folders"),
        ({"name": "c:\\out"}, r"without folders"),
        ({"name": ".hidden"}, r"without folders"),
        ({"name": " "}, r"without folders"),
        ({"preset": "self_forcing", "blocks": 64}, r"take preset infinity_rope"),
    ],
)
def test_a_calibration_that_cannot_work_is_refused_and_writes_nothing(calibrate, folder, inputs, words):
    with pytest.raises(ValueError, match=words):
        calibrate(**inputs)
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(("room", "places"), [(0, "RR"), (1, "CR"), (2, "CC")])
def test_sums_and_samples_lie_where_there_is_room(load, monkeypatch, room, places):
    import comfy.model_management as management
    from rivulet.kernels.dispatch import Support
    from rivulet.model_patches.plan.plan import plan_stream
    from rivulet.model_patches.plan.verdict import HEADROOM
    from rivulet.nodes import calibrate as node
    from rivulet.nodes.plan import request_of

    model, card, freed = load("plain").clone(), torch.device("cuda", 0), []
    plan = plan_stream(request_of(model, None, CONFIG, 16.0, 4 * 12 / 16.0))
    stream = plan.weights_bytes + plan.cache_bytes + plan.workspace_bytes + plan.text_bytes
    sums = 16 * 128**2 * 2
    monkeypatch.setattr(management, "vae_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(management, "free_memory", lambda count, device: freed.append((count, device)))
    monkeypatch.setattr(model, "load_device", card)
    monkeypatch.setattr("rivulet.nodes.plan.triton_support", lambda _: Support(False, "no card is there."))

    def with_free(count):
        monkeypatch.setattr(node, "free_bytes", lambda device: count if device == card else 1 << 40)
        return node.room_for(model, CONFIG, 4, 4)

    taken = round(HEADROOM * (stream + plan.activation_bytes)) + 1
    samples = with_free(0).samples_bytes
    assert samples > 0 and freed == []
    made = with_free(taken + [sums - 2, sums, sums + samples][room])
    assert (made.sums_bytes, made.samples_bytes) == (sums, samples)
    assert (made.sums.type, made.samples.type) == tuple({"R": "cpu", "C": "cuda"}[each] for each in places)
    assert freed == ([(sums + samples * (room == 2), card)] if room else [])
    assert ("samples in RAM" in str(made)) == (room < 2)


def test_samples_that_have_no_room_in_ram_are_refused_before_a_block_is_made(calibrate, folder, monkeypatch):
    import comfy.model_management as management

    monkeypatch.setattr(management, "get_free_memory", lambda *_: 1_000_000)
    with pytest.raises(ValueError, match=r"0\.00\d GB of RAM are needed for sums and samples, 0\.001 GB are"):
        calibrate()
    assert not folder.exists()


def test_it_can_be_interrupted(calibrate, folder, monkeypatch):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        calibrate()
    assert not folder.exists()


def test_a_stream_remembers_in_the_form_that_was_chosen(load, prompt, choose, basis):
    dense, kept = streamed(load, prompt, choose("dense"))
    shape = kept.cache.shape
    tokens = shape.rows * 12 * shape.frame_tokens
    assert kept.cache.bytes == tokens * 2 * 1024
    eight, small = streamed(load, prompt, choose("int8"))
    assert small.cache.bytes < 0.28 * kept.cache.bytes
    latent, smaller = streamed(load, prompt, choose(basis=basis))
    assert smaller.cache.bytes == tokens * 2 * basis.provenance["token_bytes"]
    for made, most in ((eight, 0.02), (latent, 0.2)):
        off = float((made - dense).norm() / dense.norm())
        assert 0 < off < most
        # the first block looks back on nothing
        assert torch.equal(made[:, :, :3], dense[:, :, :3])


def test_exact_frames_take_room_and_lose_less(load, prompt, choose, basis):
    dense, _ = streamed(load, prompt, choose("dense"))
    off, sizes = [], []
    for sink, newest in ((False, False), (True, True)):
        made, state = streamed(load, prompt, choose(basis=basis, sink=sink, newest=newest))
        off.append(float((made - dense).norm()))
        sizes.append(state.cache.bytes)
    assert off[1] < off[0] and sizes[1] > sizes[0]
    dit = load("plain").get_model_object("diffusion_model")
    exact = choose("int8", sink=True, newest=True).format_for(CONFIG, dit).exact
    assert (exact.sink, exact.newest) == (3, 3)


def test_a_saved_take_goes_on_bit_for_bit_and_in_its_own_form_only(load, prompt, choose, basis, tmp_path):
    def run_with(name):
        chosen = choose(name, basis=basis if name == "latent" else None)
        form = chosen.format_for(CONFIG, load("plain").get_model_object("diffusion_model"))
        return HostRun(load("plain"), prompt(0), prompt(1), CONFIG, cache=form)

    def back(run):
        return load_take(tmp_path / "take.safetensors", run.caller, CONFIG, **run.options)

    run = run_with("latent")
    _, state = make_blocks(run, run.begin(), 4)
    save(run.caller, state, tmp_path / "take.safetensors")
    on, _ = run.step(state)
    again = run_with("latent")
    assert torch.equal(again.step(back(again))[0], on)
    with pytest.raises(ValueError, match=r"was made with cache latent, not int8\."):
        back(run_with("int8"))


def test_a_lora_is_told_and_its_weights_are_those_that_run(load, prompt, choose, basis, caplog):
    """With the basis of the bare model, from the weights as they are, the stream stays near the dense one."""
    model = with_lora(load("plain"), 0.05)
    with caplog.at_level(logging.WARNING):
        latent, _ = streamed(load, prompt, choose(basis=basis), model=model)
    assert "an adapter (LoRA)" in caplog.text and "small" in caplog.text
    dense, _ = streamed(load, prompt, choose("dense"), model=model)
    bare, _ = streamed(load, prompt, choose("dense"))
    assert (latent - dense).norm() < 0.5 * (bare - dense).norm()


def test_the_bare_model_is_told_nothing(load, prompt, choose, basis, caplog):
    with caplog.at_level(logging.WARNING):
        streamed(load, prompt, choose(basis=basis), blocks=1)
    assert "differ" not in caplog.text


def test_a_basis_of_another_checkpoint_is_refused(load, prompt, choose, basis):
    with pytest.raises(
        ValueError, match=r"the basis is of small, whose weights differ .* it is another check"
    ):
        streamed(load, prompt, choose(basis=basis), model=with_lora(load("plain"), 2.0))


def test_a_basis_of_another_size_is_refused_by_stream_and_plan(load, prompt, choose, basis, plan):
    small = replace(basis, layers=basis.layers[:1], plan=basis.plan[:1])
    for act in (lambda: streamed(load, prompt, choose(basis=small)), lambda: plan(choose(basis=small))):
        with pytest.raises(ValueError, match=r"1 layers"):
            act()


@pytest.mark.parametrize("name", ["mla", "mla-int8"])
def test_a_model_without_latents_of_its_own_is_refused(load, prompt, choose, plan, name):
    for act in (lambda: streamed(load, prompt, choose(name)), lambda: plan(choose(name))):
        with pytest.raises(ValueError, match=r"is no VideoMLA attention.* take format latent or int8"):
            act()


@pytest.fixture
def plan(load, monkeypatch):
    """Returns a function that plans with a cache, on a machine with room."""
    from rivulet.model_patches.plan.probe import Device
    from rivulet.nodes import plan as module

    card = Device("a card", matmul_flops=1e14, bytes_per_second=1e12, free_bytes=10**12)
    monkeypatch.setattr(module, "free_on", lambda *_: card)

    def of(cache=None):
        return module.RivuletPlan.execute(
            load("plain"), 48, 48, 2.0, 16.0, "pocket", 3, 1.0, True, cache=cache
        ).args[1]

    return of


def test_the_plan_tells_bytes_and_saving(plan, choose, basis):
    for text in (plan(), plan(choose("dense"))):
        assert "\nEach token takes 1,024 bytes a layer in the cache.\n" in text
    assert "In the format int8 each token takes 2" in plan(choose("int8"))
    size = basis.provenance["token_bytes"]
    told = plan(choose(basis=basis))
    assert (
        f"In the format latent each token takes {size:.0f} bytes a layer in the cache instead of 1,024"
        in told
    )
    assert f"{1024 / size:.1f} times less" in told
    assert f"Error of attention when it was calibrated: {100 * basis.provenance['error']:.2g} %." in told


def test_a_file_is_chosen_from_the_list(basis, choose, folder):
    from rivulet.model_patches.cache.basis_file import save_basis
    from rivulet.nodes.small_cache import RivuletLatentCache, basis_files

    assert basis_files() == []
    folder.mkdir()
    save_basis(basis, folder / "small.safetensors")
    assert basis_files() == ["small.safetensors"]
    options = RivuletLatentCache.define_schema().inputs[1].options
    assert options == ["none", "built in (Pocket Model)", "small.safetensors"]
    assert choose(basis_file="small.safetensors").source.fingerprint == basis.fingerprint
    before = RivuletLatentCache.fingerprint_inputs(basis_file="small.safetensors")
    (folder / "small.safetensors").touch()
    assert RivuletLatentCache.fingerprint_inputs(basis_file="small.safetensors") != before


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {},
            r"latent needs a basis of this checkpoint; choose one in basis_file, or connect Calibrate Cache",
        ),
        ({"format": "int8", "basis_file": "x.safetensors"}, r"int8 uses no basis, but one is set"),
        (
            {"format": "mla", "sink": True},
            r"mla loses nothing, so exact frames change nothing; switch keep_sink_exact",
        ),
        ({"format": "mla", "basis_file": "x.safetensors"}, r"mla uses no basis, but one is set"),
        ({"format": "fp8"}, r"there is no format 'fp8'; choose one of dense, int8, latent, mla, mla-int8"),
        ({"basis_file": "absent.safetensors"}, r"there is no absent.safetensors in models/rivulet"),
        ({"basis_file": "../../secret.safetensors"}, r"must be a .safetensors file in models/rivulet"),
        ({"basis_file": "/etc/passwd"}, r"must be a .safetensors file in models/rivulet"),
        ({"basis_file": "/tmp/x.safetensors"}, r"must be a .safetensors file in models/rivulet"),
    ],
)
def test_choices_that_cannot_be_are_refused(choose, inputs, words):
    with pytest.raises(ValueError, match=words):
        choose(**inputs)


def test_dense_is_as_without_the_node_whatever_else_is_set(choose, basis):
    from rivulet.nodes.small_cache import CacheChoice

    assert choose("dense", basis=basis) == choose("dense", basis_file="x.safetensors") == CacheChoice()
    assert choose("dense", basis=basis, sink=True, newest=True) == CacheChoice()


def test_a_basis_and_a_file_at_once_are_refused(choose, basis):
    with pytest.raises(
        ValueError, match=r"a basis is connected and basis_file is 'x.safetensors'; which of the"
    ):
        choose(basis_file="x.safetensors", basis=basis)
    with pytest.raises(ValueError, match=r"int8 uses no basis"):
        choose("int8", basis=basis)


def test_a_truncated_file_is_refused(basis, choose, folder):
    from rivulet.model_patches.cache.basis_file import save_basis

    folder.mkdir()
    path = folder / "small.safetensors"
    save_basis(basis, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is not a whole safetensors file"):
        choose(basis_file=path.name)


def test_the_built_in_basis_is_read_from_the_pack(choose, monkeypatch, tmp_path):
    from rivulet.nodes import small_cache as cache

    assert cache.path_of(cache.BUILT_IN).parent == Path(cache.WEIGHTS)
    monkeypatch.setattr(cache, "POCKET_BASIS", tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no file at .*none.safetensors; give the path of a basis"):
        choose(basis_file=cache.BUILT_IN)


def test_a_graph_streams_with_a_small_cache(server):
    graph = stream_graph("small_cache", text=None, cache=["7", 0])
    graph["7"] = {
        "class_type": "RivuletLatentCache",
        "inputs": {
            "format": "int8",
            "basis_file": "none",
            "keep_sink_exact": False,
            "keep_newest_exact": True,
        },
    }
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    graph["7"]["inputs"] |= {"basis_file": "../secret.safetensors", "format": "latent"}
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 400 and "../secret.safetensors" in str(answer["node_errors"]["7"])

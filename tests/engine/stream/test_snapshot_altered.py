"""Snapshots whose bytes, numbers or names are not as they were saved, even where their checksum is right."""

import copy
import time
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.snapshot import capture, load, read_header, save, verify, write
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.vae.decoder import VaeDecoder
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import WanVAE
from safetensors.torch import load_file

from ..formats import FORMATS
from .test_snapshot import put, said_in
from .videos import GEOMETRY, seeded, text

REFUSED = r"stream\.safetensors.*(Copy it again|Give it the same model|with Start From|Load the weights)"


@pytest.fixture
def saved(caller, make_text, config, tmp_path):
    """Returns (path, header, tensors) of a guided stream of three blocks in a blend."""
    negative = make_text(2, tokens=3)
    state = init(caller, (make_text(1), negative), replace(config, cfg=2.0), cache=FORMATS["int8_exact"])
    for _ in range(3):
        _, state = step(caller, state)
    state = switch(caller, state, (make_text(3), negative), "blend", text="a red circle")
    path = tmp_path / "stream.safetensors"
    save(caller, state, path)
    return path, said_in(path), load_file(path)


@pytest.fixture
def taken(caller):
    """Returns a function that loads the file."""
    return lambda path: load(path, caller, cache=FORMATS["int8_exact"])


def test_a_changed_byte_is_found_wherever_it_is(saved, taken):
    path = saved[0]
    before, generator = path.read_bytes(), torch.Generator().manual_seed(1)
    header = 8 + int.from_bytes(before[:8], "little")
    places = [*range(8), *range(8, header, 37), *range(header, len(before), 131), len(before) - 1]
    for place in places:
        flip = int(torch.randint(1, 256, (), generator=generator))
        path.write_bytes(before[:place] + bytes([before[place] ^ flip]) + before[place + 1 :])
        with pytest.raises(ValueError, match=r"stream\.safetensors"):
            verify(path)
    path.write_bytes(before)
    verify(path)
    assert taken(path).block == 3


def test_a_file_that_was_cut_is_refused_wherever(saved, taken):
    path = saved[0]
    before = path.read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(before), len(before) // 90)]:
        path.write_bytes(before[:length])
        for read in (verify, read_header, taken):
            with pytest.raises(ValueError, match=r"stream\.safetensors.*Copy it again"):
                read(path)


NUMBERS = [
    ("shape.rows", 10**6),
    ("shape.layers", 10**6),
    ("shape.frame", 1),
    ("block", -1),
    ("block", 10**30),
    ("start_frame", 10**12),
    ("start_frame", 8),
    ("table", [0] * 9),
    ("table", [10**9, *range(8)]),
    ("table", list(range(100000))),
    ("blend", [0, 0]),
    ("blend", [4, 4]),
    ("blend", [4, 1, 1]),
    ("config.geometry.width", 10**9),
    ("config.geometry.width", 48.0),
    ("config.geometry.latent_channels", 10**9),
    ("config.block_frames", 10**9),
    ("config.block_frames", 0),
    ("config.seed", -1),
    ("config.seed", 10**30),
    ("config.cfg", 1e30),
    ("config.cfg", float("nan")),
    ("config.sigmas", []),
    ("config.sigmas", [float("inf")]),
    ("config.sigmas", [[1.0]]),
    ("config.dtype", "load"),
    ("config.dtype", "int8"),
    ("config.preset.window_frames", 10**9),
    ("config.preset.window_frames", None),
    ("config.preset.name", "x" * 10**6),
    ("config.more", 1),
    ("ledger.written", -1),
    ("ledger.written", 10**30),
    ("ledger.scene", 10**6),
    ("ledger.scene", -(10**30)),
    ("ledger.fps", float("nan")),
    ("ledger.fps", -1),
    ("ledger.more", 1),
    ("text", 5),
    ("text", "\ud800"),
    ("cache.name", None),
    ("cache.name", "latent"),
    ("cache.group", 1),
    ("memory.name", "learned"),
    ("weights", {}),
    ("weights", {"head": [[1.0]]}),
    ("weights", {"head": [[10**400] * 4]}),
    ("decoder", [[1.0] * 3]),
    ("decoder", [["a"]]),
    ("must_recache", True),
    ("shot", 1),
    ("more", 1),
]


@pytest.mark.parametrize("place, value", NUMBERS, ids=lambda value: str(value)[:24])
def test_a_header_that_cannot_be_is_refused_though_its_checksum_is_right(saved, taken, place, value):
    path, about, tensors = saved
    about = copy.deepcopy(about)
    *folders, name = place.split(".")
    inside = about
    for folder in folders:
        inside = inside[folder]
    inside[name] = value
    put(path, about, tensors)
    started = time.process_time()
    with pytest.raises(ValueError, match=REFUSED):
        taken(path)
    # hours of counting, or gigabytes, are not taken before it is refused
    assert time.process_time() - started < 5


TENSORS = [
    ("tail", lambda t: t * float("nan")),
    ("tail", lambda t: t * 1e20),
    ("tail", lambda t: t[:, :, :2]),
    ("tail", lambda t: t.double()),
    ("tail", lambda t: t[:, :3]),
    ("tail", lambda t: t.to(torch.complex64)),
    ("prompt.0", lambda t: t + float("inf")),
    ("prompt.0", lambda t: t[0]),
    ("prompt.0", lambda t: t[..., :4]),
    ("prompt.0", lambda t: t[:, :0]),
    ("prompt.0", lambda t: t.double()),
    ("prompt.7", lambda t: torch.zeros(1, 1, 6)),
    ("blend.0", lambda t: t[..., :4]),
    ("blend.0", lambda t: t.half()),
    ("cache.0.codes", lambda t: t[:, :-1]),
    ("cache.0.codes", lambda t: t.int()),
    ("cache.0.scales", lambda t: t * float("nan")),
    ("cache.9.codes", lambda t: torch.zeros(1)),
    ("cache.exact.kv", lambda t: t * float("inf")),
    ("cache.exact.kv", lambda t: t[:, :, :, :-1]),
    ("cache.exact.frames", lambda t: t + 1),
    ("cache.exact.frames", lambda t: t.float()),
    ("cache.exact.frames", lambda t: t[:1]),
    ("cache.exact.frames", lambda t: t[None]),
    ("memory.both", lambda t: torch.zeros(2, 6, 24)),
    ("past.layer_001", lambda t: torch.zeros(1)),
    ("ledger.more", lambda t: torch.zeros(1)),
    ("ledger.ending_HWC", lambda t: torch.zeros(2, 2, 3)),
    ("other", lambda t: torch.zeros(1)),
    ("tail.more", lambda t: torch.zeros(1)),
]


@pytest.mark.parametrize("name, change", TENSORS)
def test_a_tensor_that_cannot_be_is_refused_though_its_checksum_is_right(saved, taken, name, change):
    path, about, tensors = saved
    put(path, about, tensors | {name: change(tensors.get(name)).contiguous()})
    with pytest.raises(ValueError, match=REFUSED):
        taken(path)


def test_numbers_that_can_be_make_a_stream_that_goes_on(saved, taken, caller):
    path, about, tensors = saved
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            put(path, about, tensors | {name: tensor * -3})
            assert step(caller, taken(path))[0].isfinite().all(), name


def test_a_table_with_room_for_much_takes_no_more_than_a_window_needs(saved, taken):
    path, about, tensors = saved
    put(path, about | {"table": about["table"] + [-1] * 10**6}, tensors)
    assert len(taken(path).cache.table) < 40


def test_a_file_without_a_checksum_is_no_file_of_ours(saved, taken):
    path = saved[0]
    path.write_bytes(path.read_bytes().replace(b'"checksum":"', b'"checksun":"'))
    for read in (verify, taken):
        with pytest.raises(ValueError, match="has lost its checksum"):
            read(path)


def test_what_was_captured_is_written_later_whatever_the_stream_does_since(
    caller, make_text, config, tmp_path
):
    state = init(caller, (make_text(1),), config)
    for _ in range(3):
        _, state = step(caller, state)
    kept = capture(caller, state, None)
    expected, later = step(caller, state)
    for _ in range(4):  # reuses every slot
        _, later = step(caller, later)
    assert (kept.block, kept.frame) == (3, 0)
    assert write(kept, tmp_path / "stream.safetensors") == (tmp_path / "stream.safetensors").stat().st_size
    assert kept.bytes < (tmp_path / "stream.safetensors").stat().st_size < kept.bytes + 60_000
    assert torch.equal(step(caller, load(tmp_path / "stream.safetensors", caller))[0], expected)


def test_another_vae_is_refused_and_none_is_asked_for(wan, vae, tmp_path):
    path, decoder = tmp_path / "stream.safetensors", VaeDecoder(vae)
    state = init(wan, (text(1),), StreamConfig(GEOMETRY, "pocket", sigmas=(1.0, 0.5)))
    latents, state = step(wan, state)
    _, past = decoder.decode(latents, None)
    save(wan, replace(state, past=past), path, decoder)
    assert not any(name.startswith("past") for name in load_file(path))
    back = load(path, wan, decoder=decoder)
    assert all(torch.equal(one, other) for one, other in zip(back.past.layers, past.layers, strict=True))
    other = seeded(WanVAE(dim=4))
    other.decoder.head[2].weight *= 1.5
    with pytest.raises(ValueError, match=r"made by another VAE, one whose weights differ .* by 50\.0 %"):
        load(path, wan, decoder=VaeDecoder(other))
    with pytest.raises(ValueError, match="made by another VAE, one of another kind"):
        load(path, wan, decoder=VaeDecoder(seeded(TinyDecoder((8, 6, 4, 4)))))
    words = (
        "the pictures of the take in stream.safetensors are 32x16, and this VAE draws 64x32 of its latents"
    )
    with pytest.raises(ValueError, match=words):
        load(path, wan, decoder=VaeDecoder(seeded(WanVAE(dim=4, upscale=2))))
    with pytest.raises(ValueError, match="give `decoder`, which makes them"):
        load(path, wan)

"""`bench decode`: its rows, with files and without."""

import argparse
import io
import json

import pytest
import torch
from rivulet.model_patches.vae import load, tiny, wan
from rivulet.tests.bench import decode
from rivulet.tests.bench.records import Rows
from safetensors.torch import save_file

TWICE = "wan, twice the size"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Decoders narrow enough for a test, and no built-in weights."""
    monkeypatch.setattr(decode, "WanVAE", lambda **how: wan.WanVAE(4, **how))
    monkeypatch.setattr(decode, "TinyDecoder", lambda: tiny.TinyDecoder((8, 6, 4, 4)))
    monkeypatch.setattr(decode, "WEIGHTS", tmp_path)
    return tmp_path


def rows_of(**options):
    out = io.StringIO()
    given = {"quick": True, "vae": None, "tiny": None, "size": 16, "latents": 2, "repeats": None}
    chosen = argparse.Namespace(**(given | {"device": "cpu", "dtype": "float32"} | options))
    assert decode.run(chosen, Rows("decode", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_random_weights_have_a_speed_and_no_quality(small):
    found = rows_of()
    assert [(row["row"], row["decoder"]) for row in found] == [
        ("speed", "wan"),
        ("speed", TWICE),
        ("speed", "tiny"),
        ("no_quality", "wan"),
        ("no_quality", TWICE),
        ("no_quality", "tiny"),
    ]
    assert all(row["weights"] == "random" for row in found)
    for row in found[:3]:
        assert row["clip_frames"] == 5 and row["pictures_fps"] == 16 * row["of_play_speed_ratio"] > 0
    assert found[0]["past_bytes"] == sum(kept.nbytes for kept in past_of(wan.WanVAE(4)))
    assert found[1]["width_pixels"] == 32 == 2 * found[0]["width_pixels"]
    assert found[1]["past_bytes"] == found[0]["past_bytes"]
    assert found[2]["past_bytes"] == sum(kept.nbytes for kept in past_of(tiny.TinyDecoder((8, 6, 4, 4))))


@torch.no_grad()
def past_of(decoder):
    return decoder.decode(torch.zeros(1, 16, 1, 2, 2))[1]


def test_with_files_a_tiny_decoder_is_held_against_the_vae(small):
    torch.manual_seed(1)
    save_file(wan.WanVAE(4).state_dict(), small / "wan.safetensors")
    save_file(tiny.TinyDecoder((8, 6, 4, 4)).state_dict(), small / "taew2_1.safetensors")
    save_file(wan.WanVAE(4).state_dict(), small / decode.VAE_FILE)
    found = rows_of(vae=small / "wan.safetensors", tiny=small / "taew2_1.safetensors")
    quality = [row for row in found if row["row"] == "quality"]
    assert [(row["decoder"], "vae_psnr_db" in row) for row in quality] == [
        ("wan", False),
        ("tiny", False),
        ("tiny", True),
        ("pocket", False),
    ]
    own, small_one = load.load_vae(small / "wan.safetensors"), load.load_tiny(small / "taew2_1.safetensors")
    latents = decode.encode_stream(own, decode.clip(16, 2))[0]
    theirs, ours = (decode.decode_stream(each, latents)[0] for each in (own, small_one))
    assert quality[2]["vae_psnr_db"] == decode.psnr_db(theirs, ours)


def test_a_file_that_draws_twice_the_size_is_held_against_the_clip_at_its_size(small):
    """Of a head that draws each pixel as a square of four the figures are the plain VAE's."""
    torch.manual_seed(1)
    plain, twice = wan.WanVAE(4), wan.WanVAE(4, upscale=2)
    head = {f"decoder.head.2.{name}" for name in ("weight", "bias")}
    state = plain.state_dict()
    large = {key: value.repeat_interleave(4, 0) if key in head else value for key, value in state.items()}
    assert large.keys() == twice.state_dict().keys()
    save_file(state, small / "wan.safetensors")
    save_file(large, small / "twice.safetensors")
    save_file(tiny.TinyDecoder((8, 6, 4, 4)).state_dict(), small / "taew2_1.safetensors")
    figures = []
    for file, width in (("wan.safetensors", 16), ("twice.safetensors", 32)):
        found = rows_of(vae=small / file, tiny=small / "taew2_1.safetensors")
        assert found[0]["width_pixels"] == width
        figures.append([row[name] for row in found for name in row if name.endswith("psnr_db")])
    assert len(figures[0]) == 3 and figures[0] == pytest.approx(figures[1])

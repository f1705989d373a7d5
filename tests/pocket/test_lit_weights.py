"""The lit decoder's file: what it belongs to, what it leaves as it is, and what the shipped one draws."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.model_patches.vae.load import load_vae
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.pocket import lit_reader, models, verdict, world
from rivulet.pocket.choices import choose, with_look
from rivulet.pocket.held_out import History
from rivulet.pocket.lit_weights import LIT_FILE, enlarged, fingerprint_of_vae, is_lit, load_lit, save_lit
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(5)
    return WanVAE(4).requires_grad_(False).eval()


@pytest.fixture
def file(vae, tmp_path):
    """Returns a lit decoder's file whose tensors differ from those it was begun with."""
    twice = enlarged(vae)
    for key, value in twice.state_dict().items():
        if is_lit(key):
            value += 0.25
    return save_lit(twice, vae, "three steps", History("a list"), tmp_path)


def test_a_decoder_is_begun_as_one_that_repeats_each_pixel(vae):
    latents = torch.randn(1, 16, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    plain, twice = vae.decode(latents)[0], enlarged(vae).decode(latents)[0]
    assert twice.equal(plain.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_a_file_holds_what_differs_and_latents_stay_as_they_are(vae, file):
    lit, own = load_lit(vae, file), load_file(file)
    assert lit.upscale == 2 and not lit.training
    plain = vae.state_dict()
    for key, value in lit.state_dict().items():
        assert value.equal(own[key].float()) if key in own else value.equal(plain[key])
    assert all(is_lit(key) for key in own) and len(own) < len(plain) / 3
    pixels = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    assert lit.encode(pixels)[0].equal(vae.encode(pixels)[0])


def test_a_file_of_another_vae_is_refused(vae, file):
    other = WanVAE(4)
    with pytest.raises(ValueError, match=f"VAE {fingerprint_of_vae(vae)}, and the VAE beside it is "):
        load_lit(other, file)
    with torch.no_grad():
        other.load_state_dict(vae.state_dict())
        other.decoder.conv1.bias += 0.01
    with pytest.raises(ValueError, match="the VAE beside it is"):
        load_lit(other, file)  # the latents are the same, the decoder's first stages are not


def test_a_file_without_some_of_its_tensors_is_refused(vae, file):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    del tensors["decoder.head.2.bias"]
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match=r"other tensors than it needs \(decoder\.head\.2\.bias\)"):
        load_lit(vae, file)
    save_file(tensors, file, {"lit": json.dumps({})})
    with pytest.raises(ValueError, match="VAE that it does not name"):
        load_lit(vae, file)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.to(torch.int8),
        lambda value: value.to(torch.complex64),
        lambda value: value / 0,
        lambda value: value.float() + 1e6,
    ],
    ids=["whole numbers", "complex", "infinite", "beyond half precision"],
)
def test_numbers_that_are_no_weights_are_refused(vae, file, spoil):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    save_file({key: value.float() for key, value in tensors.items()}, file, metadata)
    assert load_lit(vae, file).upscale == 2, "written in float32 they are the same"
    save_file(tensors | {"decoder.head.2.bias": spoil(tensors["decoder.head.2.bias"])}, file, metadata)
    with pytest.raises(ValueError, match=r"no weights in half precision \(decoder\.head\.2\.bias\)"):
        load_lit(vae, file)


def test_a_vae_that_draws_twice_the_size_itself_is_another_one(vae, file):
    with pytest.raises(ValueError, match="the VAE beside it is"):
        load_lit(enlarged(vae), file)


@pytest.mark.parametrize("look", [None, "lit", "plain"])
def test_weights_whose_own_vae_draws_twice_the_size_have_no_look(vae, look):
    """Their videos would be called lit and be gone on with by a file that is not there."""
    pocket = replace(models.load_pocket(), vae=enlarged(vae))
    with pytest.raises(ValueError, match=r"pocket_vae.* draws twice the size itself; .* head has 3 channels"):
        with_look(pocket, look)


def test_a_folder_without_the_file_is_shown_plain(tmp_path):
    pocket = models.load_pocket()
    assert with_look(pocket, None, tmp_path) is pocket
    with pytest.raises(ValueError, match=r"Look lit needs .*train-pocket --only lit"):
        with_look(pocket, "lit", tmp_path)
    with pytest.raises(ValueError, match="there is no 'neon'; there are lit, plain"):
        with_look(pocket, "neon")


def test_a_choice_names_its_look():
    assert choose().look == "plain", "which every figure is of, unless it is told otherwise"
    chosen = choose(look=None)
    assert chosen.look == "lit" and chosen.pocket.vae.upscale == 2


def test_the_shipped_decoder_draws_what_the_latents_show():
    path = models.WEIGHTS / LIT_FILE
    assert path.stat().st_size < 1 << 20
    vae = load_vae(models.WEIGHTS / models.VAE_FILE)
    lit = load_lit(vae, path)
    some = world.sample_scenes(10, torch.Generator().manual_seed(107), band_share=0.0)
    clips = world.render(some, world.simulate(some, 17), 64)
    shares = {"lit": 0, "plain": 0}
    for clip, prompt in zip(clips, some.prompts(), strict=True):
        latents = encode_stream(vae, clip)[0]
        drawn = {
            "lit": lit_reader.flatten(decode_stream(lit, latents)[0]),
            "plain": decode_stream(vae, latents)[0],
        }
        for name, pixels in drawn.items():
            shares[name] += sum(frame.adheres for frame in verdict.judge(pixels, prompt, 16).frames)
    assert shares["lit"] >= 0.97 * 170 and shares["lit"] >= 0.98 * shares["plain"]

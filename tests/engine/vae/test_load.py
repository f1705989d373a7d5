import pytest
import torch
from rivulet.model_patches.vae.load import load_vae
from rivulet.model_patches.vae.wan import WanVAE
from safetensors.torch import save_file

WIDTH_KEY = "decoder.head.0.gamma"
LAST_BIAS = "decoder.head.2.bias"


@pytest.fixture
def weights(vae32):
    """Returns the random weights of the smallest VAE of these tests, to be changed at will."""
    return dict(vae32.state_dict())


@pytest.fixture
def write(tmp_path):
    """Returns what puts tensors into a file: its path."""

    def write(tensors):
        save_file(tensors, tmp_path / "vae.safetensors")
        return tmp_path / "vae.safetensors"

    return write


@pytest.mark.parametrize("dim", [1, 6, 20])
def test_a_saved_vae_of_any_width_comes_back_with_every_weight(write, dim):
    saved = WanVAE(dim).state_dict()
    vae = load_vae(write(saved))
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())
    assert saved.keys() == vae.state_dict().keys()
    assert all(torch.equal(saved[key], value) for key, value in vae.state_dict().items())


def test_a_loaded_vae_computes_what_the_saved_one_does(write, weights, vae32):
    pixels_BCFHW = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    loaded = load_vae(str(write(weights)))
    latents, _ = loaded.encode(pixels_BCFHW)
    assert torch.equal(latents, vae32.encode(pixels_BCFHW)[0])
    assert torch.equal(loaded.decode(latents)[0], vae32.decode(latents)[0])


def test_half_precision_is_read_into_float32_unless_a_dtype_is_given(write, weights):
    halves = {key: value.half() for key, value in weights.items()}
    path = write(halves)
    for key, value in load_vae(path).state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, halves[key].float()), key
    assert {p.dtype for p in load_vae(path, torch.float64).parameters()} == {torch.float64}


def test_a_missing_file_is_named(tmp_path):
    words = r"load_vae: no file at .*absent.safetensors; give the path of a Wan 2.1 VAE"
    with pytest.raises(FileNotFoundError, match=words):
        load_vae(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match=r"load_vae: no file at"):
        load_vae(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1], ids="{} bytes".format)
def test_a_truncated_file_says_to_copy_it_again(write, weights, kept):
    path = write(weights)
    path.write_bytes(path.read_bytes()[:kept])
    words = r"load_vae: .* bytes\) is not a whole safetensors file: .*Copy or download it again"
    with pytest.raises(ValueError, match=words):
        load_vae(path)


def test_a_wan_2_2_vae_is_recognised(write, weights):
    weights["decoder.upsamples.0.upsamples.0.residual.2.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"load_vae: .* is a Wan 2.2 VAE; needs the VAE of Wan 2.1"):
        load_vae(write(weights))


@pytest.mark.parametrize("tensors", [{"blocks.0.ffn.0.weight": torch.zeros(2)}, {WIDTH_KEY: torch.zeros(())}])
def test_what_is_no_vae_is_recognised(write, tensors):
    words = r"is no Wan VAE \(it has no width in decoder.head.0.gamma\); needs the VAE of Wan 2.1"
    with pytest.raises(ValueError, match=words):
        load_vae(write(tensors))


def test_missing_and_unknown_keys_are_counted_and_named(write, weights):
    count = len(weights)
    del weights[LAST_BIAS]
    weights["loss.logvar"] = torch.zeros(3)
    words = (
        rf"load_vae: .* lacks 1 of {count} keys \({LAST_BIAS}\) and has 1 unknown ones \(loss.logvar\); "
        r"only Wan 2.1 VAE files with the published names"
    )
    with pytest.raises(ValueError, match=words):
        load_vae(write(weights))


def test_many_unknown_keys_are_not_all_listed(write, weights):
    weights |= {f"z.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(ValueError, match=r"\(none\) and has 9 unknown ones \(z.0, z.1, z.2, z.3, \.\.\.\)"):
        load_vae(write(weights))


def test_wrong_shapes_are_named_with_both_shapes_and_the_width(write, weights):
    weights[LAST_BIAS] = torch.zeros(4)
    words = (
        rf"load_vae: 1 shapes in .* do not fit together: {LAST_BIAS} is \(4,\), needs \(3,\); "
        r"decoder.head.0.gamma makes it a VAE of width 8"
    )
    with pytest.raises(ValueError, match=words):
        load_vae(write(weights))

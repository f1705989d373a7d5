import pytest
import torch
from rivulet.model_patches.vae.load import load_tiny, load_vae
from rivulet.model_patches.vae.tiny import TinyDecoder
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

    def write(tensors, name="vae"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

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
    words = (
        r"load_vae: .* is the VAE of Wan 2\.2 5B \(48 latent channels.*; a stream needs the VAE of Wan 2\.1"
    )
    with pytest.raises(ValueError, match=words):
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


@pytest.fixture
def tiny_weights():
    """Returns random weights of a narrow tiny decoder, and of the encoder that is published beside it."""
    torch.manual_seed(2)
    return dict(TinyDecoder((8, 6, 4, 4)).state_dict()) | {"encoder.0.weight": torch.zeros(4, 3, 3, 3)}


@pytest.mark.parametrize(
    ("name", "of_vae"), [("taew2_1", False), ("lighttaew2_1", True), ("x_TAEW2_1", False)]
)
def test_a_tiny_decoder_comes_back_with_every_weight_and_the_units_of_its_name(
    write, tiny_weights, name, of_vae
):
    decoder = load_tiny(write({k: t.half() for k, t in tiny_weights.items()}, name), torch.float64)
    assert decoder.takes_vae_units is of_vae and not decoder.training
    kept = decoder.state_dict()
    assert kept.keys() == {key for key in tiny_weights if not key.startswith("encoder.")}
    assert all(torch.equal(value, tiny_weights[key].half().double()) for key, value in kept.items())


def test_a_name_that_tells_nothing_needs_the_units_told(write, tiny_weights):
    path = write(tiny_weights, "taehv")
    with pytest.raises(
        ValueError, match=r"load_tiny: taehv.safetensors is laid out like .* HunyuanVideo's.*give"
    ):
        load_tiny(path)
    assert load_tiny(path, takes_vae_units=True).takes_vae_units


@pytest.mark.parametrize(
    ("channels", "kind"), [(48, "Wan 2.2 5B"), (32, "HunyuanVideo 1.5"), (7, "another model")]
)
def test_a_tiny_decoder_of_other_latents_is_named(write, tiny_weights, channels, kind):
    tiny_weights["decoder.1.weight"] = torch.zeros(8, channels, 3, 3)
    words = (
        rf"load_tiny: .* is a tiny decoder for {kind} \({channels} latent channels\); a stream has Wan 2.1's"
    )
    with pytest.raises(ValueError, match=words):
        load_tiny(write(tiny_weights, "taew2_2"))


def test_each_kind_of_file_is_sent_to_its_reader(write, weights, tiny_weights):
    with pytest.raises(ValueError, match=r"is a tiny decoder \(TAEHV\); read it with load_tiny"):
        load_vae(write(tiny_weights))
    with pytest.raises(ValueError, match="is no tiny decoder but a whole VAE; read it with load_vae"):
        load_tiny(write(weights))
    with pytest.raises(
        ValueError, match=r"no tiny decoder of the TAEHV family \(it has no decoder.22.bias, "
    ):
        load_tiny(write({"blocks.0.ffn.0.weight": torch.zeros(2)}))


def test_keys_and_shapes_of_a_tiny_decoder_are_all_accounted_for(write, tiny_weights):
    lacking = {key: value for key, value in tiny_weights.items() if key != "decoder.7.conv.weight"}
    with pytest.raises(
        ValueError, match=r"lacks 1 of .* \(decoder.7.conv.weight\) and has 1 unknown .* \(more\)"
    ):
        load_tiny(write(lacking | {"more": torch.zeros(1)}, "taew2_1"))
    grown = tiny_weights | {"decoder.7.conv.weight": torch.zeros(16, 8, 1, 1)}
    with pytest.raises(
        ValueError, match=r"1 shapes in .*: decoder.7.conv.weight is .*, needs \(8, 8, 1, 1\)"
    ):
        load_tiny(write(grown, "taew2_1"))


def test_a_pickled_file_is_sent_for_its_safetensors(tmp_path, tiny_weights):
    torch.save(tiny_weights, tmp_path / "taew2_1.pth")
    with pytest.raises(ValueError, match=r"of a .pth file take the .safetensors of the same name"):
        load_tiny(tmp_path / "taew2_1.pth")

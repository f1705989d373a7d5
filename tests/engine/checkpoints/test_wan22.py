"""Files that no stream can run are refused by what they are; experts of Wan 2.2 are told by their names."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import BANDS
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.checkpoints.wan22 import expert_warning
from safetensors.torch import save_file

SIZES = WanConfig(dim=128, ffn_dim=40, num_layers=1, num_heads=1, text_dim=10)


@pytest.fixture
def write(tmp_path):
    """Returns what writes a model of these sizes under a name: its path."""

    def write(sizes, name="model"):
        path = tmp_path / f"{name}.safetensors"
        save_file(WanModel(sizes).state_dict(), path)
        return path

    return write


@pytest.mark.parametrize(
    ("taken", "given", "words"),
    [
        (
            48,
            48,
            r"is Wan 2\.2 5B \(48 latent channels, 16 pixels a latent\), whose VAE cannot be streamed here, "
            r"or LongLive 2\.0, which is made from it\. A stream needs",
        ),
        (36, 16, "is an image-to-video model, which takes 36 latent channels and gives 16; Wan 2.1 text to"),
        (48, 16, "is a control model, which takes 48 latent channels and gives 16; Wan 2.1 text to video"),
    ],
    ids=["5B", "image to video", "control"],
)
def test_a_model_that_no_stream_can_run_is_refused_by_what_it_is(write, taken, given, words):
    path = write(replace(SIZES, in_channels=taken, out_channels=given))
    with pytest.raises(ValueError, match=rf"open_checkpoint: .* {words}"):
        open_checkpoint(path)


def test_longlive_2_is_refused_by_its_channels_whatever_its_weights_are_packed_in(tmp_path):
    """As its 4-bit file is: linear weights under other names, and the patch embedding as it was."""
    sizes = replace(SIZES, in_channels=48, out_channels=48)
    packed = {
        key.replace(".weight", ".quantized_weight_values") if value.ndim == 2 else key: value.byte()
        if value.ndim == 2
        else value
        for key, value in WanModel(sizes).state_dict().items()
    }
    torch.save({"generator": packed}, tmp_path / "model_4o6.pt")
    with pytest.raises(ValueError, match=r"model_4o6\.pt is Wan 2\.2 5B .* or LongLive 2\.0, which is made"):
        open_checkpoint(tmp_path / "model_4o6.pt")


def test_weights_for_remembering_beside_the_others_are_named(tmp_path):
    """Self Gradient Forcing Plus has every layer of a block twice."""
    state = WanModel(SIZES).state_dict()
    more = {"blocks.0.self_attn.q.memory_weight": torch.zeros(2, 2), "head.memory_modulation": torch.zeros(1)}
    for added in ({key: value} for key, value in more.items()):
        torch.save({"generator_ema": state | added}, tmp_path / "model.pt")
        with pytest.raises(
            ValueError, match=r"is Self Gradient Forcing Plus, which .*chunkwise/ar/model\.pt"
        ):
            open_checkpoint(tmp_path / "model.pt")


def test_a_videomla_file_of_other_channels_is_refused_too(tmp_path):
    sizes = replace(SIZES, in_channels=48, out_channels=48)
    model = MlaModel(sizes, MlaSizes(8, 12, BANDS["truncated"](128, 32), frozenset()))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "m.safetensors"
    )
    with pytest.raises(ValueError, match=r"open_checkpoint: .* is Wan 2\.2 5B"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "high"),
        ("models/wan2.2_t2v_low_noise_14B_fp16.safetensors", "low"),
        ("Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf", "high"),
        ("Wan2_2-T2V-A14B-LOW_fp8_e4m3fn_scaled.safetensors", "low"),
        ("wan2.1_t2v_14B_bf16.safetensors", None),
        ("Wan2_1-T2V-14B_fp8_e4m3fn.safetensors", None),
        ("slow_noisemaker.safetensors", None),
        ("self_forcing_dmd.safetensors", None),
    ],
)
def test_experts_are_told_by_their_published_names(name, half):
    warning = expert_warning(name)
    assert (warning is None) == (half is None)
    assert half is None or f"the {half}-noise expert of Wan 2.2 14B" in warning


def test_an_expert_is_read_with_a_warning(write, recwarn):
    open_checkpoint(write(SIZES)).load()
    assert not recwarn.list
    path = write(SIZES, "wan2.2_t2v_high_noise_14B")
    with pytest.warns(UserWarning, match=r"Checkpoint: wan2\.2_t2v_high_noise_14B\..* is called"):
        assert open_checkpoint(path).load().config == SIZES

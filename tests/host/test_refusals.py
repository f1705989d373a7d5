"""Models that a stream cannot run are refused by what they are, through the classes of this ComfyUI."""

import pytest

HINT = "a stream needs Wan 2.1 text-to-video"


def test_an_image_model_is_refused(comfyui):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from rivulet.nodes.host.tree import why_not

    refusal = why_not(UNetModel.__new__(UNetModel))
    assert "the loaded model is a UNetModel, which has no patch_size" in refusal and HINT in refusal


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("img_emb", "an image-to-video model"),
        ("ref_conv", "a model with a reference picture"),
        ("vace_blocks", "a VACE model"),
        ("control_adapter", "a camera model"),
    ],
)
def test_a_wan_model_that_needs_more_than_text_is_refused(load, monkeypatch, part, what):
    import torch
    from rivulet.nodes.host.tree import why_not

    model = load("plain").model.diffusion_model
    assert why_not(model) is None
    before = getattr(model, part, None)
    setattr(model, part, torch.nn.Identity())
    refusal = why_not(model)
    setattr(model, part, before)
    assert f"with {part}, {what}" in refusal and HINT in refusal


@pytest.mark.parametrize(
    ("taken", "given", "words"),
    [
        (48, 48, "a WanModel, Wan 2.2 5B (48 latent channels, 16 pixels a latent), whose VAE cannot"),
        (36, 16, "an image-to-video model, which takes 36 latent channels and gives 16"),
        (16, 32, "another variant of Wan, which takes 16 latent channels and gives 32"),
        (8, 8, "another variant of Wan, which takes 8 latent channels and gives 8"),
    ],
    ids=["5B", "inputs", "outputs", "others"],
)
def test_other_latent_channels_are_refused(load, monkeypatch, taken, given, words):
    from rivulet.nodes.host.tree import why_not

    model = load("plain").model.diffusion_model
    monkeypatch.setattr(model, "in_dim", taken)
    monkeypatch.setattr(model, "out_dim", given)
    refusal = why_not(model)
    assert words in refusal and "; a stream needs 16 in and out, as Wan 2.1" in refusal


def test_the_vae_of_wan_2_2_is_named(vae, monkeypatch):
    from rivulet.nodes.host.decoder import why_not_vae

    monkeypatch.setattr(vae, "latent_channels", 48)
    refusal = why_not_vae(vae)
    assert "the VAE is the VAE of Wan 2.2 5B (48 latent channels, 16 pixels a latent)" in refusal
    assert "a stream needs the VAE of Wan 2.1" in refusal


def test_the_hosts_own_model_of_wan_2_2_5b_is_refused_by_name(comfyui):
    """As the host itself makes it of a file with those sizes, narrower and with fewer layers."""
    import torch
    from comfy.ldm.wan.model import WanModel
    from rivulet.nodes.host.tree import why_not

    with torch.device("meta"):
        sizes = {"dim": 128, "ffn_dim": 64, "num_layers": 1, "num_heads": 1, "text_dim": 8}
        import comfy.ops

        model = WanModel(
            model_type="t2v", in_dim=48, out_dim=48, operations=comfy.ops.disable_weight_init, **sizes
        )
    assert "Wan 2.2 5B" in why_not(model)


def test_an_expert_of_wan_2_2_is_told_by_its_file(load, models, prompt, caplog):
    from rivulet.model_patches.geometry import Geometry
    from rivulet.model_patches.stream.config import StreamConfig
    from rivulet.nodes.doctor import fitness
    from rivulet.tests.host.streams import HostRun

    import nodes

    assert "Caution" not in fitness(load("plain"), None)
    name = "wan2.2_t2v_low_noise_14B.safetensors"
    (models / name).symlink_to(models / "plain.safetensors")
    (model,) = nodes.UNETLoader().load_unet(name, "default")
    assert f"{name} is called like the low-noise expert" in fitness(model, None)["Caution"]
    HostRun(model, prompt(0), [], StreamConfig(Geometry(32, 32)))
    assert "is called like the low-noise expert of Wan 2.2 14B" in caplog.text


@pytest.mark.parametrize("node", ["RivuletStream", "RivuletPlan", "RivuletResume"])
def test_what_is_no_number_is_refused_in_words(comfyui, node):
    """The host's limits let NaN pass, which the JSON of a client may hold."""
    import inspect

    from rivulet.nodes.plan import RivuletPlan
    from rivulet.nodes.resume import RivuletResume
    from rivulet.nodes.stream import RivuletStream

    (kind,) = (each for each in (RivuletPlan, RivuletResume, RivuletStream) if each.__name__ == node)
    named = inspect.signature(kind.execute).parameters
    numbers = {each.id: each.default for each in kind.define_schema().inputs if each.io_type == "FLOAT"}
    assert numbers
    for name in numbers:
        given = dict.fromkeys(named) | numbers | {name: float("nan")}
        with pytest.raises(ValueError, match=rf": {name} is not a number \(NaN\); send one\."):
            kind.execute(**given)

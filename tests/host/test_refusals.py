"""Models that a stream cannot run are refused by what they are, through the classes of this ComfyUI."""

import pytest

HINT = "a stream needs Wan 2.1 text-to-video"


def test_an_image_model_is_refused(comfyui):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from rivulet.nodes.host_tree import why_not

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
    from rivulet.nodes.host_tree import why_not

    model = load("plain").model.diffusion_model
    assert why_not(model) is None
    before = getattr(model, part, None)
    setattr(model, part, torch.nn.Identity())
    refusal = why_not(model)
    setattr(model, part, before)
    assert f"with {part}, {what}" in refusal and HINT in refusal


@pytest.mark.parametrize(("taken", "given"), [(48, 48), (36, 16), (16, 32)], ids=["5B", "inputs", "outputs"])
def test_other_latent_channels_are_refused(load, monkeypatch, taken, given):
    from rivulet.nodes.host_tree import why_not

    model = load("plain").model.diffusion_model
    monkeypatch.setattr(model, "in_dim", taken)
    monkeypatch.setattr(model, "out_dim", given)
    assert f"takes {taken} latent channels and gives {given}; a stream needs 16 and 16" in why_not(model)

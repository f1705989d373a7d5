"""LoRA files as people have them, loaded by the node, beside what ComfyUI's own code makes of their keys."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.checkpoints.lora_file import lora_from
from rivulet.tests.engine.checkpoints.published_files import BY_NAME, SMALL, extracted, lora_of
from rivulet.tests.host.loading import close, own_stream, streamed
from safetensors.torch import save_file

MODEL, STRENGTH = "diffusion_model.", 0.5
FILE = BY_NAME["self_forcing"].file


@pytest.fixture
def base(written):
    """Returns the model that `FILE` was written from."""
    return written("self_forcing")


@pytest.fixture
def keep(folders):
    """Returns a function that writes a LoRA's file."""

    def keep(tensors, name="lora.safetensors"):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folders / "loras" / name)
        return {"lora_file": name, "lora_strength": STRENGTH}

    return keep


def weights_of(model):
    """The parameters that a MODEL runs with."""
    model.patch_model()
    try:
        return {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    finally:
        model.unpatch_model()


def comfys_own(tensors, model):
    """What ComfyUI's code makes of the same keys; a modulation's under the name by which it knows that."""
    import comfy.lora

    known = {key.replace(".diff_m", ".modulation.diff"): value for key, value in tensors.items()}
    patches = comfy.lora.load_lora(known, comfy.lora.model_lora_keys_unet(model.model, {}))
    return {
        key.removeprefix(MODEL): comfy.lora.calculate_weight(
            [(STRENGTH, patch, 1.0, None, None)], model.model.state_dict()[key].clone(), key
        )
        for key, patch in patches.items()
    }


def test_every_change_of_an_extracted_lora_is_made_as_comfyuis_own_code_makes_it(load_file, base, keep):
    """LightX2V's keys: pairs, diff, diff_b, diff_m, together all parameters of the model."""
    tensors, changes = extracted(base, 4)
    tensors = {MODEL + key: value for key, value in tensors.items()}
    model, report = load_file(FILE, **keep(tensors))
    whole = len(changes) - 20
    assert (
        "lora.safetensors: 20 layers, rank 4, scale 1, alpha taken as the rank: the file has none, "
        f"{whole} tensors added as they stand, strength 0.5." in report
    )
    assert "Left out" not in report
    got, wanted = weights_of(model), comfys_own(tensors, model)
    assert got.keys() == wanted.keys() == changes.keys()
    assert [key for key in got if not torch.equal(got[key], wanted[key])] == []
    for key, (change, terms) in changes.items():
        old = base.state_dict()[key].double()
        wide = 16 * torch.finfo(torch.float32).eps * (old.abs() + terms)  # six roundings, sums of four
        assert ((got[key].double() - old - STRENGTH * change).abs() <= wide).all(), key
    assert all(
        torch.equal(value, base.state_dict()[key])
        for key, value in model.model.diffusion_model.state_dict().items()
    )


@pytest.mark.parametrize("begin", ["lora_unet_", "lora_unet__"], ids=["kohya", "Wan Fun"])
def test_names_with_underscores_are_those_of_the_same_layers(load_file, base, keep, begin):
    import comfy.lora_convert

    alphas = {}
    for key, value in lora_of(base, 4).items():
        layer, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        name = begin + layer.replace(".", "_")
        alphas[f"{name}.alpha"] = torch.tensor(2.0)
        alphas[f"{name}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = value
    model, report = load_file(FILE, **keep(alphas))
    assert "lora.safetensors: 20 layers, rank 4, scale 0.5, strength 0.5." in report
    got, wanted = weights_of(model), comfys_own(comfy.lora_convert.convert_lora(dict(alphas)), model)
    assert len(wanted) == 20 and all(torch.equal(got[key], value) for key, value in wanted.items())


def test_a_stream_runs_with_all_of_it(load_file, base, keep, make_text):
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config

    tensors, _ = extracted(base, 4)
    model, _ = load_file(FILE, **keep(tensors) | {"lora_strength": 1.0})
    config = replace(stream_config(model, 32, 48, FROM_MODEL, 0, 0.0), sigmas=(1.0, 0.6))
    text = [[make_text, {}]]
    got, _ = streamed(model, text, config)
    merged = lora_from("test", tensors).merge(base)
    assert close(got, own_stream(merged, text, config, model))
    parts = {key: value for key, value in tensors.items() if not key.endswith(".diff_m")}
    without = own_stream(lora_from("test", parts).merge(base), text, config, model)
    assert not close(got, without), "modulations"


@pytest.fixture
def make_text():
    """Returns a prompt's states."""
    return torch.randn(1, 6, SMALL.text_dim, generator=torch.Generator().manual_seed(5))


def test_the_host_passes_over_the_patch_of_a_modulation(load_file, base):
    """Why they are added otherwise; the day this fails, the host's own way is enough."""
    model, _ = load_file(FILE)
    keys = [f"{MODEL}blocks.0.modulation", f"{MODEL}head.modulation"]
    ones = {key: ("diff", (torch.ones_like(model.model.state_dict()[key]),)) for key in keys}
    assert sorted(model.add_patches(ones)) == sorted(keys)
    got = weights_of(model)
    assert all(
        torch.equal(got[key.removeprefix(MODEL)], base.state_dict()[key.removeprefix(MODEL)]) for key in keys
    )


def test_two_loras_are_added_one_after_the_other_and_no_model_is_changed_by_another(
    load_file, base, keep, folders
):
    from rivulet.nodes.host.load_model import with_lora

    first, _ = load_file(FILE, **keep({"blocks.0.diff_m": torch.ones(1, 6, SMALL.dim)}))
    keep({"blocks.0.diff_m": 2 * torch.ones(1, 6, SMALL.dim)}, "other.safetensors")
    both, _, _ = with_lora(first, folders / "loras" / "other.safetensors", 1.0)
    plain, _ = load_file(FILE)
    old = base.blocks[0].modulation
    for model, change in ((first, STRENGTH), (both, STRENGTH + 2), (plain, 0), (first, STRENGTH)):
        torch.testing.assert_close(weights_of(model)["blocks.0.modulation"], old + change, rtol=0, atol=1e-6)


def test_weights_of_one_byte_take_a_modulation_in_full(load_file, base, keep):
    change = torch.full((1, 6, SMALL.dim), 2**-6)
    model, _ = load_file(FILE, **keep({"blocks.0.diff_m": change}), weight_dtype="fp8_e4m3fn")
    stored = base.blocks[0].modulation.to(torch.float8_e4m3fn).float()
    assert torch.equal(weights_of(model)["blocks.0.modulation"], stored + STRENGTH * change)


def test_what_has_no_place_is_named_and_the_rest_is_taken(load_file, base, keep):
    """A LoRA for pictures, as LightX2V's and SVI's are, on a model for text."""
    tensors = lora_of(base, 4)
    wide = SMALL.dim
    more = {
        "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.zeros(4, wide),
        "diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight": torch.zeros(wide, 4),
        "diffusion_model.blocks.0.cross_attn.k_img.diff_b": torch.zeros(wide),
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.zeros(wide),
        "diffusion_model.patch_embedding.diff": torch.zeros(wide, 36, 1, 2, 2),
        "diffusion_model.blocks.1.self_attn.q.dora_scale": torch.ones(wide, 1),
    }
    model, report = load_file(FILE, **keep(tensors | more))
    assert "lora.safetensors: 19 layers" in report
    assert (
        "Left out of the LoRA: 3 are not in the model: blocks.0.cross_attn.k_img, "
        "blocks.0.cross_attn.k_img.bias, blocks.0.cross_attn.norm_k_img.weight; 1 is of another size: "
        "patch_embedding.weight [256, 36, 1, 2, 2], the model's [256, 16, 1, 2, 2]; 1 is in a form that is "
        "not read: blocks.1.self_attn.q.\n"
    ) in report
    got, own = weights_of(model), base.state_dict()
    changed = {key for key, value in got.items() if not torch.equal(value, own[key])}
    names = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in tensors}
    assert changed == {f"{name}.weight" for name in names - {"blocks.1.self_attn.q"}}


@pytest.mark.parametrize("other", ["a wider model", "more than half"])
def test_a_lora_of_another_model_is_refused_with_what_does_not_fit(load_file, base, keep, other):
    tensors = lora_of(base, 2)
    if other == "a wider model":
        tensors = {
            key: torch.zeros([2 * size if size > 2 else size for size in value.shape])
            for key, value in tensors.items()
        }
    else:
        tensors = {
            key.replace("blocks.1.", "blocks.7.").replace("blocks.0.ffn", "blocks.9.ffn"): value
            for key, value in tensors.items()
        }
    words = r"is a LoRA of another model. Of its 20 changes (1\d|20) are .*blocks.*Choose the one"
    with pytest.raises(ValueError, match=words):
        load_file(FILE, **keep(tensors))

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rivulet.model_patches.vae.wan import CausalConv3d, RMSNorm, WanVAE
from torch import nn

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}

PARTS = [
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.downsamples\.", ".down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
]


def renamed(key: str) -> str:
    """The key of diffusers' AutoencoderKLWan for a key of the published checkpoint."""
    for pattern, name in PARTS:
        key = re.sub(pattern, name, key)
    if flat := re.search(r"\.upsamples\.(\d+)\.", key):
        level, place = divmod(int(flat[1]), 4)
        name = "upsamplers.0" if place == 3 else f"resnets.{place}"
        key = key.replace(flat[0], f".up_blocks.{level}.{name}.")
    return key


@pytest.fixture(scope="module")
def theirs(vae32):
    """diffusers' VAE with the same weights, as (float32, float64)."""
    module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")
    models = []
    for dtype in EPS:
        model = module.AutoencoderKLWan(base_dim=8)
        model.load_state_dict({renamed(key): value for key, value in vae32.state_dict().items()})
        models.append(model.to(dtype).eval())
        for part in models[-1].modules():
            if isinstance(part, module.WanUpsample):
                part.forward = nn.Upsample.forward.__get__(part)  # theirs goes through float32
    return models


def statistics(model, like: torch.Tensor) -> list[torch.Tensor]:
    """Mean and spread of each latent channel, from the model's own config."""
    return [
        like.new_tensor(values).view(1, 16, 1, 1, 1)
        for values in (model.config.latents_mean, model.config.latents_std)
    ]


def decode_of(model, latents: torch.Tensor) -> torch.Tensor:
    x = latents.to(next(model.parameters()).dtype)
    mean, std = statistics(model, x)
    with torch.no_grad():
        return model.decode(x * std + mean).sample.double()


def encode_of(model, pixels: torch.Tensor) -> torch.Tensor:
    x = pixels.to(next(model.parameters()).dtype)
    mean, std = statistics(model, x)
    with torch.no_grad():
        return ((model.encode(x).latent_dist.mode() - mean) / std).double()


def worst(got: torch.Tensor, exact: torch.Tensor) -> float:
    return (got.double() - exact).abs().max().item()


def test_whole_decode_agrees_with_diffusers(vae32, vae64, theirs, latents):
    exact = decode_of(theirs[1], latents)
    assert exact.std() > 0.3 and (exact.abs() < 1).double().mean() > 0.5, "too much is clamped to tell"
    rounding = EPS[torch.float32] * exact.abs().max().item()
    reference = worst(decode_of(theirs[0], latents), exact)
    got = vae32.decode(latents.float())[0].clamp(-1, 1)
    assert got.shape == exact.shape
    assert worst(got, exact) <= 2 * reference + rounding
    # in float64 both err less by the ratio of the roundings
    shrink = EPS[torch.float64] / EPS[torch.float32]
    assert worst(vae64.decode(latents)[0].clamp(-1, 1), exact) <= 4 * (reference + rounding) * shrink


def test_whole_encode_agrees_with_diffusers(vae32, vae64, theirs, pixels):
    exact = encode_of(theirs[1], pixels)
    assert exact.std() > 0.1
    rounding = EPS[torch.float32] * exact.abs().max().item()
    reference = worst(encode_of(theirs[0], pixels), exact)
    got = vae32.encode(pixels.float())[0]
    assert got.shape == exact.shape
    assert worst(got, exact) <= 2 * reference + rounding
    shrink = EPS[torch.float64] / EPS[torch.float32]
    assert worst(vae64.encode(pixels)[0], exact) <= 4 * (reference + rounding) * shrink


def decode_cut(vae: WanVAE, latents: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    past, parts = None, []
    for a, b in pairwise([0, *cuts, latents.shape[2]]):
        part, past = vae.decode(latents[:, :, a:b], past)
        parts.append(part)
    return torch.cat(parts, 2)


def encode_cut(vae: WanVAE, pixels: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """Cut after so many groups; the first frame is a group of its own."""
    past, parts = None, []
    ends = [0, *(1 + 4 * (groups - 1) for groups in cuts), pixels.shape[2]]
    for a, b in pairwise(ends):
        part, past = vae.encode(pixels[:, :, a:b], past)
        parts.append(part)
    return torch.cat(parts, 2)


@pytest.mark.parametrize("frames", [3, 4, 7, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), ((3, 1, 1), 2), (1, 1)], ids=str)
def test_small_clips_are_convolved_as_large_ones(kernel, stride, frames):
    conv = CausalConv3d(5, 7, kernel, stride).double()
    x = torch.randn(1, 5, frames, 6, 4, dtype=torch.float64)
    plain = torch.nn.functional.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    assert worst(conv(x), plain) <= 100 * EPS[torch.float64]
    conv(x).square().sum().backward()
    got = conv.weight.grad.clone()
    conv.weight.grad = None
    torch.nn.functional.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding).square().sum().backward()
    assert worst(got, conv.weight.grad) <= 1e-13 * conv.weight.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0, 0.0])
def test_channels_are_scaled_to_the_same_length(dtype, scale):
    x = (torch.randn(2, 24, 3, 2, 2, dtype=torch.float64) * scale).to(dtype)
    norm = RMSNorm(24, 3).to(dtype).requires_grad_(False)
    norm.gamma.normal_()
    exact = nn.functional.normalize(x.double(), dim=1) * 24**0.5 * norm.gamma.double()
    got = norm(x)
    assert got.dtype == dtype
    assert worst(got, exact) <= 4 * torch.finfo(dtype).eps * max(exact.abs().max().item(), 1e-30)


CUTS = [[1, 2, 3, 4, 5], [2, 4], [3], [1], [4], [5]]
names = pytest.mark.parametrize("cuts", CUTS, ids=str)


@pytest.fixture(scope="module")
def whole(vae32, vae64, latents, pixels):
    return {
        "decode64": vae64.decode(latents)[0],
        "encode64": vae64.encode(pixels)[0],
        "decode32": vae32.decode(latents.float())[0],
        "encode32": vae32.encode(pixels.float())[0],
    }


@names
def test_cut_decode_equals_whole_decode(vae32, vae64, latents, whole, cuts):
    assert worst(decode_cut(vae64, latents, cuts), whole["decode64"]) <= 1e-12
    own_error = worst(whole["decode32"], whole["decode64"])
    cut = decode_cut(vae32, latents.float(), cuts)
    assert cut.shape == whole["decode32"].shape
    assert worst(cut, whole["decode64"]) <= 2 * own_error


@names
def test_cut_encode_equals_whole_encode(vae32, vae64, pixels, whole, cuts):
    assert worst(encode_cut(vae64, pixels, cuts), whole["encode64"]) <= 1e-12
    own_error = worst(whole["encode32"], whole["encode64"])
    assert worst(encode_cut(vae32, pixels.float(), cuts), whole["encode64"]) <= 2 * own_error


@settings(max_examples=8)
@given(st.sets(st.integers(1, 5)).map(sorted))
def test_any_cut_equals_the_whole(vae64, latents, pixels, whole, cuts):
    assert worst(decode_cut(vae64, latents, cuts), whole["decode64"]) <= 1e-12
    assert worst(encode_cut(vae64, pixels, cuts), whole["encode64"]) <= 1e-12


def test_later_input_does_not_change_earlier_output(vae64, latents, pixels, whole):
    changed = latents.clone()
    changed[:, :, 3:] += 1
    assert torch.equal(vae64.decode(changed)[0][:, :, :9], whole["decode64"][:, :, :9])
    moved = pixels.clone()
    moved[:, :, 9:] *= -1
    assert torch.equal(vae64.encode(moved)[0][:, :, :3], whole["encode64"][:, :, :3])


def test_two_streams_share_one_vae(vae64, latents, whole):
    one, first = vae64.decode(latents[:, :, :2])
    other, second = vae64.decode(-latents[:, :, :3])
    rest, _ = vae64.decode(latents[:, :, 2:], first)
    assert worst(torch.cat([one, rest], 2), whole["decode64"]) <= 1e-12
    again, _ = vae64.decode(-latents[:, :, 3:], second)
    assert worst(torch.cat([other, again], 2), vae64.decode(-latents)[0]) <= 1e-12


def test_the_past_is_a_value_of_its_own(vae64, latents):
    _, past = vae64.decode(latents[:, :, :2])
    before = [t.clone() for t in past]
    first, _ = vae64.decode(latents[:, :, 2:4], past)
    assert all(torch.equal(a, b) for a, b in zip(before, past, strict=True))
    assert torch.equal(vae64.decode(latents[:, :, 2:4], past)[0], first)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.itemsize for t in past), "a view keeps more"


def test_the_past_does_not_grow(vae64, latents):
    _, early = vae64.decode(latents[:, :, :2])
    _, late = vae64.decode(latents)
    assert [t.shape for t in early] == [t.shape for t in late]


def test_rows_of_a_batch_are_independent(vae64, latents, whole):
    both = vae64.decode(torch.cat([-latents, latents]))[0]
    assert worst(both[1:], whole["decode64"]) <= 1e-12


@pytest.mark.parametrize(("frames", "started"), [(2, False), (4, False), (0, False), (6, True)])
def test_groups_that_are_not_full_are_refused(vae32, frames, started):
    past = vae32.encode(torch.zeros(1, 3, 1, 16, 16))[1] if started else None
    with pytest.raises(ValueError, match=f"got {frames} frames, needs .*a multiple of 4"):
        vae32.encode(torch.zeros(1, 3, frames, 16, 16), past)


def test_no_latents_are_refused(vae32):
    with pytest.raises(ValueError, match="got 0 latent frames, needs 1 or more"):
        vae32.decode(torch.zeros(1, 16, 0, 2, 2))


def test_a_past_of_another_vae_is_refused(vae32):
    latents = torch.zeros(1, 16, 1, 2, 2)
    past = vae32.decode(latents)[1]
    for wrong in (past[:-1], (*past, past[0]), ()):
        with pytest.raises(ValueError, match=f"past holds {len(wrong)} tensors, the layers keep others"):
            vae32.decode(latents, wrong)
    with pytest.raises(ValueError, match="the past holds"):
        vae32.encode(torch.zeros(1, 3, 4, 16, 16), vae32.encode(torch.zeros(1, 3, 1, 16, 16))[1][:-1])


def test_any_width_has_the_published_names():
    weights = WanVAE(dim=24).state_dict()
    assert weights["decoder.head.0.gamma"].shape == (24, 1, 1, 1)
    assert weights["encoder.downsamples.5.time_conv.weight"].shape == (48, 48, 3, 1, 1)
    assert weights["decoder.upsamples.3.time_conv.bias"].shape == (192,)
    assert weights["conv1.weight"].shape == (32, 32, 1, 1, 1)

"""Whether a VAE is the same in pieces: sums in another order pass in bfloat16, what is wrong does not."""

import pytest
import torch
import torch.nn.functional as F

CONVOLUTIONS = ("conv2d", "conv3d")


@pytest.fixture(params=["wan", "tiny", "encoder"])
def kind(request):
    """Returns (a class that checks itself, the file of a VAE for it)."""
    from rivulet.nodes.host.encoder import HostEncoder
    from rivulet.nodes.host.tiny_vae import HostTinyDecoder
    from rivulet.nodes.host.vae import HostDecoder

    kinds = {
        "wan": (HostDecoder, "vae"),
        "tiny": (HostTinyDecoder, "lighttaew2_1"),
        "encoder": (HostEncoder, "vae"),
    }
    return kinds[request.param]


@pytest.fixture
def half(load_vae, kind):
    """Returns the VAE in bfloat16, as cards from RTX 30 on run it."""
    vae = load_vae(kind[1])
    vae.first_stage_model.bfloat16()
    vae.vae_dtype = torch.bfloat16
    return vae


@pytest.fixture
def differences(monkeypatch):
    """Returns the largest difference of each check, as a list that grows."""
    from rivulet.nodes.host import encoder, tiny_vae, vae
    from rivulet.nodes.host.same import refuse_other

    seen = []

    def watched(streamed, whole, *about):
        seen.append((streamed.float() - whole.float()).abs().max().item())
        refuse_other(streamed, whole, *about)

    for module in (encoder, tiny_vae, vae):
        monkeypatch.setattr(module, "refuse_other", watched)
    return seen


def in_two_halves(convolve):
    """The convolution, each half of its input channels summed and rounded apart."""

    def summed(x, weight, bias=None, *how, **named):
        if len(weight[0]) % 2:
            return convolve(x, weight, bias, *how, **named)
        parts = zip(x.chunk(2, 1), weight.chunk(2, 1), (bias, None), strict=True)
        return sum(convolve(*part, *how, **named) for part in parts)

    return summed


def test_sums_in_another_order_are_no_fault(kind, half, differences, monkeypatch):
    piece = kind[0]._piece

    def another_order(self, *given):
        with monkeypatch.context() as patch:
            for name in CONVOLUTIONS:
                patch.setattr(F, name, in_two_halves(getattr(F, name)))
            return piece(self, *given)

    monkeypatch.setattr(kind[0], "_piece", another_order)
    kind[0](half)
    # more than a level in single numbers, of rounding alone
    assert differences[0] > 1 / 255


@pytest.mark.parametrize("layers", [slice(None), slice(4, 5)], ids=["all layers", "one layer"])
def test_a_past_that_is_lost_is_a_fault_in_half_precision_too(kind, half, layers, monkeypatch):
    piece = kind[0]._piece

    def forgetting(self, given, kept, *how):
        if kept is not None:
            held = list(range(len(kept)))[layers]
            lost = [
                torch.zeros_like(e) if i in held and isinstance(e, torch.Tensor) else e
                for i, e in enumerate(kept)
            ]
            kept[:] = lost
        return piece(self, given, kept, *how)

    monkeypatch.setattr(kind[0], "_piece", forgetting)
    if layers != slice(None) and kind[1] == "vae":
        half.first_stage_model.float()
        half.vae_dtype = torch.float32
    with pytest.raises(RuntimeError, match=r"gives other .* piece by piece than at once"):
        kind[0](half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pictures_that_are_missing_or_moved_are_a_fault(tiny_vae, monkeypatch, dtype):
    from rivulet.nodes.host.same import refuse_other

    monkeypatch.setattr(tiny_vae, "vae_dtype", dtype)
    whole = torch.rand(17, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    refuse_other(whole.clone(), whole, tiny_vae, "decoder", "pictures")
    for wrong in (whole[1:], whole.roll(1, 0), torch.cat([whole[:9], whole[8:-1]]), whole * float("nan")):
        with pytest.raises(RuntimeError, match="other pictures piece by piece than at once"):
            refuse_other(wrong, whole, tiny_vae, "decoder", "pictures")


def test_numbers_that_are_none_are_told_apart_from_a_host_that_changed(kind, load_vae):
    """As a file gives that is damaged, or too large for half precision; in ComfyUI its pictures are black."""
    vae = load_vae(kind[1])
    with torch.no_grad():
        for each in vae.first_stage_model.parameters():
            each.mul_(float("nan"))
    with pytest.raises(RuntimeError, match=r"gives NaN or infinite numbers.* file is damaged"):
        kind[0](vae)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wider_precision_is_advised_where_there_is_one(tiny_vae, monkeypatch, dtype):
    from rivulet.nodes.host.same import refuse_other

    monkeypatch.setattr(tiny_vae, "vae_dtype", dtype)
    none = torch.full((2, 8, 8, 3), float("nan"))
    with pytest.raises(RuntimeError, match="file is damaged") as refused:
        refuse_other(none, none, tiny_vae, "decoder", "pictures")
    assert ("torch.bfloat16 is too narrow" in str(refused.value)) == (dtype == torch.bfloat16)
    assert ("--fp32-vae" in str(refused.value)) == (dtype == torch.bfloat16)

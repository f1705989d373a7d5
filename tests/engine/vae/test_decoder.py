import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rivulet.model_patches.vae.decoder import (
    MAX_LATENTS,
    decode_stream,
    encode_stream,
    from_tensors,
    to_tensors,
)


class Watched:
    """A VAE that notes how many frames each call brought."""

    def __init__(self, vae):
        self.vae, self.calls, self.latent_channels = vae, [], vae.latent_channels
        self.upscale, self.parameters = vae.upscale, vae.parameters

    def decode(self, latents, past=None):
        self.calls.append(latents.shape[2])
        return self.vae.decode(latents, past)

    def encode(self, pixels, past=None):
        self.calls.append(pixels.shape[2])
        return self.vae.encode(pixels, past)


def frames_of(pixels_BCFHW: torch.Tensor) -> torch.Tensor:
    return (pixels_BCFHW[0].permute(1, 2, 3, 0) + 1) / 2


def run(stream, vae, x, dim, cuts, **options):
    past, parts = None, []
    for a, b in pairwise([0, *cuts, x.shape[dim]]):
        part, past = stream(vae, x.narrow(dim, a, b - a), past, **options)
        parts.append(part)
    return parts, past


def cuts_to(end: int) -> st.SearchStrategy:
    """Rising places to cut at, some of them equal: an empty piece changes nothing."""
    return st.lists(st.integers(0, end), max_size=8).map(sorted)


@pytest.fixture(scope="module")
def frames(pixels) -> torch.Tensor:
    """The frames of `pixels` and three more, whose group is not full."""
    more = torch.rand(3, 16, 24, 3, generator=torch.Generator().manual_seed(8)).double()
    return torch.cat([frames_of(pixels), more])


@pytest.fixture(scope="module")
def decoded(vae64, latents) -> torch.Tensor:
    return frames_of(vae64.decode(latents)[0]).clamp(0, 1)


@pytest.fixture(scope="module")
def encoded(vae64, frames) -> torch.Tensor:
    return vae64.encode((frames[:21] * 2 - 1).permute(3, 0, 1, 2)[None])[0]


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 6])
def test_decoding_in_equal_pieces_gives_the_same_frames(vae64, latents, decoded, piece):
    parts, _ = run(decode_stream, vae64, latents, 2, range(piece, 6, piece), dtype=torch.float64)
    assert len(parts[0]) == 1 + 4 * (piece - 1)
    torch.testing.assert_close(torch.cat(parts), decoded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 13, 24])
def test_encoding_in_equal_pieces_gives_the_same_latents(vae64, frames, encoded, piece):
    parts, past = run(encode_stream, vae64, frames, 0, range(piece, 24, piece))
    torch.testing.assert_close(torch.cat(parts, 2), encoded, rtol=0, atol=1e-12)
    assert past.pending.shape[2] == 3


@settings(max_examples=10)
@given(cuts_to(6), st.integers(1, 4))
def test_any_cut_with_a_file_between_decodes_the_same(vae64, latents, decoded, cuts, limit):
    past, parts = None, []
    for a, b in pairwise([0, *cuts, 6]):
        part, past = decode_stream(vae64, latents[:, :, a:b], past, limit, torch.float64)
        parts.append(part)
        past = from_tensors(to_tensors(past))
    torch.testing.assert_close(torch.cat(parts), decoded, rtol=0, atol=1e-12)


@settings(max_examples=10)
@given(cuts_to(24), st.integers(1, 4))
def test_any_cut_with_a_file_between_encodes_the_same(vae64, frames, encoded, cuts, limit):
    past, parts = None, []
    for a, b in pairwise([0, *cuts, 24]):
        part, past = encode_stream(vae64, frames[a:b], past, limit)
        parts.append(part)
        past = from_tensors(to_tensors(past))
    torch.testing.assert_close(torch.cat(parts, 2), encoded, rtol=0, atol=1e-12)


def test_uint8_frames_are_the_nearest_levels(vae64, latents, decoded):
    got, _ = decode_stream(vae64, latents)
    assert got.dtype == torch.uint8 and got.shape == (21, 16, 24, 3) and got.is_contiguous()
    assert (got.double() / 255 - decoded).abs().max() <= 0.5 / 255 + 1e-12


def test_uint8_frames_encode_as_their_levels(vae64, frames):
    levels = (frames[:5] * 255).round()
    got, _ = encode_stream(vae64, levels.to(torch.uint8))
    exact, _ = encode_stream(vae64, levels / 255)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_vae_never_sees_more_than_the_limit(vae32, limit):
    watched = Watched(vae32)
    decode_stream(watched, torch.zeros(1, 16, 9, 2, 2), None, limit)
    assert max(watched.calls) == limit <= MAX_LATENTS == 4 and sum(watched.calls) == 9
    watched.calls.clear()
    encode_stream(watched, torch.zeros(37, 16, 16, 3), None, limit)
    assert watched.calls[0] == 1 + 4 * (limit - 1)
    assert max(watched.calls) <= 4 * limit and sum(watched.calls) == 37


@pytest.mark.parametrize("limit", [0, 5, 120])
def test_other_limits_are_refused(vae32, limit):
    with pytest.raises(ValueError, match=f"max_latents must be 1 to 4, got {limit}"):
        decode_stream(vae32, torch.zeros(1, 16, 1, 2, 2), None, limit)
    with pytest.raises(ValueError, match=f"max_latents must be 1 to 4, got {limit}"):
        encode_stream(vae32, torch.zeros(1, 16, 16, 3), None, limit)


def test_nothing_in_gives_nothing_out(vae32):
    pixels, past = decode_stream(vae32, torch.zeros(1, 16, 0, 2, 3))
    assert pixels.shape == (0, 16, 24, 3) and past is None
    latents, past = encode_stream(vae32, torch.zeros(0, 16, 24, 3))
    assert latents.shape == (1, 16, 0, 2, 3) and past is None
    assert to_tensors(None) == {} and from_tensors({}) is None


def test_a_past_can_be_used_twice(vae32):
    _, past = encode_stream(vae32, torch.rand(3, 16, 16, 3))
    before = {name: t.clone() for name, t in to_tensors(past).items()}
    more = torch.rand(6, 16, 16, 3)
    first, after = encode_stream(vae32, more, past)
    assert torch.equal(encode_stream(vae32, more, past)[0], first)
    assert all(torch.equal(t, before[name]) for name, t in to_tensors(past).items())
    assert all(t.untyped_storage().nbytes() == t.numel() * t.itemsize for t in to_tensors(after).values())


def test_a_file_with_a_gap_is_refused(vae32):
    _, past = decode_stream(vae32, torch.zeros(1, 16, 1, 2, 2))
    named = to_tensors(past)
    del named["layer_003"]
    with pytest.raises(ValueError, match="needs layer_000 onwards without a gap"):
        from_tensors(named)
    with pytest.raises(ValueError, match="got tensors held, needs layer_000"):
        from_tensors({"held": torch.zeros(1)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_latents_that_are_no_numbers_are_refused_by_frame(vae32, bad):
    latents = torch.zeros(1, 16, 3, 2, 2)
    latents[0, 5, 1, 0, 1] = bad
    with pytest.raises(ValueError, match=r"latent frames \[1\] of 3 hold NaN or infinity"):
        decode_stream(vae32, latents)
    frames = torch.zeros(2, 16, 16, 3)
    frames[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="the frames hold NaN or infinity"):
        encode_stream(vae32, frames)


@pytest.mark.parametrize(
    ("latents", "sentence"),
    [
        (torch.zeros(2, 16, 1, 2, 2), r"needs .* one stream \[1, 16, T, H, W\], got \[2, 16, 1, 2, 2\]"),
        (torch.zeros(1, 4, 1, 2, 2), r"got \[1, 4, 1, 2, 2\]"),
        (torch.zeros(16, 1, 2, 2), r"got \[16, 1, 2, 2\]"),
        (torch.zeros(1, 16, 1, 2, 2, dtype=torch.int32), "of torch.int32"),
    ],
    ids=["batch", "channels", "axes", "dtype"],
)
def test_latents_of_another_shape_are_refused(vae32, latents, sentence):
    with pytest.raises(ValueError, match=sentence):
        decode_stream(vae32, latents)


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (torch.zeros(1, 3, 16, 16), r"needs frames \[F, H, W, 3\].*got \[1, 3, 16, 16\]"),
        (torch.zeros(16, 16, 3), r"got \[16, 16, 3\]"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.int64), "of torch.int64"),
        (torch.zeros(1, 16, 20, 3), "multiples of 8 pixels, got 20x16"),
        (torch.zeros(1, 0, 16, 3), "multiples of 8 pixels, got 16x0"),
    ],
    ids=["axes", "no F", "dtype", "width", "empty"],
)
def test_frames_of_another_shape_are_refused(vae32, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode_stream(vae32, frames)


def test_a_past_of_another_size_direction_or_dtype_is_refused(vae32, vae64):
    _, past = decode_stream(vae32, torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(ValueError, match=r"the past is of latents of \[2, 2\], .* are of \[2, 3\]"):
        decode_stream(vae32, torch.zeros(1, 16, 1, 2, 3), past)
    with pytest.raises(ValueError, match=r"of frames of \[2, 2\], the new frames are of \[16, 16\]"):
        encode_stream(vae32, torch.zeros(4, 16, 16, 3), past)
    with pytest.raises(ValueError, match=r"the past is torch\.float32 on cpu, the VAE is torch\.float64"):
        decode_stream(vae64, torch.zeros(1, 16, 1, 2, 2), past)


def test_latents_are_brought_to_the_kind_of_the_vae(vae32):
    latents = torch.randn(1, 16, 2, 2, 2).bfloat16()
    assert torch.equal(decode_stream(vae32, latents)[0], decode_stream(vae32, latents.float())[0])


def test_no_gradient_is_kept(vae32):
    vae32.requires_grad_(True)
    try:
        _, past = decode_stream(vae32, torch.zeros(1, 16, 2, 2, 2))
        assert not any(t.requires_grad for t in past.layers)
    finally:
        vae32.requires_grad_(False)


def test_a_past_is_frozen(vae32):
    _, past = decode_stream(vae32, torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        past.layers = ()

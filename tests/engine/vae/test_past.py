"""A decoder's past made once more from the newest latents of a scene, and how many that takes."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.vae.decoder import VaeDecoder, to_tensors
from rivulet.model_patches.vae.fingerprint import fingerprint
from rivulet.model_patches.vae.past import KEPT_LATENTS, latents_for_past, past_again
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import WanVAE

FRAMES = 60


def random(vae):
    """Every weight and bias random: one of zero would hide what a layer sees of the past."""
    generator = torch.Generator().manual_seed(3)
    for value in vae.requires_grad_(False).parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 4
        value.copy_(torch.randn(value.shape, generator=generator) * fan_in**-0.5)
    return VaeDecoder(vae)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, 16, FRAMES, 2, 4, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module", params=["wan", "tiny"])
def decoder(request):
    return random(WanVAE(dim=4) if request.param == "wan" else TinyDecoder((8, 6, 4, 4)))


def same(one, other):
    one, other = to_tensors(one), to_tensors(other)
    return one.keys() == other.keys() and all(torch.equal(part, other[name]) for name, part in one.items())


def test_it_is_counted_over_the_layers():
    assert random(WanVAE(dim=4)).forgets_after == 38
    assert random(TinyDecoder((8, 6, 4, 4))).forgets_after == 8
    assert VaeDecoder(torch.nn.Identity()).forgets_after is None  # of another kind nobody knows


@pytest.mark.parametrize("block, given", [(3, 0), (3, 9), (1, 2), (6, 1)])
def test_that_many_give_it_bit_for_bit_and_too_few_do_not(decoder, latents, block, given):
    """given: latents that were there before the first block and shown at once."""
    past, start, checked = None, 0, 0
    for size in [given] * bool(given) + [block] * ((FRAMES - given) // block):
        _, past = decoder.decode(latents[:, :, start : start + size], past)
        start += size
        if 4 < start < FRAMES - 7:
            continue
        count = latents_for_past(decoder, start, block, given)
        assert count <= min(start, KEPT_LATENTS)
        newest = latents[:, :, start - count : start]
        assert same(past_again(decoder, newest, start, block, given), past), start
        if start > decoder.forgets_after:
            fewer = latents[:, :, start - decoder.forgets_after + 1 : start]
            assert not same(past_again(decoder, fewer, start, block, given), past), start
            checked += 1
    assert checked


@dataclass
class Reaching:
    forgets_after: int
    in_pairs: bool


# Wan's, and a host's, with one latent that waits for its pair
@given(st.sampled_from([Reaching(38, False), Reaching(39, True)]), st.data())
def test_what_a_stream_keeps_is_enough_wherever_it_stands(decoder, data):
    start, block = data.draw(st.integers(0, 10**12) | st.integers(0, 90)), data.draw(st.integers(1, 21))
    count = latents_for_past(decoder, start, block, data.draw(st.integers(0, 60)))
    assert min(start, decoder.forgets_after + 1) <= count <= min(start, KEPT_LATENTS)
    assert not decoder.in_pairs or (start - count) % 2 == 0


def test_a_whole_scene_gives_it_however_short(decoder, latents):
    assert latents_for_past(decoder, 0, 3) == 0 and past_again(decoder, latents[:, :, :0], 0, 3) is None
    assert latents_for_past(None, 9, 3) is None


def test_a_fingerprint_tells_other_weights_and_not_rounded_ones():
    vae = random(WanVAE(dim=4)).vae
    own = fingerprint(vae.parameters())
    rounded = fingerprint(value.bfloat16() for value in vae.parameters())
    assert own.shape == (len(list(vae.parameters())), 1, 4)

    def farthest(other):
        return ((own - other).norm(dim=2) / own.norm(dim=2)).max().item()

    # a sum of n weights, each rounded by at most 2^-9 of itself, moves by that share of itself or, where they
    # are of both signs, of what they come to together: four sums that cancel at once are rare
    assert 0 < farthest(rounded) < 0.02
    for value in vae.parameters():
        before = value.clone()
        value += 0.5 * before.abs().mean() * torch.randn_like(before)
        assert farthest(fingerprint(vae.parameters())) > 0.02
        value.copy_(before)
    again = VaeDecoder(vae)
    assert again.fingerprint() is again.fingerprint()

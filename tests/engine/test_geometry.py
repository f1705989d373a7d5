from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.geometry import Geometry, rate_of


def test_published_size_has_the_published_counts():
    wide = Geometry(832, 480)
    assert (wide.latent_width, wide.latent_height) == (104, 60)
    assert (wide.grid_width, wide.grid_height, wide.frame_tokens) == (52, 30, 1560)
    assert (wide.pixel_frames(21), wide.latent_frames(81)) == (81, 21)
    assert wide.latent_shape(3, batch=2) == (2, 16, 3, 60, 104)


@pytest.mark.parametrize(
    ("pixels", "latents"), [(0, 0), (1, 1), (2, 2), (5, 2), (6, 3), (9, 3), (1_382_409, 345_603)]
)
def test_latents_cover_the_pixels(pixels, latents):
    assert Geometry(64, 64).latent_frames(pixels) == latents


@given(st.integers(0, 10**7), st.integers(1, 8))
def test_latent_frames_is_the_least_that_covers(pixels, stride):
    size = Geometry(64, 64, time_stride=stride)
    latents = size.latent_frames(pixels)
    assert size.pixel_frames(latents) >= pixels
    assert latents == 0 or size.pixel_frames(latents - 1) < pixels


@given(st.integers(-40, 5000).filter(lambda size: size < 16 or size % 16))
def test_sizes_that_do_not_divide_name_a_good_one(size):
    sentence = f"height must be a multiple of 16 pixels, got {size}; nearest is"
    with pytest.raises(ValueError, match=sentence) as refusal:
        Geometry(64, size)
    good = int(str(refusal.value).rsplit(" ", 1)[1].rstrip("."))
    assert Geometry(64, good).height == good
    assert abs(good - size) <= 8 or good == 16


@pytest.mark.parametrize("wrong", [64.0, "64", None, True])
def test_a_size_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="width must be a whole number, got"):
        Geometry(wrong, 64)


def test_negative_counts_are_refused():
    size = Geometry(64, 64)
    with pytest.raises(ValueError, match="pixel_frames must be 0 or more, got -1"):
        size.latent_frames(-1)
    with pytest.raises(ValueError, match="latent_frames must be 0 or more, got -3"):
        size.pixel_frames(-3)
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        size.latent_shape(1, batch=0)
    with pytest.raises(ValueError, match="patch must be 1 or more, got 0"):
        Geometry(64, 64, patch=0)


@pytest.mark.parametrize("whole", [24, 30, 48, 60, 120])
def test_rates_of_television_are_meant_by_their_first_three_places(whole):
    exact = Fraction(1000 * whole, 1001)
    assert rate_of(round(float(exact), 3)) == rate_of(float(exact)) == rate_of(exact) == exact
    assert rate_of(float(whole)) == whole


@given(st.integers(1, 1000), st.integers(1, 8))
def test_other_rates_are_what_they_say(numerator, denominator):
    rate = Fraction(numerator, denominator)
    assert rate_of(rate) == rate_of(float(rate)) == rate

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.join import FADE_FRAMES, blend_frames, missing_detail, times_to_put_back

GIVEN, DECODED = torch.full((2, 2, 3), 100.0), torch.full((2, 2, 3), 60.0)


@pytest.mark.parametrize("cuts", [(12,), (1, 3, 8), (8, 4), (0, 12)], ids=str)
def test_it_fades_evenly_however_the_pictures_come(cuts):
    missing, after, parts = missing_detail(GIVEN, DECODED), 0, []
    for count in cuts:
        parts.append(blend_frames(torch.full((count, 2, 2, 3), 60, dtype=torch.uint8), missing, after))
        after += count
    levels = torch.cat(parts)[:, 0, 0, 0].tolist()
    assert levels == [60 + 40 * max(0, FADE_FRAMES - i) / FADE_FRAMES for i in range(12)]


def test_pictures_stay_in_their_range():
    bright = torch.full((1, 2, 2, 3), 0.9)
    assert blend_frames(bright, torch.full((2, 2, 3), 0.3), 0).max() == 1
    assert blend_frames((bright * 255).byte(), torch.full((2, 2, 3), 90.0), 0).max() == 255
    assert blend_frames(bright, torch.full((2, 2, 3), -2.0), 0).min() == 0


def test_after_the_fade_the_very_same_pictures_come_back():
    pixels = torch.rand(3, 2, 2, 3)
    assert blend_frames(pixels, torch.ones(2, 2, 3), FADE_FRAMES) is pixels


def test_what_a_decoder_draws_between_the_pixels_of_a_smaller_picture_stays():
    """Only what both can show is compared: colours are put back, a pattern of single pixels stays."""
    given, drawn = torch.full((8, 8, 3), 100.0), torch.full((16, 16, 3), 60.0)
    drawn[::2, ::2] += 12
    drawn[1::2, 1::2] -= 12
    assert torch.allclose(missing_detail(given, drawn), torch.full((16, 16, 3), 40.0))
    given[:, 4:] = 20.0
    lost = missing_detail(given, torch.full((16, 16, 3), 60.0))
    assert lost.shape == (16, 16, 3) and torch.allclose(lost[:, :4], torch.tensor(40.0), atol=6)
    assert torch.allclose(lost[:, 12:], torch.tensor(-40.0), atol=6)


@pytest.mark.parametrize(
    ("size", "upscale", "times"),
    [
        ((832, 480), 2, 1),
        ((1664, 960), 2, 2),
        ((4000, 3000), 2, 2),
        ((1247, 960), 2, 1),  # its width covers less than one and a half times the stream's
        ((1248, 720), 2, 2),
        ((320, 200), 2, 1),
        ((4000, 3000), 1, 1),
    ],
)
def test_a_given_picture_is_put_back_at_the_size_that_it_is_nearer_to(size, upscale, times):
    assert times_to_put_back(*size, Geometry(832, 480), upscale) == times

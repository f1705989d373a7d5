import pytest
import torch
from rivulet.model_patches.stream.join import FADE_FRAMES, blend_frames, missing_detail

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

"""The judge gives truth full marks, sees a join that jumps, and takes no chance for following."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rivulet.pocket import detector, models, world
from rivulet.tests.bench import start
from rivulet.tests.bench.start import judged, place_error, psnr, put_back, rendered, share_at

POCKET = SimpleNamespace(recipe=SimpleNamespace(block_frames=3, fps=16, size=64))


@pytest.fixture(scope="module")
def truth():
    return rendered(3, 0, 57, 64)


def test_truth_joins_itself(truth):
    before, after = truth.pixels_BFHWC[:, :33], truth.pixels_BFHWC[:, 33:]
    figures = judged(POCKET, truth.scenes, before, after, after)
    assert figures["following_pictures_adherence"] == 1 and figures["place_error_pixels"] == 0
    assert figures["join_jump_levels"] < 1.5 * figures["inside_jump_levels"]
    assert figures["colour_step_levels"] < 0.2


def test_a_jump_and_a_colour_step_show(truth):
    before, after = truth.pixels_BFHWC[:, :33], truth.pixels_BFHWC[:, 33:]
    shifted = (after.int() + torch.tensor([6, 0, 0])).clamp(0, 255).to(torch.uint8)
    figures = judged(POCKET, truth.scenes, before, shifted, after)
    assert 4 < figures["colour_step_levels"] <= 6.2 and 4 < figures["colour_shift_levels"] <= 6.2
    moved = judged(POCKET, truth.scenes, before, after.roll(8, 3), after)
    plain = judged(POCKET, truth.scenes, before, after, after)
    assert moved["join_jump_levels"] > 3 * plain["join_jump_levels"]
    assert moved["place_error_pixels"] > 6


def test_following_is_judged_by_places_whatever_the_colours(truth):
    scenes = world.change_looks(truth.scenes, torch.Generator().manual_seed(1))
    scenes = replace(scenes, colour_BN=scenes.colour_BN.where(truth.scenes.colour_BN >= 0, torch.tensor(-1)))
    both = replace(truth, scenes=replace(truth.scenes, colour_BN=scenes.colour_BN))
    seen = [detector.detect(clip) for clip in world.render(scenes, truth.places_BFN2, 64)]
    assert share_at(seen, both) > 0.95
    assert share_at(seen, both, 1) < 0.5


def test_what_was_lost_is_put_back_on_each_stream(truth):
    clips = truth.pixels_BFHWC[:, :3]
    given, decoded = clips[:, 0], (clips[:, 0].int() - 3).clamp_min(0).to(torch.uint8)
    made = put_back(decoded[:, None].expand_as(clips[:, :1]), given, decoded)
    assert torch.equal(made[:, 0], given)
    assert psnr(decoded, given) > 38 and place_error(clips, clips, 64) == 0


def test_every_noise_level_of_the_model_is_followed(monkeypatch):
    asked = []
    monkeypatch.setattr(start, "followed", lambda pocket, truth, strength, *_: asked.append(strength) or {})
    chosen = {"only": "follow", "strengths": None, "streams": 1, "blocks": 1, "seed": 0, "weights": None}
    assert start.run(SimpleNamespace(**chosen, quick=True), lambda *_, **figures: None) == 0
    assert tuple(asked) == models.load_pocket().recipe.sigmas

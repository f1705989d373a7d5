"""A band hides an object wholly and at block borders, and a prompt tells of it only while it is in sight."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from rivulet.pocket import detector, hiding, text, world
from rivulet.pocket.hiding import ENCODED, HIDDEN, LIFTED, VISIBLE, HidingClips, Story

BORDERS = (0, 9, 33, 69, 93)  # pixel frames at which the parts begin, at blocks of three latents


@pytest.fixture(scope="module")
def told():
    """Returns scenes and their rendered pictures."""
    scenes = hiding.sample(6, torch.Generator().manual_seed(5))
    return scenes, hiding.render(scenes, 3, 64)


def test_every_frame_shows_what_its_part_tells(told):
    scenes, pixels = told
    assert pixels.shape[1] == BORDERS[-1]
    looks = zip(scenes.colour_BN[:, 0].tolist(), scenes.shape_BN[:, 0].tolist(), strict=True)
    for clip, (colour, shape), ground in zip(pixels, looks, scenes.ground_B.tolist(), strict=True):
        frames = detector.detect(clip)
        for part, (start, end) in enumerate(pairwise(BORDERS)):
            in_sight = part in (VISIBLE, LIFTED)
            objects = {(detector.COLOURS[colour], world.SHAPES[shape])} if in_sight else set()
            for frame in frames[start:end]:
                assert frame.shows(objects, detector.COLOURS[ground])
                assert frame.band == (part == HIDDEN)


def test_nothing_moves_behind_the_band(told):
    _, pixels = told
    hidden = pixels[:, BORDERS[HIDDEN] : BORDERS[LIFTED]]
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))


def test_an_object_that_flies_on_unseen_comes_out_elsewhere_and_nothing_else_changes(told):
    scenes, pixels = told
    longer = hiding.render(scenes, 3, 64, torch.full((len(scenes),), 50))
    assert torch.equal(longer[:, : BORDERS[LIFTED]], pixels[:, : BORDERS[LIFTED]])
    assert not torch.equal(longer[:, BORDERS[LIFTED] :], pixels[:, BORDERS[LIFTED] :])


def test_a_flight_bounces_inside_its_column(told):
    scenes, _ = told
    times = torch.arange(2000).expand(len(scenes), -1)
    places, extent = hiding.fly(scenes, times)[:, :, 0], scenes.extent_BN()[:, :1]
    left, right = scenes.band_B2[:, :1], scenes.band_B2[:, 1:]
    assert bool((places[..., 0] - extent > left).all()) and bool((places[..., 0] + extent < right).all())
    assert bool((places[..., 1] - extent > -1e-6).all()) and bool((places[..., 1] + extent < 1 + 1e-6).all())
    steps = places.diff(dim=1).norm(dim=-1)
    speed = scenes.velocity_BN2[:, 0].norm(dim=-1, keepdim=True)
    rounding = 2 * 2000 * world.SPEED[1] * torch.finfo(torch.float32).eps  # of places before they are folded
    assert bool((steps < speed + rounding).all()), "a bounce shortens a step, nothing lengthens it"


def test_a_band_that_is_too_narrow_is_refused(told):
    scenes, _ = told
    narrow = replace(scenes, band_B2=torch.tensor([0.4, 0.6]).expand(len(scenes), 2))
    with pytest.raises(ValueError, match=r"band of 0\.\d+ of the picture does not cover.*hiding\.sample"):
        hiding.render(narrow, 3, 64)


def test_prompts_name_the_object_only_while_it_is_in_sight():
    bare, named, hidden, lifted = hiding.prompts(0, 1, 2)
    assert text.tokenize(bare) == ["blue ground"]
    assert text.tokenize(named) == ["red square", "blue ground"]
    assert text.tokenize(hidden) == ["object", "blue ground", "grey band"]
    assert text.tokenize(lifted) == ["object", "blue ground"]


@pytest.mark.parametrize(
    ("story", "blocks"),
    [
        (Story(2, 3, 2), (0, 1, 2, 3, 4, 5, 6, 7)),
        (Story(1, 1, 1), (0, 2, 3, 6)),
        (Story(2, 6, 1), (0, 1, 2, 3, 4, 5, 5, 5, 5, 6)),
        (Story(1, 0, 1), (0, 2, 6)),
    ],
)
def test_a_longer_wait_repeats_the_last_hidden_block(story, blocks):
    assert story.blocks == blocks and len(story.parts) == len(blocks)
    ends = [sum(ENCODED[: part + 1]) for part in range(4)]
    assert all(block < ends[part] for block, part in zip(story.blocks, story.parts, strict=True))


@pytest.mark.parametrize("counts", [(0, 1, 1), (3, 1, 1), (1, -1, 1), (1, 1, 0), (1, 1, 3)])
def test_a_story_that_cannot_be_told_is_refused(counts):
    with pytest.raises(ValueError, match="Story: "):
        Story(*counts)


def test_a_told_story_has_the_latents_and_texts_of_its_blocks():
    latents = torch.arange(8.0).repeat_interleave(3).expand(2, 4, 1, 1, -1).movedim(-1, 2).half()
    texts = torch.arange(4.0)[None, :, None, None].expand(2, 4, 6, 5)
    clips = HidingClips(latents, texts, torch.zeros(2, 3, dtype=torch.int64))
    story = Story(1, 4, 1)
    told, said = clips.assemble(story, 3)
    assert told.dtype == torch.float32 and told[0, 0, ::3, 0, 0].tolist() == list(story.blocks)
    assert [float(each[0, 0, 0]) for each in said] == [float(part) for part in story.parts]
    joined = clips.concat(clips.select(torch.tensor([1])), 2)
    assert len(joined) == 2

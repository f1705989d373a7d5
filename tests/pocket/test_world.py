"""The world keeps its own laws, and the detector reads back what was drawn."""

import pytest
import torch
from rivulet.pocket import detector, text, world

FRAMES = 200


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_objects_stay_inside_and_apart():
    scenes = world.sample_scenes(64, generator())
    places = world.simulate(scenes, FRAMES)
    extent = scenes.extent_BN()[:, None, :, None]
    reach = world.SPEED[1]  # a bounce is noticed within one frame
    assert (places > extent - reach).all() and (places < 1 - extent + reach).all()
    both = (scenes.colour_BN >= 0).all(1)
    gap = (places[both, :, 0] - places[both, :, 1]).norm(dim=-1)
    # not below: elastic spheres may enter each other by what both move in the frame of the hit
    assert (gap > scenes.extent_BN()[both].sum(1)[:, None] - 2 * reach - 1e-6).all()


def test_flight_keeps_energy():
    scenes = world.sample_scenes(64, generator())
    _, ahead = world.fly(scenes, FRAMES)
    before, after = (s.velocity_BN2.square().sum((1, 2)) for s in (scenes, ahead))
    both = (scenes.colour_BN >= 0).all(1)
    torch.testing.assert_close(after[both], before[both], rtol=1e-4, atol=0)


def test_flying_in_two_parts_is_flying_once():
    scenes = world.sample_scenes(16, generator())
    first, ahead = world.fly(scenes, 70)
    whole = world.simulate(scenes, FRAMES)
    torch.testing.assert_close(
        torch.cat([first, world.simulate(ahead, FRAMES - 70)], 1), whole, rtol=0, atol=0
    )


@pytest.mark.parametrize("size", [48, 64, 128])
def test_detector_reads_the_truth(size):
    scenes = world.sample_scenes(16, generator(size), band_share=0.0)
    pixels = world.render(scenes, world.simulate(scenes, FRAMES)[:, ::40], size)
    shares = [detector.adherence(p, prompt) for p, prompt in zip(pixels, scenes.prompts(), strict=True)]
    assert sum(shares) / len(shares) >= 0.99


def test_detector_finds_the_place():
    scenes = world.sample_scenes(32, generator(3), band_share=0.0)
    places = world.simulate(scenes, 1)[:, 0]
    for b, pixels in enumerate(world.render(scenes, places[:, None], 64)):
        (frame,) = detector.detect(pixels)
        for thing in frame.objects:
            slot = scenes.colour_BN[b].tolist().index(list(world.COLOURS).index(thing.colour))
            truth = places[b, slot]
            assert abs(thing.x - truth[0]) < 0.5 / 64 and abs(thing.y - truth[1]) < 0.5 / 64


@pytest.mark.parametrize(
    "wrong",
    [
        "a red circle and a green square on a blue ground",  # another shape
        "a red circle on a blue ground",  # an object too many in the picture
        "a red circle and a green triangle on a cyan ground",  # another ground
        "a yellow circle and a green triangle on a blue ground",  # another colour
    ],
)
def test_detector_tells_pictures_from_other_prompts(wrong):
    red, green, blue = 0, 1, 2
    circle, triangle = 0, 2
    scenes = world.sample_scenes(1, generator(1), band_share=0.0)
    scenes.colour_BN[0] = torch.tensor([red, green])
    scenes.shape_BN[0] = torch.tensor([circle, triangle])
    scenes.ground_B[0] = blue
    pixels = world.render(scenes, world.simulate(scenes, 8), 64)[0]
    assert detector.adherence(pixels, "a red circle and a green triangle on a blue ground") == 1
    assert detector.adherence(pixels, wrong) == 0


def test_band_hides_and_is_seen():
    scenes = world.sample_scenes(24, generator(4), band_share=1.0)
    frames = detector.detect(world.render(scenes, world.simulate(scenes, 1), 64)[:, 0])
    assert all(frame.band for frame in frames)
    plain = world.sample_scenes(24, generator(4), band_share=0.0)
    assert not any(f.band for f in detector.detect(world.render(plain, world.simulate(plain, 1), 64)[:, 0]))


def test_a_new_dress_keeps_the_flight():
    scenes = world.sample_scenes(200, generator(5))
    fresh = world.change_looks(scenes, generator(6))
    assert torch.equal(scenes.place_BN2, fresh.place_BN2)
    assert torch.equal(scenes.velocity_BN2, fresh.velocity_BN2)
    assert (scenes.ground_B != fresh.ground_B).any() and (scenes.shape_BN != fresh.shape_BN).any()
    alone = fresh.colour_BN[:, 1] < 0
    assert 0.1 < ((scenes.colour_BN[:, 1] < 0) != alone).float().mean() < 0.4
    looks = torch.cat([fresh.colour_BN, fresh.ground_B[:, None]], 1).tolist()
    assert all(len(set(row)) == 3 for row in looks), "an object of the ground's or the other's colour"


def test_contents_say_what_a_cell_shows():
    scenes = world.sample_scenes(24, generator(7), band_share=0.5)
    places = world.simulate(scenes, 2)
    shown = world.contents(scenes, places, 64, 8)
    assert shown.shape == (24, world.CONTENTS, 2, 8, 8) and shown.min() >= 0 and shown.max() <= 1
    shapes, colours, grounds = shown.split([3, 6, 6], 1)
    torch.testing.assert_close(shapes.sum(1), colours.sum(1))
    frames = detector.detect(world.render(scenes, places, 64)[:, 0])
    for b, frame in enumerate(frames):
        assert list(world.COLOURS)[grounds[b, :, 0].sum((1, 2)).argmax()] == frame.ground
        if scenes.band_B2[b, 0] < 0:  # then nothing is hidden, and nothing shows but what the scene holds
            there = {n for n in range(6) if colours[b, n].sum() > 0}
            assert there == {c for c in scenes.colour_BN[b].tolist() if c >= 0}
            torch.testing.assert_close(
                (colours.sum(1) + grounds.sum(1))[b], torch.ones(2, 8, 8), atol=0.02, rtol=0
            )


def test_prompts_are_read_by_phrase():
    assert text.tokenize("A red circle and a Blue square, on a green ground!") == [
        "red circle",
        "blue square",
        "green ground",
    ]
    assert text.tokenize("an object on a red ground behind a grey band") == [
        "object",
        "red ground",
        "grey band",
    ]
    swapped = [
        text.encode(f"a {a} circle and a {b} square on a cyan ground")
        for a, b in (("red", "blue"), ("blue", "red"))
    ]
    assert not torch.equal(*swapped), "a colour must stay with its shape"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (
            "a purple circle on a red ground",
            "does not know 'purple'.*red, green, blue.*circle, square, triangle",
        ),
        ("", "empty"),
        ("a circle red on a blue ground", "cannot read 'circle red'"),
        ("a red circle " * 6, "6 phrases, the pocket model reads at most 5"),
    ],
)
def test_prompts_that_cannot_be_read_say_why(prompt, words):
    with pytest.raises(ValueError, match=words):
        text.encode(prompt)


def test_unnamed_prompts_hide_looks_only():
    sentence = world.prompt([(0, 0), (2, 1)], 4, band=True)
    assert world.hide_names(sentence) == "an object and an object on a magenta ground behind a grey band"

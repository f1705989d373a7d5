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
    _, ahead = world.fly(world.sample_scenes(32, generator(5)), 50)
    fresh = world.redress(ahead, generator(6))
    kept = (ahead.place_BN2[:, 0] - fresh.place_BN2[:, 0]).norm(dim=-1)
    assert (kept < 0.06).all(), "moved by more than what another shape needs at a wall"
    assert torch.equal(ahead.velocity_BN2, fresh.velocity_BN2)
    gap = (fresh.place_BN2[:, 0] - fresh.place_BN2[:, 1]).norm(dim=-1)
    appeared = (ahead.colour_BN[:, 1] < 0) & (fresh.colour_BN[:, 1] >= 0)
    assert appeared.any() and (gap[appeared] >= fresh.extent_BN()[appeared].sum(1) - 1e-6).all()


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
    assert world.unnamed(sentence) == "an object and an object on a magenta ground behind a grey band"

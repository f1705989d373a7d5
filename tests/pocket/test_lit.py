"""The world in soft light: drawn from the scene alone, read back into plain pictures, faults and all."""

from dataclasses import replace

import pytest
import torch
from rivulet.pocket import detector, lit, lit_reader, verdict, world
from torch.nn.functional import avg_pool2d

FPS, SIDE = 16, 128
RED, GREEN, BLUE, YELLOW = 0, 1, 2, 3


def scenes(count: int, seed: int, band_share: float = 0.0) -> world.Scenes:
    return world.sample_scenes(count, torch.Generator().manual_seed(seed), band_share=band_share)


def read(some: world.Scenes, places_BFN2: torch.Tensor) -> list[torch.Tensor]:
    """Plain pictures of each scene, by way of the light."""
    return [lit_reader.flatten(clip) for clip in lit.render(some, places_BFN2, SIDE)]


def one_object(shape: str = "square", radius: float = 0.135, frames: int = 12) -> tuple[torch.Tensor, str]:
    """One red object that flies to the right over green ground, in soft light, and its prompt."""
    one = scenes(1, 100)
    one.colour_BN[0], one.ground_B[0] = torch.tensor([RED, -1]), GREEN
    one.shape_BN[0, 0], one.radius_BN[0, 0] = world.SHAPES.index(shape), radius
    one.place_BN2[0, 0], one.velocity_BN2[0, 0] = torch.tensor([0.4, 0.35]), torch.tensor([0.012, 0.0])
    return lit.render(one, world.simulate(one, frames), SIDE)[0], one.prompts()[0]


def judged(pixels_FHWC: torch.Tensor, prompt: str) -> verdict.Verdict:
    return verdict.judge(lit_reader.flatten(pixels_FHWC), prompt, FPS).frames[6]


def test_a_picture_hangs_on_its_scene_alone():
    some = scenes(4, 101, band_share=0.5)
    places = world.simulate(some, 9)
    whole = lit.render(some, places, SIDE)
    assert whole.shape == (4, 9, SIDE, SIDE, 3) and whole.dtype == torch.uint8
    assert lit.render(some, places[:, 4:5], SIDE).equal(whole[:, 4:5])
    assert lit.render(some.select(torch.tensor([2])), places[2:3], SIDE).equal(whole[2:3])


def test_the_light_keeps_outlines_where_they_are():
    """Another size shows the same: half the size is what is left of half of the pixels."""
    some = scenes(8, 102)
    places = world.simulate(some, 1)
    large, small = (lit.render(some, places, size)[:, 0].permute(0, 3, 1, 2).float() for size in (128, 64))
    assert (avg_pool2d(large, 2) - small).abs().mean() < 1.5, "levels of 255: edges alone differ"


def test_the_band_hides_what_is_behind_it():
    some = replace(scenes(1, 103), band_B2=torch.tensor([[0.3, 0.7]]))
    behind = torch.full((1, 1, 2, 2), 0.5)
    shown = lit.render(some, behind, SIDE)
    bare = lit.render(replace(some, colour_BN=torch.full_like(some.colour_BN, -1)), behind, SIDE)
    columns = slice(round(0.3 * SIDE) + 1, round(0.7 * SIDE) - 1)
    assert shown[:, :, :, columns].equal(bare[:, :, :, columns])
    half = lit.render(some, torch.tensor([[[[0.3, 0.5], [0.9, 0.1]]]]), SIDE)[0, 0]
    assert not half[60, 20:38].equal(bare[0, 0, 60, 20:38]), "its left half is seen beside the band"


def test_the_detector_is_right_about_pictures_that_are_read():
    some = scenes(208, 104)
    pictures = torch.cat(read(some, world.simulate(some, 48)[:, [0, 47]]))
    plain = world.render(some, world.simulate(some, 48)[:, [0, 47]], SIDE // 2).flatten(0, 1)
    prompts = [prompt for prompt in some.prompts() for _ in range(2)]
    right = [
        detector.adherence(picture[None], prompt) for picture, prompt in zip(pictures, prompts, strict=True)
    ]
    assert sum(right) / len(right) >= 0.99
    assert (pictures.float() - plain.float()).abs().mean() < 0.5, "levels of 255"


def test_the_stricter_verdict_passes_what_it_passes_on_plain_truth():
    some = scenes(24, 105)
    places = world.simulate(some, 9)
    strict = {"lit": 0, "plain": 0}
    for prompt, of_light, plain in zip(
        some.prompts(), read(some, places), world.render(some, places, SIDE // 2), strict=True
    ):
        strict["lit"] += sum(frame.strict for frame in verdict.judge(of_light, prompt, FPS).frames)
        strict["plain"] += sum(frame.strict for frame in verdict.judge(plain, prompt, FPS).frames)
    assert strict["plain"] == 24 * 9 and strict["lit"] >= 0.99 * strict["plain"]


def test_what_is_seen_beside_a_band_is_read():
    some = scenes(32, 106, band_share=1.0)
    places = world.simulate(some, 1)
    same = 0
    for of_light, plain in zip(read(some, places), world.render(some, places, SIDE // 2), strict=True):
        (found,), (truth,) = detector.detect(of_light), detector.detect(plain)
        assert found.band and found.ground == truth.ground
        same += {(o.colour, o.shape) for o in found.objects} == {(o.colour, o.shape) for o in truth.objects}
    assert same >= 31, "one may be a sliver that is of some size in one picture and not in the other"


def stranger(pixels: torch.Tensor) -> None:
    pixels[:, 100:114, 20:34] = (world.PALETTE[BLUE] * 0.8).to(torch.uint8)


def other_ground(pixels: torch.Tensor) -> None:
    pixels[:, 64:, 64:] = (world.GROUNDS[YELLOW] * 1.1).to(torch.uint8)


def smear(pixels: torch.Tensor) -> None:
    red, ground = world.PALETTE[RED], world.GROUNDS[GREEN]
    pixels[:, 90:110, 10:90] = (ground + 0.35 * (red - ground)).to(torch.uint8)


def dissolved(pixels: torch.Tensor) -> None:
    pixels[:, 40:, 35:75] = pixels[:, 5:6, 5:6]


@pytest.mark.parametrize(
    ("fault", "part"),
    [(stranger, "clean"), (other_ground, "clean"), (smear, "clean"), (dissolved, "edges")],
    ids=["stranger", "ground", "smear", "half an object"],
)
def test_what_is_wrong_in_soft_light_is_wrong_when_it_is_read(fault, part):
    pixels, prompt = one_object()
    assert judged(pixels, prompt).strict
    fault(pixels)
    assert not getattr(judged(pixels, prompt), part)


def test_another_object_is_another_object():
    for shape, radius, part in (("circle", 0.135, "adheres"), ("square", 0.18, "size")):
        pixels, _ = one_object(shape, radius)
        assert not getattr(judged(pixels, "a red square on a green ground"), part)
    assert not judged(one_object()[0], "a red square on a blue ground").adheres
    assert judged(one_object()[0][:1].expand(12, -1, -1, -1), "a red square on a green ground").moves is False


@pytest.mark.parametrize(("height", "width", "most"), [(128, 128, 32), (256, 512, 4), (768, 1024, 1)])
def test_larger_pictures_are_read_fewer_at_once(height, width, most, monkeypatch):
    """So that a film of large pictures takes no more memory than a few of them do."""
    read = []

    def counted(pixels_FHWC):
        read.append(len(pixels_FHWC))
        return pixels_FHWC.permute(0, 3, 1, 2).float()

    monkeypatch.setattr(lit_reader, "_part", counted)
    pixels = torch.randint(0, 256, (2 * most + 1, height, width, 3), dtype=torch.uint8)
    assert lit_reader.flatten_in_place(pixels).equal(pixels) and read == [most, most, 1]

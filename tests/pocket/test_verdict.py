"""What a person would call wrong is wrong: strangers, smears, grounds, round corners, giants, no motion."""

import pytest
import torch
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.pocket import detector, models, verdict, world

FPS = 16
SIDE = 64
RED, GREEN, BLUE, YELLOW, CYAN = 0, 1, 2, 3, 5


def scenes(count: int = 1, seed: int = 210) -> world.Scenes:
    return world.sample_scenes(count, torch.Generator().manual_seed(seed), band_share=0.0)


def clip(frames: int = 12, shape: str = "circle", radius: float = 0.135) -> tuple[torch.Tensor, str]:
    """One red object that flies to the right over green ground, and its prompt."""
    one = scenes()
    one.colour_BN[0], one.ground_B[0] = torch.tensor([RED, -1]), GREEN
    one.shape_BN[0, 0], one.radius_BN[0, 0] = world.SHAPES.index(shape), radius
    one.place_BN2[0, 0], one.velocity_BN2[0, 0] = torch.tensor([0.4, 0.35]), torch.tensor([0.012, 0.0])
    return world.render(one, world.simulate(one, frames), SIDE)[0], one.prompts()[0]


def rounded(radius: float, corner: float, frames: int = 12) -> torch.Tensor:
    """A red square that flies a pixel a picture; `corner` of half its side is round."""
    half = 0.9 * radius
    x, y = (way.abs() - half * (1 - corner) for way in flight(frames))
    round_edge = (x.clamp_min(0).square() + y.clamp_min(0).square()).sqrt()
    return filled(round_edge + torch.maximum(x, y).clamp_max(0) <= half * corner)


def flight(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances from the centre, across and down, eight samples a pixel: [F, 1, W] and [1, H, 1]."""
    axis = (torch.arange(8 * SIDE) + 0.5) / (8 * SIDE)
    across = axis - 0.4 - torch.arange(frames)[:, None] / SIDE
    return across[:, None, :], (axis - 0.35)[None, :, None]


def filled(inside_FHW: torch.Tensor) -> torch.Tensor:
    """Red on green ground, edges as soft as eight samples a pixel make them."""
    share = torch.nn.functional.avg_pool2d(inside_FHW.float(), 8)[..., None]
    colour, ground = world.PALETTE[RED], world.GROUNDS[GREEN]
    return (ground + share * (colour - ground)).round().to(torch.uint8)


def plain(row: int, ground: bool = False) -> torch.Tensor:
    return (world.GROUNDS if ground else world.PALETTE)[row].round().to(torch.uint8)


def three_strangers() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip()
    for colour, x in ((BLUE, 4), (YELLOW, 24), (CYAN, 48)):
        pixels[:, 50:58, x : x + 8] = plain(colour)
    return pixels, prompt


def one_stranger() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip()
    pixels[:, 50:58, 4:12] = plain(BLUE)
    return pixels, prompt


def grey_smear() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip()
    lower = pixels[:, 43:].float()
    pixels[:, 43:] = (lower + 0.5 * (torch.tensor(world.BAND_COLOUR) - lower)).round().to(torch.uint8)
    return pixels, prompt


def patched_ground() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip()
    pixels[:, 48:] = plain(BLUE, ground=True)
    return pixels, prompt


def round_square_for_circle() -> tuple[torch.Tensor, str]:
    return rounded(0.13, 0.6), clip()[1]


def round_square_for_square() -> tuple[torch.Tensor, str]:
    return rounded(0.14, 0.6), clip(shape="square")[1]


def ellipse() -> tuple[torch.Tensor, str]:
    x, y = flight(12)
    return filled((x / 1.25).square() + (1.25 * y).square() <= 0.135**2), clip()[1]


def dwarf() -> tuple[torch.Tensor, str]:
    return clip(radius=0.75 * world.RADIUS[0])


def giant() -> tuple[torch.Tensor, str]:
    return clip(radius=2.3 * world.RADIUS[1])


def frozen() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip()
    return pixels[:1].expand(12, -1, -1, -1), prompt


def teleport() -> tuple[torch.Tensor, str]:
    pixels, prompt = clip(24)
    pixels[12:] = pixels[12:].roll(SIDE // 2, 1)
    return pixels, prompt


CASES = {
    three_strangers: "clean",
    one_stranger: "clean",
    grey_smear: "clean",
    patched_ground: "clean",
    round_square_for_circle: "edges",
    round_square_for_square: "edges",
    ellipse: "edges",
    dwarf: "size",
    giant: "size",
    frozen: "moves",
    teleport: "moves",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_the_detector_takes_for_right_is_wrong(case):
    pixels, prompt = case()
    frames = verdict.judge(pixels, prompt, FPS).frames
    assert all(frame.adheres for frame in frames), "the detector alone would have seen it"
    failed = [frame for frame in frames if not getattr(frame, CASES[case])]
    assert len(failed) == len(frames) or (case is teleport and len(failed) == 2 * (FPS // 4))
    assert not any(frame.strict for frame in failed)


@pytest.mark.parametrize("size", [64, 128])
def test_truth_is_right_in_every_part(size):
    some = scenes(16)
    pixels = world.render(some, world.simulate(some, 24), size)
    frames = [
        frame
        for clip, prompt in zip(pixels, some.prompts(), strict=True)
        for frame in verdict.judge(clip, prompt, FPS).frames
    ]
    assert sum(frame.strict for frame in frames) >= 0.99 * len(frames)


def test_truth_through_the_vae_is_right():
    """Of 200 scenes 99.2 +- 0.19 % of frames are (`bench quality --bounds`); of 10, a little less."""
    vae, some, right = models.load_pocket().vae, scenes(10, seed=203), []
    for pixels, prompt in zip(
        world.render(some, world.simulate(some, 17), SIDE), some.prompts(), strict=True
    ):
        seen = decode_stream(vae, encode_stream(vae, pixels)[0])[0]
        right += [frame.strict for frame in verdict.judge(seen, prompt, FPS).frames]
    assert sum(right) >= (0.992 - 3 * 0.0019 * (200 / 10) ** 0.5) * len(right)


def test_the_old_verdict_is_the_detectors():
    some = scenes(6)
    pixels = world.render(some, world.simulate(some, 5), SIDE)
    prompts = some.prompts()
    for clip, prompt in zip(pixels, prompts[1:] + prompts[:1], strict=True):
        objects, ground = detector.parse_prompt(prompt)
        old = [frame.shows(objects, ground) for frame in detector.detect(clip)]
        assert [frame.adheres for frame in verdict.judge(clip, prompt, FPS).frames] == old


def test_places_sizes_and_speeds_are_the_worlds():
    some = scenes(24)
    places = world.simulate(some, 9)
    for b, (pixels, prompt) in enumerate(zip(world.render(some, places, SIDE), some.prompts(), strict=True)):
        judged = verdict.judge(pixels, prompt, FPS)
        for n, (colour, shape) in enumerate(judged.objects):
            slot = some.colour_BN[b].tolist().index(list(world.COLOURS).index(colour))
            assert shape == world.SHAPES[some.shape_BN[b, slot]]
            off = (judged.outlines.place_FN2[:, n] - places[b, :, slot]).norm(dim=-1)
            assert off.max() < 0.5 / SIDE
            assert (judged.outlines.radius_FN[:, n] / some.radius_BN[b, slot] - 1).abs().max() < 0.03
            moved = (places[b, 4:, slot] - places[b, :-4, slot]).norm(dim=-1) / 4
            assert (judged.speed_EN[:, n] - moved).abs().max() < 0.25 / SIDE / 4


def test_jitter_is_no_motion():
    pixels, prompt = clip()
    shaking = torch.stack([pixels[0].roll(f % 2, 1) for f in range(12)])
    judged = verdict.judge(shaking, prompt, FPS)
    assert judged.speed_EN.max() < 1e-6 and not any(frame.moves for frame in judged.frames)


def test_an_object_that_is_not_there_fails_and_moves_is_left_open():
    ground = plain(GREEN, ground=True).expand(12, SIDE, SIDE, 3)
    judged = verdict.judge(ground, clip()[1], FPS)
    assert judged.outlines.place_FN2.isnan().all() and (judged.outlines.overlap_FN == 0).all()
    assert all(frame.moves is None and not frame.size and not frame.strict for frame in judged.frames)


def test_a_trace_of_an_object_has_no_speed():
    pixels, prompt = clip()
    speck = pixels.clone()
    speck[:] = plain(GREEN, ground=True)
    speck[:, 20:24, 20:24] = plain(RED)
    judged = verdict.judge(speck, prompt, FPS)
    assert judged.outlines.radius_FN.min() > 0 and judged.speed_EN.isnan().all()
    assert all(frame.moves is None and not frame.size for frame in judged.frames)


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_few_pictures_leave_motion_open(frames):
    pixels, prompt = clip(frames)
    seen = verdict.judge(pixels, prompt, FPS).frames
    assert len(seen) == frames and all(frame.moves is None and frame.strict for frame in seen)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red circle on a green ground behind a grey band", "has a band"),
        ("a red circle on a green ground behind a grey, band", "has a band"),
        ("an object on a green ground", "leaves an object or the ground open"),
        ("a green ground", "at least one object"),
        ("a red circle and a red square on a green ground", "each of another colour"),
        ("a red circle and a red circle on a green ground", "each of another colour"),
        ("a red circle on a green ground on a blue ground", "one ground"),
    ],
)
def test_prompts_that_cannot_be_judged_are_refused(prompt, words):
    with pytest.raises(ValueError, match=words):
        verdict.judge(clip(1)[0], prompt, FPS)

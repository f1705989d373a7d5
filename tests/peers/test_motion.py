"""Motion-aware strength beside the function of StreamDiffusionV2's release that sets it."""

import ast

import torch
from rivulet.model_patches.stream.motion import PUBLISHED_LESS, MovingStrength

STRENGTH, BLOCK = 0.8, 4  # share of noise; pictures of a block
RELEASED = "compute_noise_scale_and_step"
EPS = torch.finfo(torch.float64).eps


def released(folder):
    """Their function alone: what else their module has needs a card."""
    source = (folder / "streamv2v" / "inference.py").read_text(encoding="utf-8")
    found = [node for node in ast.parse(source).body if getattr(node, "name", "") == RELEASED]
    names = {"torch": torch}
    exec(compile(ast.Module(found, []), RELEASED, "exec"), names)
    return names[RELEASED]


def test_shares_of_noise_are_those_of_the_release(checkout):
    theirs = released(checkout("streamdiffusionv2"))
    generator = torch.Generator().manual_seed(4)
    paces = torch.tensor([0.0, 0.01, 0.05, 0.5])[torch.arange(30 * BLOCK) // BLOCK % 4]
    steps = torch.randn(30 * BLOCK, 6, 5, 3, generator=generator, dtype=torch.float64)
    video_FHWC = torch.sigmoid((paces[:, None, None, None] * steps).cumsum(0))
    signed_BCFHW = (2 * video_FHWC - 1).movedim(-1, 0)[None]
    ours, before = MovingStrength(STRENGTH, PUBLISHED_LESS), STRENGTH
    found = [ours.of_block(video_FHWC[:1])]  # what goes before the first of their blocks
    assert found == [STRENGTH]
    for end in range(1 + BLOCK, len(video_FHWC) + 1, BLOCK):
        before, _ = theirs(signed_BCFHW, end, BLOCK, before, STRENGTH)
        found.append(ours.of_block(video_FHWC[end - BLOCK : end]))
        # a root, a mean over 90 numbers and three products in another order
        assert abs(found[-1] - before) < 16 * EPS
    assert min(found) < STRENGTH - 0.9 * PUBLISHED_LESS and max(found[1:]) > STRENGTH - 0.1 * PUBLISHED_LESS

"""The tiny decoder's formulas against the decoder itself, run where tensors have shapes and no numbers."""

import pytest
import torch
from rivulet.model_patches.vae.tiny import WIDTHS, TinyDecoder
from rivulet.model_patches.vae.tiny_cost import TinyCost
from rivulet.tests.engine.viewers.live import Watch
from torch.utils.flop_counter import FlopCounterMode

SIZES = [((8, 6, 4, 4), 1, 2, 4), ((12, 8, 4, 4), 3, 6, 10), (WIDTHS, 4, 3, 3), (WIDTHS, 3, 60, 104)]


def begun(widths, latents, height, width, dtype=torch.bfloat16):
    """Returns a decoder without numbers, a piece of latents and the past of a stream that is under way."""
    with torch.device("meta"):
        decoder = TinyDecoder(widths).to(dtype).requires_grad_(False)
    piece = torch.empty(1, 16, latents, height, width, dtype=dtype, device="meta")
    return decoder, piece, decoder.decode(piece)[1]


@pytest.mark.parametrize("widths", [(8, 6, 4, 4), WIDTHS])
def test_parameters_are_those_of_the_layers(widths):
    decoder, _, _ = begun(widths, 1, 1, 1)
    own = sum(p.numel() for p in decoder.parameters())
    assert TinyCost(widths).parameters == own == TinyCost(widths, unused=7).parameters - 7


@pytest.mark.parametrize(("widths", "latents", "height", "width"), SIZES)
@torch.no_grad()
def test_flops_are_those_that_torch_counts(widths, latents, height, width):
    decoder, piece, past = begun(widths, latents, height, width)
    with FlopCounterMode(display=False) as counted:
        decoder.decode(piece, past)
    assert TinyCost(widths).flops(latents, height * width) == counted.get_total_flops()


@pytest.mark.parametrize(("widths", "latents", "height", "width"), SIZES)
@torch.no_grad()
def test_past_peak_and_bytes_moved_are_those_of_the_run(widths, latents, height, width):
    decoder, piece, past = begun(widths, latents, height, width)
    cost, places = TinyCost(widths), height * width
    assert cost.buffers(places) == sum(tensor.numel() for tensor in past)
    with Watch() as seen:
        decoder.decode(piece, past)
    assert 2 * cost.peak(latents, places) == seen.peak_bytes
    moved = cost.traffic(latents, places) + cost.weight_reads(latents)
    assert 2 * moved == seen.pass_bytes + seen.operand_bytes

"""The verdict: what is short is said, and the proposal is the nearest that fits."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.cache.cost import DENSE_COST
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.plan import Request, plan_stream
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.plan.verdict import (
    FITS,
    FITS_WITH,
    HEADROOM,
    NO_FIT,
    changes,
    describe,
    duration,
    judge,
    moved_bytes,
    short,
    shortages,
)
from rivulet.model_patches.stream.config import StreamConfig

WAN = Request(
    WanConfig(dim=1536, ffn_dim=8960, num_layers=30),
    StreamConfig(Geometry(832, 480), "reward_forcing", dtype=torch.bfloat16),
    fps=16,
)
NEEDED = HEADROOM * plan_stream(WAN).device_bytes
EIGHTH = replace(
    DENSE_COST,
    name="eighth",
    layer_bytes=lambda shape, layer, dtype: DENSE_COST.layer_bytes(shape, layer, dtype) // 8,
)
CARD = Device("a card", matmul_flops=1e14, bytes_per_second=1e12)


def card(share):
    """Returns a card with so much of what is needed."""
    return replace(CARD, free_bytes=round(share * NEEDED))


def test_it_fits_to_the_byte():
    exact = replace(CARD, free_bytes=int(NEEDED) + 1)
    assert judge(WAN, exact).answer == FITS
    assert judge(WAN, replace(exact, free_bytes=int(NEEDED) - 1)).answer == FITS_WITH


def test_what_has_no_room_on_the_card_is_copied_in_each_call():
    gigabyte, calls = 10**9, len(WAN.stream.sigmas) + 1
    weights = plan_stream(WAN).weights_bytes
    assert weights > 2 * gigabyte
    assert moved_bytes(WAN, replace(CARD, free_bytes=round(NEEDED) - gigabyte)) == calls * gigabyte
    # the weights, and no more: the rest cannot lie in RAM
    assert moved_bytes(WAN, replace(CARD, free_bytes=0)) == calls * weights
    assert moved_bytes(WAN, replace(CARD, free_bytes=round(NEEDED))) == 0
    assert moved_bytes(WAN, CARD) == moved_bytes(WAN, replace(card(0.1), is_cpu=True)) == 0


def test_what_is_not_known_is_not_judged():
    assert judge(WAN, CARD).answer == FITS


def test_a_fitting_plan_is_told_in_lines_the_answer_first():
    first, video, time, memory, disk, source = judge(WAN, card(1.1)).lines
    needed, free = NEEDED / 1e9, 1.1 * NEEDED / 1e9
    assert first == f"Fits your card (a card): needs {needed:.1f} GB of the {free:.1f} GB that are free."
    assert video == "Video: 832x480 at 16 pictures a second, without end."
    assert time.startswith("Time: an hour of it takes about ") and "times the speed it plays at" in time
    assert "The first picture comes after about" in time and "0.75 s of video every" in time
    assert f"{needed:.1f} GB of graphics memory, of which weights" in memory
    assert disk.startswith("Disk: an hour of it takes about ") and source == "Computed, not measured."


def test_a_length_has_the_figures_of_that_length():
    plan, device = plan_stream(WAN), card(1.1)
    _, video, time, _, disk, _ = judge(replace(WAN, seconds=600.0), device).lines
    assert video.endswith("10 minutes long.") and time.startswith("Time: it takes about ")
    chunks = 600 / plan.chunk_seconds
    made = duration(plan.seconds_to_first_chunk(device) + chunks * plan.seconds_per_chunk(device))
    assert f"takes about {made}. " in time
    assert f"it takes about {short(plan.video_bytes_per_hour / 6e6)} MB, and" in disk
    assert f"{plan.disk_bytes(600.0) / 1e9:.1f} GB while it is made" in disk


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(90.0, "90 s"), (120.0, "2 minutes"), (5400.0, "90 minutes"), (20000.0, "5.6 hours"), (3e5, "3.5 days")],
)
def test_times_are_in_their_largest_unit(seconds, words):
    assert duration(seconds) == words


def test_another_cache_format_is_proposed_first():
    assert judge(WAN, card(0.98)).proposal.stream.positions.window_frames == 5
    found = judge(WAN, card(0.98), [EIGHTH])
    assert found.answer == FITS_WITH and found.proposal == replace(WAN, cache=EIGHTH)
    first, short, then, *figures = found.lines
    assert first == "Does not fit. Do this: take the cache format eighth instead of dense."
    assert short.startswith("Graphics memory: needs ") and short.endswith("GB free on a card.")
    assert then == "Then it fits:" and figures == list(
        describe(found.proposal, plan_stream(found.proposal), card(0.98))
    )


def test_without_one_the_largest_window_that_fits_is_proposed():
    found = judge(WAN, card(0.95))
    window = found.proposal.stream.positions.window_frames
    larger = replace(WAN.stream.positions, window_frames=window + 1)
    assert 3 <= window < 6 and found.proposal.geometry == WAN.geometry
    assert "a window of" in found.text and "latent frames instead of 6 frames" in found.text
    assert shortages(found.proposal, plan_stream(found.proposal), card(0.95)) == []
    wider = replace(WAN, stream=replace(WAN.stream, preset=larger))
    assert shortages(wider, plan_stream(wider), card(0.95))


def test_where_no_window_helps_the_picture_becomes_smaller():
    found = judge(WAN, card(0.55))
    geometry = found.proposal.geometry
    assert found.proposal.stream.positions == WAN.stream.positions
    assert geometry.width < 832 and abs(geometry.width / geometry.height - 832 / 480) < 0.06
    assert f"a picture of {geometry.width}x{geometry.height} instead of 832x480" in found.text


def test_two_changes_are_proposed_where_one_is_not_enough():
    """At a share where neither the smallest window nor the smallest picture fits alone."""
    share = next(
        s / 1000
        for s in range(600, 200, -1)
        if (p := judge(WAN, card(s / 1000)).proposal)
        and p.geometry != WAN.geometry
        and p.stream.positions != WAN.stream.positions
    )
    text = judge(WAN, card(share)).text
    assert "latent frames instead of" in text and " and a picture of " in text


def test_what_cannot_fit_is_said():
    found = judge(WAN, card(0.1), [EIGHTH])
    assert (found.answer, found.proposal) == (NO_FIT, None)
    assert found.lines[0].startswith("Does not fit, and no") and found.lines[0].endswith(
        "Do this: take a smaller model or a device with more memory."
    )
    assert found.lines[1].startswith("Graphics memory: needs ")


def test_a_full_disk_shortens_the_stream():
    request = replace(WAN, seconds=7200.0)
    device = replace(CARD, free_disk_bytes=plan_stream(request).disk_bytes(7200.0))  # no room beside
    found = judge(request, device)
    assert found.answer == FITS_WITH and "Disk space: needs" in found.text and "a length of" in found.text
    assert shortages(found.proposal, plan_stream(found.proposal), device) == []
    longer = replace(found.proposal, seconds=found.proposal.seconds + 2)
    assert shortages(longer, plan_stream(longer), device)


def test_an_endless_stream_is_held_against_an_hour_of_disk():
    (said,) = shortages(WAN, plan_stream(WAN), replace(CARD, free_disk_bytes=10**9))
    assert said.startswith("Disk space for an hour: needs")


def test_on_a_cpu_everything_lies_in_ram():
    plan = plan_stream(WAN)
    both = int(HEADROOM * (plan.device_bytes + plan.ram_bytes))
    device = replace(CARD, is_cpu=True, free_ram_bytes=both - 1)
    assert shortages(WAN, plan, device)[0].startswith("RAM: needs")
    assert shortages(WAN, plan, replace(device, free_ram_bytes=both + 1)) == []


def test_a_window_without_end_gets_its_bounded_preset():
    request = replace(WAN, stream=replace(WAN.stream, preset="self_forcing"), seconds=60.0)
    found = judge(request, replace(CARD, free_bytes=20 * 10**9))
    assert found.proposal.stream.positions.name == "infinity_rope"
    assert "a window of 5 latent frames instead of all frames" in found.text


@pytest.mark.parametrize(
    ("new", "words"), [(replace(WAN, seconds=90.0), "a length of 1.5 minutes"), (WAN, "")]
)
def test_changes_are_named(new, words):
    assert changes(WAN, new) == words


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.00234, "0.0023"), (0.0, "0"), (1.64, "1.6"), (9.96, "10"), (163.0, "160"), (1e-6, "0.000001")],
)
def test_numbers_have_two_digits_and_no_exponent(number, text):
    assert short(number) == text

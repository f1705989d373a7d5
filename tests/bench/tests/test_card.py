"""The benchmark of a card that is not there: it counts what it says, and what a plan says is near it."""

import argparse
import io
import json

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.plan import plan_stream
from rivulet.tests.bench import card
from rivulet.tests.bench.card_times import CARDS, BlockWork, model_seconds, total_seconds
from rivulet.tests.bench.records import Rows
from rivulet.tests.card.counting import CardCount, card_with_kernels
from rivulet.tests.card.guard import why_no_card

pytestmark = pytest.mark.skipif(bool(why_no_card()), reason=why_no_card() or "a card can be faked")
PICTURE = Geometry(832, 480)


def test_operators_bytes_and_the_peak_are_those_of_the_card_alone(plain_triton):
    with card_with_kernels() as there, CardCount() as count:
        x = torch.empty(10, 10, device=there.device)
        beside = torch.empty(1000, 1000)
        y = x + 1
        del y
        z = torch.nn.functional.linear(x, x)
        beside.add_(1)
        assert (count.operators, count.pass_bytes, count.operand_bytes) == (2, 800, 1200)
        assert (count.live_bytes, count.peak_bytes) == (800, 800)
        count.start()
        del z
        assert (count.operators, count.live_bytes, count.peak_bytes) == (0, 400, 800)


@pytest.mark.parametrize("decoder", ["tiny"])
def test_a_plan_is_within_three_percent_of_what_is_counted_at_true_sizes(plain_triton, decoder):
    case = card.Case("latent", 9)
    block = card.count_layers(case, card.WAN, PICTURE)
    decoding = card.count_decoding(decoder, PICTURE)
    planned = plan_stream(card.request_of(case, card.WAN, PICTURE, decoder)).device_bytes
    assert planned == pytest.approx(card.peak_of(block, decoding), rel=0.03)


def test_rows_name_every_card_and_say_what_is_counted(plain_triton):
    out = io.StringIO()
    chosen = argparse.Namespace(quick=True, case="mla")
    assert card.run(chosen, Rows("card", True, out)) == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = {row["row"] for row in rows}
    assert kinds == {"decoding", "block", "asked", "peak", "predicted"}
    assert {row["gpu"] for row in rows if row["row"] == "predicted"} == {each.name for each in CARDS}
    assert all(row["is_counted"] for row in rows)


def test_times_are_the_sum_of_each_kind_of_work_at_its_rate():
    rates = next(each for each in CARDS if each.name == "RTX 4090")
    work = BlockWork(
        linear_flops=145 * 10**9, attention_flops=280 * 10**9, pass_bytes=9 * 10**8, decode_flops=65 * 10**9
    )
    assert model_seconds(work, rates) == pytest.approx(1e-3 + 2e-3 + 1e-3)
    assert total_seconds(work, rates) == pytest.approx(4e-3 + 1e-3 + 0.12)

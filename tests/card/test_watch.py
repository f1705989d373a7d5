"""The card that is not there: what it refuses, what it writes down, and what stays real beside it."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from rivulet.kernels.rope import rotate
from rivulet.model_patches.sampler.noise import block_noise
from rivulet.tests.card import caps
from rivulet.tests.card.watch import (
    ATTENTION,
    FREE_TO_CARD,
    FREE_TO_HOST,
    LAUNCH,
    REPACKED,
    STRIDED,
    TO_CARD,
    TO_HOST,
    WAIT,
    Watch,
)


def kinds(card) -> dict[str, int]:
    found = Counter()
    for row in card.watch.sections[-1].rows():
        found[row.kind] += row.count
    return dict(found)


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.isfinite().all()),
    "if": lambda x: 1 if (x > 0).any() else 0,
    "equal": lambda x: torch.equal(x, x),
    "float": lambda x: float(x[0, 0]),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("inference", [True, False])
def test_a_question_about_numbers_waits(card, name, inference):
    with card, torch.inference_mode(inference):
        WAITS[name](torch.ones(2, 3, device=card.device))
        assert kinds(card) == {WAIT: 1}
        WAITS[name](torch.ones(2, 3))
        assert kinds(card) == {WAIT: 1}


@pytest.mark.parametrize("ask", [torch.nonzero, torch.unique, lambda x: x[x > 0]])
def test_a_size_that_is_a_number_on_the_card_is_refused(card, ask):
    with card, pytest.raises(RuntimeError):
        ask(torch.ones(2, 3, device=card.device))


@pytest.mark.parametrize("inference", [True, False])
def test_numbers_that_come_to_the_cpu_are_real_there(card, inference):
    with card, torch.inference_mode(inference):
        there = torch.arange(6, device=card.device, dtype=torch.bfloat16).reshape(2, 3)
        here = there.cpu()
        assert here.tolist() == [[0, 0, 0], [0, 0, 0]] and here.dtype == torch.bfloat16
        assert there.to(torch.float32).tolist() == [[0, 0, 0], [0, 0, 0]]
        assert there.isfinite().cpu().all() and here.float().numpy().shape == (2, 3)
        assert torch.arange(3).mul(2).tolist() == [0, 2, 4]
        assert kinds(card) == {TO_HOST: 3}


def _pinned(x):
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)


COPIES = {
    "as it is": (lambda x, there: x.to(there), TO_CARD),
    "nobody waits, not pinned": (lambda x, there: x.to(there, non_blocking=True), TO_CARD),
    "pinned, waited for": (lambda x, there: x.pin_memory().to(there), TO_CARD),
    "pinned": (lambda x, there: x.pin_memory().to(there, non_blocking=True), FREE_TO_CARD),
    "made pinned": (lambda x, there: _pinned(x).to(there, non_blocking=True), FREE_TO_CARD),
    "part of what is pinned": (lambda x, there: _pinned(x)[1:].to(there, non_blocking=True), FREE_TO_CARD),
    "pinned, into": (
        lambda x, there: torch.empty(x.shape, device=there).copy_(x.pin_memory(), non_blocking=True),
        FREE_TO_CARD,
    ),
    "constants": (lambda x, there: torch.tensor([1.0, 2.0], device=there), TO_CARD),
    "by numbers": (lambda x, there: torch.empty(4, 3, device=there)[[1, 2]], TO_CARD),
    "by index": (lambda x, there: torch.empty(4, 3, device=there)[torch.tensor([1, 2])], TO_CARD),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("inference", [True, False])
def test_a_copy_to_the_card_is_pinned_or_not(card, name, inference):
    copy, kind = COPIES[name]
    with card, torch.inference_mode(inference):
        assert copy(torch.ones(2, 3), card.device).device == card.device
    assert kinds(card) == {kind: 1}


FETCHES = {
    "cpu": (lambda x: x.cpu(), TO_HOST),
    "nobody waits": (lambda x: x.to("cpu", non_blocking=True), FREE_TO_HOST),
    "into memory": (lambda x: torch.empty(x.shape).copy_(x, non_blocking=True), TO_HOST),
    "into pinned memory": (
        lambda x: torch.empty(x.shape, pin_memory=True).copy_(x, non_blocking=True),
        FREE_TO_HOST,
    ),
    "into pinned memory, waited for": (lambda x: torch.empty(x.shape, pin_memory=True).copy_(x), TO_HOST),
}


@pytest.mark.parametrize("name", FETCHES)
def test_a_copy_from_the_card_is_waited_for_or_not(card, name):
    fetch, kind = FETCHES[name]
    with card:
        here = fetch(torch.ones(2, 3, device=card.device))
        assert here.device.type == "cpu" and here.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert kinds(card) == {kind: 1}


def test_two_cards_are_two_devices(card):
    with card:
        one = torch.ones(3, device=card.device)
        other = one.to(card.other)
        assert (one.device, other.device) == (card.device, card.other)
        with pytest.raises(RuntimeError, match="device"):
            one + other
    assert kinds(card) == {}


def test_streams_and_events_are_there_and_waiting_for_them_is_seen(card):
    with card:
        done, side = torch.cuda.Event(), torch.cuda.Stream(card.device)
        with torch.cuda.stream(side):
            x = torch.ones(3, device=card.device)
            x.record_stream(side)
            done.record(side)
        torch.cuda.current_stream(card.device).wait_stream(side)
        assert kinds(card) == {}
        done.synchronize()
        side.synchronize()
        torch.cuda.synchronize(card.device)
    assert kinds(card) == {WAIT: 3}


REFUSED = {
    "last stride": lambda q: (q.transpose(2, 3).contiguous().transpose(2, 3), q, q),
    "16 bytes": lambda q: (q[..., :5].contiguous(),) * 3,
    "float64": lambda q: (q.double(),) * 3,
    "float32": lambda q: (q, q.float(), q),
}


@pytest.mark.parametrize("why", REFUSED)
def test_attention_that_no_fused_kernel_takes_is_refused(card, why):
    with card:
        q, k, v = REFUSED[why](torch.ones(1, 2, 9, 128, device=card.device, dtype=torch.bfloat16))
        with pytest.raises(AssertionError, match=why):
            F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("inference", [True, False])
def test_attention_says_which_kernel_takes_it(card, inference):
    with card, torch.inference_mode(inference):
        q = torch.ones(1, 2, 9, 128, device=card.device, dtype=torch.bfloat16)
        mask = torch.ones(9, 9, device=card.device, dtype=torch.bool)
        out = F.scaled_dot_product_attention(q, q, q)
        assert out.shape == q.shape and out.transpose(1, 2).is_contiguous()
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        F.scaled_dot_product_attention(*(torch.ones(1, 1, 9, 384, device=card.device),) * 3)
    found = {row.what: row.count for row in card.watch.sections[-1].rows() if row.kind == ATTENTION}
    assert found == {"flash": 1, "efficient": 2}


def test_arithmetic_over_a_tensor_that_does_not_lie_as_it_is_read_is_seen(card):
    with card, torch.inference_mode():
        tokens = torch.ones(1, 64, 128, device=card.device)
        channels = torch.ones(1, 128, 64, device=card.device).transpose(1, 2)
        vector = torch.ones(1, 1, 128, device=card.device)
        tokens + tokens, channels * channels, tokens * vector, channels.sigmoid()
        assert kinds(card) == {}
        tokens + channels
        assert kinds(card) == {STRIDED: 1}
        F.layer_norm(channels, (128,))
        F.rms_norm(channels, (128,))
        assert kinds(card) == {STRIDED: 3}
        channels.contiguous()
    assert kinds(card) == {STRIDED: 3, REPACKED: 1}


def test_a_launch_of_a_kernel_is_seen_and_one_over_two_cards_refused(triton_card):
    from rivulet.kernels._triton._launch import Launch

    card = triton_card
    with card:
        x = torch.ones(1, 9, 2, 128, device=card.device, dtype=torch.bfloat16)
        table = torch.ones(9, 64, 2, device=card.device)
        rotate(x, table)
        assert kinds(card) == {LAUNCH: 1}
        launch = {"op": "rotate", "kernel": rotate, "grid": (1,), "constants": {}, "warps": 1, "stages": 1}
        for torn, why in ((table.to(card.other), "cuda:0.*cuda:1"), (table.mT, "b is not packed")):
            with pytest.raises(AssertionError, match=why):
                Launch(arguments={"a": table, "b": torn}, **launch).run()
        with pytest.raises(AssertionError, match="grid"):
            Launch(arguments={"a": table}, **{**launch, "grid": (1, 2**16)}).run()


def test_a_place_is_a_line_of_the_pack(card):
    with card:
        like = torch.ones(1, 4, device=card.device)
        block_noise(0, 0, 0, like.shape, like.device).sum().item()
    places = {(row.kind, row.file, row.function) for row in card.watch.sections[-1].rows()}
    assert places == {(FREE_TO_CARD, "model_patches/transfer.py", "to_device"), (WAIT, "elsewhere", "")}
    head, *lines = card.watch.table("").splitlines()
    assert head.split() == ["kind", "file", "function", "what", "count", "bytes"] and len(lines) == 2
    assert lines[0].split()[-2:] == ["1", "16"]


def test_a_cap_is_neither_passed_nor_left_too_high(monkeypatch):
    monkeypatch.setattr(caps, "TABLE", "part during kind file at most\nengine block wait elsewhere 2\n")
    watch = Watch()
    watch.begin("block")
    watch.note(WAIT, "item")
    counts = caps.highest("engine", watch, ["block"])
    assert "lower the cap" in caps.changed("engine", counts) and "2 -> 1" in caps.changed("engine", counts)
    assert caps.beyond("engine", watch, ["block"]) == []
    watch.note(WAIT, "item")
    assert caps.changed("engine", caps.highest("engine", watch, ["block"])) == ""
    watch.note(WAIT, "item")
    watch.note(TO_CARD, "float32 [1]")
    assert "3, at most 2" in caps.changed("engine", caps.highest("engine", watch, ["block"]))
    waits, copies = caps.beyond("engine", watch, ["block"])
    assert "3 of 'wait', at most 2: 3 at elsewhere:0" in waits and "1 of 'to card', at most 0" in copies

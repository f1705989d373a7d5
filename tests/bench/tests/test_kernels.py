"""`bench kernels`: what the cases claim to move and multiply, its rows on a CPU, its verdict on a card."""

import argparse
import io
import json

import pytest
import torch
from rivulet.kernels.dispatch import Support
from rivulet.tests.bench import cases, kernels
from rivulet.tests.bench.cases import BLOCK, CASES, LONG, WINDOW, maker
from rivulet.tests.bench.records import Rows

META = maker(torch.device("meta"))


def rows_of(monkeypatch, **options):
    monkeypatch.setattr(kernels, "best_seconds", lambda work, device, seconds: (work(), 0.5)[1])
    out = io.StringIO()
    given = {"quick": True, "op": None, "aot": False, "targets": None, "markdown": False} | options
    assert kernels.run(argparse.Namespace(**given), Rows("kernels", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def case_of(op: str, name: str, tokens: int):
    (case,) = (case for case in CASES if (case.op, case.name, case.tokens) == (op, name, tokens))
    return case


def test_windows_are_those_of_wan_at_480p():
    assert (BLOCK, WINDOW, LONG) == (4680, 9360, 28080)


def test_bytes_and_products_are_those_counted_by_hand():
    work = case_of("rebuild", "256 int8 + 768 int4", WINDOW).make(META, WINDOW)
    token = 256 + 384 + 2 * 32 + 2 + 2 * 2 * 1536 + 64 * 2 * 4  # codes, scales, 1/rms; keys, values; table
    assert work.bytes == WINDOW * token + 1024 * 2 * 1536 * 2 + 2 * 1536 * 4
    assert work.flop == WINDOW * 1024 * 4 * 1536
    work = case_of("rebuild", "mla 192+32", LONG).make(META, LONG)
    assert work.bytes == LONG * (448 + 2 * 2 * 1536 + 16 * 2 * 4) + 192 * (1152 + 1536) * 2
    assert work.flop == 2 * LONG * 192 * (1152 + 1536)
    work = case_of("segment_attention", "3 segments", 14040).make(META, 14040)
    assert work.flop == 4 * 4680 * 14040 * 1536


@pytest.mark.skipif(torch.cuda.is_available(), reason="the rows of a GPU have times of kernels")
def test_every_case_runs_on_a_cpu(monkeypatch):
    monkeypatch.setattr(
        cases, "CASES", [cases.Case(op=c.op, name=c.name, tokens=96, make=c.make) for c in CASES]
    )
    monkeypatch.setattr(kernels, "CASES", cases.CASES)
    monkeypatch.setattr(kernels, "triton_support", lambda device: Support(False, f"not on {device}"))
    support, *found = rows_of(monkeypatch)
    assert (support["is_triton"], support["why"]) == (False, "not on cpu")
    assert [(row["op"], row["case"]) for row in found] == [(case.op, case.name) for case in CASES]
    assert all(row["reference_ms"] == 500 and row["attended_tokens"] == 16 for row in found)
    assert all("kernel_ms" not in row for row in found)
    assert {row["op"] for row in rows_of(monkeypatch, op="rope")[1:]} == {"rope"}


def test_a_kernel_that_does_not_fit_is_told_by_the_status(plain_triton, monkeypatch):
    from rivulet.tests.bench import aot

    out = io.StringIO()
    chosen = argparse.Namespace(quick=True, op="rope", aot=True, targets=None, markdown=False)
    for needs, status in (((0, 36, 0), 0), ((101377, 36, 0), 1), ((0, 16, 0), 1), ((0, 36, 4), 1)):
        monkeypatch.setattr(aot, "build", lambda launch, target, needs=needs: aot.Built(*needs, 0.5))
        assert kernels.run(chosen, Rows("kernels", True, out)) == status
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["is_fitting"] for row in rows] == [True, False, False, True]


def test_the_table_is_markdown(plain_triton, monkeypatch, capsys):
    from rivulet.tests.bench import aot

    monkeypatch.setattr(aot, "build", lambda launch, target: aot.Built(2048, 36, 4, 0.5))
    chosen = argparse.Namespace(quick=False, op="rope", aot=True, targets="sm_80,gfx1201", markdown=True)
    kernels.run(chosen, Rows("kernels", False, io.StringIO()))
    assert capsys.readouterr().out.splitlines() == [
        "| kernel | warps, stages | sm_80 | gfx1201 |",
        "|---|---|---|---|",
        "| rope, 12 heads | 4, 1 | 2 / 36 / 4, 0.5 s | 2 / 36 / 4, 0.5 s |",
    ]

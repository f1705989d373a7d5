"""A host's own operation in the place of a kernel that does not run: checked like one, and off like one."""

import pytest
import torch
from rivulet.kernels import check, dispatch
from rivulet.kernels.dispatch import Support, offer, offered
from rivulet.kernels.modulate import add_norm_modulate, norm_modulate, norm_modulate_reference
from rivulet.kernels.rope import rotate, rotate_reference

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Gives every test no offers, no verdicts and no Triton."""
    for name in ("_offers", "_off"):
        monkeypatch.setattr(dispatch, name, {})
    monkeypatch.setattr(dispatch, "_checked", set())
    monkeypatch.setattr(dispatch, "triton_support", lambda device: Support(False, "none here."))


def rotation(x, table):
    return rotate_reference(x, table)


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_an_operation_is_checked_as_a_kernel_is(wrong):
    offer("rotate", lambda x, table: rotate_reference(x, table.flip(0) if wrong else table))
    why = check.quick_check("rotate", CPU, torch.float16, "offered")
    assert ("off, " in why) if wrong else why == ""
    # in one step less exact than a kernel: it would lose what one pass rounds once
    offer("norm_modulate", norm_modulate_reference)
    assert check.quick_check("norm_modulate", CPU, torch.float32, "offered") == ""


def test_it_is_taken_in_half_precision_off_the_cpu_after_its_check(monkeypatch, caplog):
    seen = []

    def judged(op, device, dtype, choice) -> str:
        seen.append((op, dtype, choice))
        return "7 is 8." if dtype == torch.float16 else ""

    monkeypatch.setattr(dispatch, "_checks", [judged])
    offer("rotate", rotation)
    x = torch.zeros(1, 2, 1, 4, device="meta")
    assert offered("rotate", "auto", torch.zeros(1).bfloat16()) is None  # on a CPU
    assert offered("rotate", "auto", x) is None  # float32
    assert offered("rotate", "reference", x.bfloat16()) is None
    assert offered("rotate", "triton", x.bfloat16()) is None
    assert offered("norm_modulate", "auto", x.bfloat16()) is None  # not offered
    with torch.enable_grad():
        assert offered("rotate", "auto", x.bfloat16().requires_grad_()) is None
    assert seen == []
    for _ in range(2):
        assert offered("rotate", "auto", x.bfloat16()) is not None
    assert seen == [("rotate", torch.bfloat16, "offered")] and not caplog.records
    assert offered("rotate", "auto", x.half()) is None
    (record,) = caplog.records
    assert record.getMessage() == "The host's rotate is off on meta, torch does its work: 7 is 8."
    # off is off, for every dtype; a kernel of the same name has its own verdict
    assert offered("rotate", "auto", x.bfloat16()) is None
    assert dispatch._fault("rotate", x.device, torch.bfloat16) == ""
    offer("rotate", None)
    assert dispatch._offers == {}


def test_the_ops_do_with_it_what_they_do_without(monkeypatch):
    monkeypatch.setattr(dispatch, "_checks", [])
    monkeypatch.setattr(dispatch, "_HALVES", (torch.float32,))
    asked = []

    def norm(x, shift, scale, eps):
        asked.append(eps)
        return norm_modulate_reference(x, shift, scale, eps)

    x, (shift, scale, gate) = torch.randn(1, 4, 8), torch.randn(3, 1, 2, 8)
    want, sums = norm_modulate(x, shift, scale, 1e-6), add_norm_modulate(x, x, gate, shift, scale, 1e-6)
    turns = x.view(1, 4, 2, 4)
    table = torch.randn(4, 2, 2)
    turned = rotate(turns, table)
    offer("norm_modulate", norm)
    offer("rotate", lambda x, table: asked.append("rotate") or rotate_reference(x, table))
    assert torch.equal(norm_modulate(x, shift, scale, 1e-6, "offered"), want)
    out = torch.empty_like(turns)
    assert rotate(turns, table, "offered", out) is out and torch.equal(out, turned)
    assert torch.equal(rotate(turns, table, "offered"), turned)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    assert torch.equal(norm_modulate(x, shift, scale, 1e-6), want)
    assert all(map(torch.equal, add_norm_modulate(x, x, gate, shift, scale, 1e-6), sums))
    assert asked == [1e-6, "rotate", "rotate", 1e-6, 1e-6]


@pytest.mark.parametrize(
    ("error", "off"),
    [
        (ValueError("no shape"), True),
        (torch.OutOfMemoryError("full"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=["fault", "memory", "interrupted"],
)
def test_one_that_raises_is_off_from_then_on(error, off, monkeypatch):
    monkeypatch.setattr(dispatch, "_checks", [])

    def broken(*_):
        raise error

    offer("rotate", broken)
    with pytest.raises(type(error)):
        rotate(torch.zeros(1, 2, 1, 4), torch.zeros(2, 2, 2), "offered")
    assert bool(dispatch._fault("rotate", CPU, torch.float16, "offered")) is off


@pytest.mark.parametrize("said", ["CUDA out of memory.", "CUDA error: out of memory", "allocation on device"])
def test_lack_of_memory_is_no_fault_of_its_own(monkeypatch, said):
    def full(x, table):
        raise RuntimeError(said)

    monkeypatch.setattr(dispatch, "_checks", [])
    offer("rotate", full)
    x = torch.zeros(1, 2, 1, 4, device="meta", dtype=torch.float16)
    for _ in range(2):
        operation = offered("rotate", "auto", x)
        with pytest.raises(RuntimeError, match=said):
            operation(x, x)
    assert dispatch._off == {}

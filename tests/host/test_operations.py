"""comfy-kitchen's operations in the engine's place, on the backend that a CPU has."""

import pytest
import torch
from rivulet.kernels import check, dispatch
from rivulet.kernels.rope import rotate_reference


@pytest.fixture
def operations(comfyui, monkeypatch):
    """Returns the module; nothing is offered or off yet."""
    from rivulet.nodes.host import operations

    monkeypatch.setattr(dispatch, "_offers", {})
    monkeypatch.setattr(dispatch, "_off", {})
    return operations


@pytest.fixture
def kitchen(operations):
    """Returns comfy-kitchen."""
    from comfy.quant_ops import ck

    return ck


class Stated:
    """A comfy-kitchen that says this of its backends."""

    def __init__(self, state):
        self.state = state

    def list_backends(self):
        return self.state


@pytest.mark.parametrize(
    ("op", "dtype"), [("rotate", torch.bfloat16), ("rotate", torch.float16), ("norm_modulate", torch.float32)]
)
def test_what_fits_passes_the_check_of_a_kernel(op, dtype, operations, kitchen):
    dispatch.offer(op, operations.operations(kitchen, "eager")[op])
    assert check.quick_check(op, torch.device("cpu"), dtype, "offered") == ""


def test_matrices_of_the_newest_tables_stay_and_are_those_of_their_table(operations, kitchen):
    rotation, x = operations.Rotation(kitchen), torch.randn(1, 3, 2, 8)
    tables = [torch.randn(3, 4, 2) for _ in range(operations.KEPT + 2)]
    for table in [*tables, tables[-1]]:
        torch.testing.assert_close(rotation(x, table), rotate_reference(x, table))
    assert len(rotation._kept) == operations.KEPT


@pytest.mark.parametrize(
    "cuda",
    [None, {"available": False}, {"available": True, "disabled": True, "capabilities": ["adaln"]}],
    ids=["no such backend", "not there", "switched off"],
)
def test_where_it_has_nothing_on_cuda_nothing_is_offered(cuda, operations, monkeypatch):
    import comfy.quant_ops

    monkeypatch.setattr(comfy.quant_ops, "ck", Stated({} if cuda is None else {"cuda": cuda}))
    operations.offer_operations()
    assert dispatch._offers == {}
    monkeypatch.delattr(comfy.quant_ops, "ck")
    operations.offer_operations()
    assert dispatch._offers == {}


def test_what_it_has_on_cuda_is_offered(operations, monkeypatch):
    import comfy.quant_ops

    able = ["apply_rope1", "adaln", "na3d"]
    stated = Stated({"cuda": {"available": True, "disabled": False, "capabilities": able}})
    monkeypatch.setattr(comfy.quant_ops, "ck", stated)
    operations.offer_operations()
    assert set(dispatch._offers) == {"rotate", "norm_modulate"}

"""Which implementation runs, and the sentence that says why."""

import pytest
import torch
from rivulet.kernels import dispatch
from rivulet.kernels.dispatch import triton_support, uses_triton

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Lets every test find out for itself, and leaves nothing found out behind."""
    dispatch._support.cache_clear()
    monkeypatch.setattr(dispatch, "_off", {})
    monkeypatch.setattr(dispatch, "_checked", set())
    yield
    dispatch._support.cache_clear()


def test_on_a_cpu_torch_does_the_work_and_triton_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(dispatch, "triton_support", lambda device: pytest.fail("looked"))
    x = torch.zeros(2)
    assert not uses_triton("op", "auto", x)
    assert not uses_triton("op", "reference", x)


def test_the_interpreter_runs_kernels_on_request(triton):
    support = triton_support(torch.device("cuda") if torch.cuda.is_available() else CPU)
    assert support.triton and support.why.startswith("Triton kernels run on c")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ((torch.zeros(2, dtype=torch.float64),), "it computes in float32 and does not take torch.float64"),
        ((torch.zeros(2), torch.zeros(2, device="meta")), "tensors are on cpu and meta"),
        ((torch.zeros(2, 3).mT,), "a tensor's last dimension is not contiguous"),
        ((torch.zeros(2, requires_grad=True),), "it has no gradient"),
        ((torch.zeros(2, device="meta"),), "there are no Triton kernels for meta"),
    ],
)
def test_what_a_kernel_cannot_take_is_left_to_torch_or_refused(tensors, words):
    meta = [tensor.to("meta") for tensor in tensors]
    assert not uses_triton("op", "auto", *(tensors if len(tensors) > 1 else meta))
    with pytest.raises(RuntimeError, match=rf"op: the Triton kernel cannot run: {words}.*impl='auto' takes"):
        uses_triton("op", "triton", *tensors)


def test_products_of_float32_are_left_to_torch_unless_asked_for(monkeypatch):
    monkeypatch.setattr(dispatch, "triton_support", lambda device: dispatch.Support(True, "yes"))
    x = torch.zeros(2, device="meta")
    assert uses_triton("op", "auto", x)
    assert uses_triton("op", "auto", x, multiplies=x.bfloat16())
    assert not uses_triton("op", "auto", x, multiplies=x)
    assert uses_triton("op", "triton", x, multiplies=x)


def test_an_ops_own_reason_comes_first():
    with pytest.raises(RuntimeError, match="cannot run: it is Sunday"):
        uses_triton("op", "triton", torch.zeros(2), obstacle="it is Sunday.")


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("RIVULET_DISABLE_TRITON", "1")
    support = triton_support(CPU)
    assert not support.triton and "switched off by RIVULET_DISABLE_TRITON=1" in support.why


def test_without_the_interpreter_a_cpu_runs_no_kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert triton_support(CPU).why == "there are no Triton kernels for cpu."


def broken(*arguments):
    raise OSError("libtriton.so: wrong ELF class\nand more")


def test_a_broken_installation_is_told_once_and_is_no_error(monkeypatch, caplog):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(dispatch, "find_spec", broken)
    for _ in range(2):
        support = triton_support(CPU)
        assert not support.triton
        assert support.why == "Triton does not work on cpu: OSError: libtriton.so: wrong ELF class."
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_missing_package_is_named(monkeypatch, caplog):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    for _ in range(2):
        assert "Triton is not installed (pip install triton" in triton_support(CPU).why
    (record,) = caplog.records
    assert record.getMessage().startswith("No Triton kernels on cpu, torch does their work: Triton is not in")


def test_a_wrong_result_is_found(triton, monkeypatch):
    from rivulet.kernels._triton import _smoke

    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    monkeypatch.setattr(_smoke, "works", lambda device: False)
    assert "a kernel ran and gave a wrong result" in triton_support(device).why


@pytest.mark.parametrize(
    "error", [RuntimeError("Triton Error [CUDA]: out of memory"), torch.OutOfMemoryError()]
)
def test_a_full_card_says_nothing_of_triton_and_is_asked_again(triton, monkeypatch, caplog, error):
    from rivulet.kernels._triton import _smoke

    def full(device):
        raise error

    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    x, works = torch.zeros(2, device=device), _smoke.works
    monkeypatch.setattr(_smoke, "works", full)
    support = triton_support(device)
    assert support.full and not support.triton and "is out of memory" in support.why
    with pytest.raises(torch.OutOfMemoryError, match="no Triton kernel could be tried"):
        uses_triton("op", "triton", x)
    monkeypatch.setattr(_smoke, "works", works)
    assert triton_support(device).triton and uses_triton("op", "triton", x) and not caplog.records


def test_old_cards_are_left_to_torch(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    for _ in range(2):
        assert "compute capability 7.5 is below 8.0" in triton_support(torch.device("cuda", 0)).why
    assert len(caplog.records) == 1


def test_a_card_that_torch_does_not_reach_has_no_kernels(monkeypatch):
    def refuse(device):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.cuda, "get_device_capability", refuse)
    monkeypatch.delenv(dispatch.DISABLE, raising=False)
    support = triton_support(torch.device("cuda", 7))
    assert not support.triton and "does not reach cuda:7: Torch not compiled with CUDA" in support.why


def test_devices_without_kernels_are_named_once(caplog):
    for _ in range(2):
        assert not triton_support(torch.device("mps")).triton
    (record,) = caplog.records
    assert record.getMessage().endswith("torch does their work: there are no Triton kernels for mps.")


def test_who_switches_kernels_off_is_not_told_so(monkeypatch, caplog):
    monkeypatch.setenv("RIVULET_DISABLE_TRITON", "1")
    assert not triton_support(torch.device("mps")).triton and not caplog.records


@pytest.fixture
def checks(monkeypatch):
    """Lets meta tensors have kernels, and returns a list of what is checked; "wrong" ops do not pass."""
    seen = []

    def check(op, device, dtype, choice) -> str:
        seen.append((op, dtype))
        return "7 is 8." if op.startswith("wrong") else ""

    monkeypatch.setattr(dispatch, "triton_support", lambda device: dispatch.Support(True, "yes"))
    monkeypatch.setattr(dispatch, "_checks", [check])
    return seen


def test_a_kernel_is_checked_before_its_first_use_and_no_more(checks):
    x, half = torch.zeros(2, device="meta"), torch.zeros(2, device="meta").half()
    assert [uses_triton("op", "auto", each) for each in (x, x, half, x, half)] == [True] * 5
    assert checks == [("op", torch.float32), ("op", torch.float16)]
    assert uses_triton("op", "auto", x, half, multiplies=half)
    # whoever asks for the kernel gets it unchecked: so do the check and the tests
    assert uses_triton("wrong", "triton", x) and not uses_triton("wrong", "reference", x)
    assert len(checks) == 2


def test_a_kernel_that_computes_wrong_is_torchs_from_the_start(checks, caplog):
    x = torch.zeros(2, device="meta")
    assert [uses_triton(op, "auto", x) for op in ("wrong", "op", "wrong", "wrong")] == [False, True] + [
        False
    ] * 2
    assert [op for op, _ in checks] == ["wrong", "op"]
    (record,) = caplog.records
    assert record.getMessage() == "Triton kernel wrong is off on meta, torch does its work: 7 is 8."


def test_a_kernel_that_is_switched_off_stays_off_on_its_device(checks, caplog):
    x = torch.zeros(2, device="meta")
    assert uses_triton("op", "auto", x)
    for _ in range(2):
        dispatch.disable("op", "it hung.", x.device)
    assert not uses_triton("op", "auto", x) and not uses_triton("op", "auto", x.half())
    assert uses_triton("other", "auto", x)
    assert (
        dispatch.faults_on(x.device) == {"op": "it hung."} and dispatch.faults_on(torch.device("cpu")) == {}
    )
    assert len(caplog.records) == 1
    assert dispatch._fault("op", torch.device("cuda", 1), torch.float32) == ""


class Launched:
    """A kernel that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, grid):
        return self.call

    def call(self, **_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "off"),
    [
        (RuntimeError("Triton Error [CUDA]: invalid device function"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=["fault", "driver's memory", "a library's memory", "torch's memory", "interrupted"],
)
def test_a_kernel_that_raises_is_off_from_then_on(plain_triton, error, off, caplog):
    from rivulet.kernels._triton._launch import Launch

    launch = Launch("rotate", Launched(error), (1,), {"X": torch.zeros(1)}, {}, warps=1, stages=1)
    with pytest.raises(type(error)):
        launch.run()
    assert bool(dispatch._fault("rotate", CPU, torch.float32)) is off
    assert len(caplog.records) == off


@pytest.mark.gpu
def test_on_a_gpu_kernels_are_taken_unasked():
    assert uses_triton("op", "auto", torch.zeros(2, device="cuda"))

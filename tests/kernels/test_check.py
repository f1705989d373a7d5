"""The check that stands between a kernel that computes wrong and a user's video."""

import pytest
import torch
from rivulet.kernels import check, dispatch
from rivulet.kernels.check import ODD, SINGLE_TOKEN, check_kernels, quick_check
from rivulet.kernels.trials import TRIALS
from torch import Tensor

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
MAKERS = {"segment_attention", "norm_modulate", "add_norm_modulate"}  # of results of their own
BEYOND = {torch.int8: 3, torch.uint8: 3}  # what no code leaves unharmed: a tenth of all codes, or more


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Lets every test begin with nothing checked and nothing off."""
    monkeypatch.setattr(dispatch, "_off", {})
    monkeypatch.setattr(dispatch, "_checked", set())


@pytest.fixture
def spoiled(triton, monkeypatch):
    """Returns a function that has every kernel followed, or replaced, by something else."""
    from rivulet.kernels._triton._launch import Launch

    plain = Launch.run

    def spoil(what, instead=False) -> None:
        def run(launch: Launch) -> None:
            if not instead:
                plain(launch)
            what(launch)

        monkeypatch.setattr(Launch, "run", run)

    return spoil


def written(launch) -> list[Tensor]:
    """Returns the tensors that a kernel writes."""
    names = ("OUT", "SUM", "LOGSUM", "CODES", "SCALES", "KEYS", "VALUES")
    read = {"_dequantize": {"CODES", "SCALES"}, "_rebuild": {"CODES", "SCALES"}}
    taken = read.get(launch.kernel.__name__, set())
    named = [launch.arguments.get(name) for name in names if name not in taken]
    return [tensor for tensor in named if tensor is not None]


@pytest.mark.parametrize("name", TRIALS)
def test_every_kernel_passes_as_a_stream_of_wan_runs_it(name, triton):
    assert quick_check(name, DEVICE, torch.bfloat16) == ""


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.parametrize("sizes", [ODD, SINGLE_TOKEN], ids=["odd", "single token"])
def test_every_kernel_passes_on_odd_sizes(name, sizes, triton):
    dtypes = (torch.float16,) if name in check.PRODUCTS else (torch.float16, torch.float32)
    found = check._checked(name, DEVICE, dtypes, (sizes,))
    assert found.ok and found.why == "" and 0 <= found.error <= found.tolerance
    assert found.compile_seconds > 0 and found.slow is None


@pytest.mark.parametrize("name", TRIALS)
def test_results_a_little_off_are_found(name, spoiled):
    def shift(launch) -> None:
        for out in written(launch):
            # three times what bfloat16 rounds, or codes one step away
            out.copy_(out ^ 3 if out.dtype in BEYOND else out * (1 + 3 * torch.finfo(out.dtype).eps))

    spoiled(shift)
    assert "off" in quick_check(name, DEVICE, torch.bfloat16)


@pytest.mark.parametrize("name", TRIALS)
def test_a_kernel_that_writes_nothing_is_found(name, spoiled):
    spoiled(lambda launch: None, instead=True)
    assert quick_check(name, DEVICE, torch.float16) != ""


@pytest.mark.parametrize("name", [name for name in TRIALS if name not in MAKERS])
def test_writing_beyond_the_result_is_found(name, spoiled):
    def overflow(launch) -> None:
        for out in written(launch):
            out.as_strided((out.shape[0], out.shape[1] + 1, *out.shape[2:]), out.stride()).fill_(1)

    spoiled(overflow)
    assert quick_check(name, DEVICE, torch.float16).endswith("it wrote beyond its result.")


def test_a_kernel_that_does_not_compile_is_found_and_turned_off(spoiled, monkeypatch, caplog):
    def fail(launch) -> None:
        if launch.op == "rotate":
            raise RuntimeError("PTX was compiled with an unsupported toolchain\nlong story")

    spoiled(fail, instead=True)
    monkeypatch.setattr(check, "TRIALS", {name: TRIALS[name] for name in ("rotate", "dequantize")})
    found = {each.name: each for each in check_kernels(DEVICE)}
    assert not found["rotate"].ok and "RuntimeError: PTX was compiled with" in found["rotate"].why
    assert "long story" not in found["rotate"].why
    # nothing was computed in place of the other, which is wrong too
    assert not found["dequantize"].ok
    assert len([record for record in caplog.records if "rotate is off" in record.message]) == 1
    assert dispatch._fault("rotate", DEVICE, torch.float32) == found["rotate"].why


FULL = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_card_is_no_fault_of_a_kernel(spoiled, error):
    def full(launch) -> None:
        raise error

    spoiled(full, instead=True)
    with pytest.raises(type(error)) as raised:
        quick_check("rotate", DEVICE, torch.float16)
    assert raised.value is error
    assert dispatch._off == {} and dispatch._checked == set()


def test_where_triton_does_not_run_there_is_nothing_to_check(monkeypatch):
    monkeypatch.setenv(dispatch.DISABLE, "1")
    assert check_kernels(torch.device("cpu")) == ()


@pytest.mark.parametrize("name", ["rotate", "dequantize", "rebuild", "add_norm_modulate"])
def test_the_default_device_is_no_concern_of_it(name, triton):
    dtype = torch.bfloat16 if name == "rebuild" else torch.float32
    with torch.device("meta"):
        found = check._checked(name, DEVICE, (dtype,), (ODD,))
    assert found.why == ""


def test_random_numbers_of_the_process_are_left_alone(triton):
    torch.manual_seed(3)
    wanted = torch.randn(4)
    torch.manual_seed(3)
    check._checked("rotate", DEVICE, (torch.float32,), (ODD,))
    assert torch.equal(torch.randn(4), wanted)


@pytest.mark.gpu
def test_on_a_gpu_all_kernels_pass_and_none_is_slower_than_torch():
    found = check_kernels(DEVICE)
    assert [each.name for each in found] == list(TRIALS)
    assert [each.why for each in found if not each.ok] == []
    assert all(each.run_seconds > 0 for each in found)

"""Which of torch's attention kernels a card gets, by what was measured there."""

import pytest
import torch
from rivulet.model_patches.attention import measured
from rivulet.model_patches.attention.measured import (
    KERNELS,
    OWN,
    attend_by,
    chosen,
    fastest,
    measure,
    measured_sdpa,
)
from rivulet.model_patches.attention.sdpa import sdpa

CARD = torch.device("cuda", 0)
HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Keeps what is measured in a folder of the test, and forgets what was chosen."""
    monkeypatch.setenv("RIVULET_CACHE", str(tmp_path / "kept"))
    chosen.cache_clear()
    yield tmp_path / "kept" / "attention.json"
    chosen.cache_clear()


@pytest.fixture
def card(monkeypatch):
    """Pretends that there is a card; returns what is measured there, to be filled, and what was asked."""
    found, asked = {}, []

    def measure_there(device, dtype, width):
        asked.append((device, dtype, width))
        if isinstance(found.get("error"), Exception):
            raise found["error"]
        return dict(found)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    monkeypatch.setattr(measured, "measure", measure_there)
    return found, asked


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        ({}, OWN),
        ({OWN: 2.0}, OWN),
        ({OWN: 2.0, "flash": 2.0, "cudnn": 1.0}, "cudnn"),
        ({OWN: 2.0, "flash": 1.5, "cudnn": 1.6, "efficient": 9.0}, "flash"),
        ({OWN: 2.0, "flash": 1.96}, OWN),
        ({OWN: 1.0, "efficient": 1.2}, OWN),
        ({"flash": 1.0}, OWN),
    ],
    ids=str,
)
def test_a_kernel_has_to_beat_torchs_own_choice_by_more_than_noise(seconds, name):
    assert fastest(seconds) == name


def test_a_card_is_measured_once_and_the_file_outlives_the_process(card, kept):
    found, asked = card
    found |= {OWN: 2.0, "cudnn": 1.0}
    assert [chosen(CARD, HALF, 128) for _ in range(3)] == ["cudnn"] * 3
    chosen.cache_clear()  # another process
    found |= {"flash": 0.1}
    assert chosen(CARD, HALF, 128) == "cudnn" and len(asked) == 1
    # another card, dtype or head width is another measurement, beside the first
    others = [(torch.device("cuda", 1), HALF, 128), (CARD, torch.float16, 128), (CARD, HALF, 64)]
    assert [chosen(*other) for other in others] == ["flash"] * 3 and asked[1:] == others
    chosen.cache_clear()
    assert chosen(CARD, HALF, 128) == "cudnn" and len(asked) == 4
    assert [path.name for path in kept.parent.iterdir()] == ["attention.json"]


def test_where_nothing_can_be_measured_torch_chooses(card, monkeypatch, kept):
    found, asked = card
    assert chosen(CARD, torch.float32, 128) == OWN and asked == []
    found["error"] = torch.OutOfMemoryError("CUDA out of memory")
    assert chosen(CARD, HALF, 128) == OWN and not kept.exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen.cache_clear()
    assert chosen(CARD, HALF, 128) == OWN and len(asked) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"x": 3}', '{"x": {"flash": "soon"}}', '{"x": {"flash": 1}}', '{"x": {}}']
)
def test_a_file_that_is_none_of_ours_is_measured_anew(card, kept, text):
    found, asked = card
    found |= {OWN: 2.0, "flash": 1.0}
    kept.parent.mkdir()
    kept.write_text(text)
    assert chosen(CARD, HALF, 128) == "flash" and len(asked) == 1
    chosen.cache_clear()
    assert chosen(CARD, HALF, 128) == "flash" and len(asked) == 1


def test_a_folder_that_cannot_be_written_is_said_and_no_error(card, kept, caplog):
    found, _ = card
    found |= {OWN: 2.0, "flash": 1.0}
    kept.parent.write_text("a file where the folder should be")
    assert chosen(CARD, HALF, 128) == "flash"
    (record,) = caplog.records
    assert "what was measured is not kept" in record.getMessage()


@pytest.fixture
def small(monkeypatch):
    """Measures something that a CPU makes in no time."""
    for name, value in (("QUERIES", 5), ("KEYS", 9), ("HEADS", 2)):
        monkeypatch.setattr(measured, name, value)


def test_what_a_device_does_not_have_is_left_out(small):
    ticks = iter([3.0, 2.0, 1.0, 0.5])

    def clock(work) -> float:
        work()
        return next(ticks)

    # a CPU has the flash kernel alone
    assert measure(torch.device("cpu"), HALF, 16, clock) == {OWN: 3.0, "flash": 2.0}


def test_a_kernel_that_computes_wrong_is_left_out(small, monkeypatch):
    plain, calls = measured.sdpa, []

    def broken(q, k, v):
        calls.append(q.dtype)
        return plain(q, k, v) * (1 if len(calls) == 1 else torch.nan)

    monkeypatch.setattr(measured, "sdpa", broken)
    assert measure(torch.device("cpu"), HALF, 16, lambda work: 1.0) == {OWN: 1.0}


def test_a_full_card_is_not_taken_for_a_missing_kernel(small, monkeypatch):
    def full(q, k, v):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measured, "sdpa", full)
    with pytest.raises(torch.OutOfMemoryError):
        measure(torch.device("cpu"), HALF, 16, lambda work: 1.0)


def test_measuring_leaves_the_random_numbers_of_the_process_alone(small):
    torch.manual_seed(3)
    wanted = torch.randn(4)
    torch.manual_seed(3)
    measure(torch.device("cpu"), HALF, 16, lambda work: 1.0)
    assert torch.equal(torch.randn(4), wanted)


def test_on_a_cpu_it_is_torchs_attention_and_no_file(kept):
    q, k, v = torch.randn(3, 1, 4, 2, 8)
    assert torch.equal(measured_sdpa(q, k, v), sdpa(q, k, v)) and not kept.exists()


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
def test_a_kernel_that_refuses_these_tensors_leaves_them_to_torchs_own_choice(name):
    q, k, v = torch.randn(3, 1, 4, 2, 8)  # none of the two runs on a CPU
    with pytest.raises(RuntimeError), torch.nn.attention.sdpa_kernel(KERNELS[name]):
        sdpa(q, k, v)
    assert torch.equal(attend_by(name, q, k, v), sdpa(q, k, v))


def test_other_errors_of_attention_pass(monkeypatch):
    asked = []

    def fail(*tensors):
        asked.append(tensors)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(measured, "sdpa", fail)
    q = torch.randn(1, 4, 2, 8)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        attend_by("flash", q, q, q)
    assert len(asked) == 1


@pytest.mark.gpu
def test_on_a_gpu_the_chosen_kernel_computes_attention():
    q, k, v = torch.randn(3, 1, 70, 4, 128, device="cuda", dtype=HALF)
    name = chosen(q.device, HALF, 128)
    assert name == OWN or name in KERNELS
    want = sdpa(q.double(), k.double(), v.double())
    assert (measured_sdpa(q, k, v).double() - want).abs().max() <= 2 * torch.finfo(HALF).eps * v.abs().max()

"""Machines that are not here: drivers, cards and torch builds, by what they answer."""

import subprocess
from pathlib import Path

import pytest
import torch
from rivulet.kernels.check import KernelCheck
from rivulet.kernels.dispatch import Support
from rivulet.model_patches.check import attention, kernels, machine, speed
from rivulet.model_patches.check.clock import Clock, OutOfTimeError
from rivulet.model_patches.check.finding import Finding
from rivulet.model_patches.plan.plan import plan_stream
from rivulet.model_patches.plan.probe import Device

CUDA = torch.device("cuda", 0)
OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
    "downloading and installing a new version"
)


@pytest.fixture
def card(monkeypatch):
    """Returns a function that puts a card of NVIDIA into the machine, for its driver's own program."""

    def put(name="NVIDIA GeForce RTX 3060", driver="470.10", **torch_says):
        answers = {"name": name, "driver_version": driver}
        monkeypatch.setattr(machine, "_nvidia", answers.get)
        monkeypatch.setattr(torch.version, "cuda", torch_says.get("cuda"))
        monkeypatch.setattr(torch.version, "hip", torch_says.get("hip"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        def init():
            raise RuntimeError(torch_says["why"])

        monkeypatch.setattr(torch.cuda, "init", init)

    return put


def test_a_driver_that_is_too_old_is_said_with_the_way_out(card):
    card(cuda="13.0", why=OLD)
    finding = machine.unusable_card()
    assert finding.verdict == "broken"
    assert finding.said.startswith("NVIDIA GeForce RTX 3060 is there (driver 470.10), and torch")
    assert "driver on your system is too old (found version 11040)" in finding.said
    assert finding.way_round.startswith("update NVIDIA's driver to one for CUDA 13.0, or install a torch for")


def test_a_torch_without_cuda_beside_a_card_is_said(card):
    card()
    assert machine.unusable_card().said.endswith("built without CUDA")
    card(hip="6.2")
    assert "built for cards of AMD" in machine.unusable_card().said


def test_no_card_is_no_fault(monkeypatch):
    monkeypatch.setattr(machine, "_nvidia", lambda field: None)
    monkeypatch.setattr(machine, "NVIDIA_PROC", Path("/nowhere"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.unusable_card() is None
    assert machine._card(torch.device("cpu")).verdict == "skipped"


def test_a_card_is_found_without_the_drivers_program(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_nvidia", lambda field: None)
    monkeypatch.setattr(machine, "NVIDIA_PROC", tmp_path)
    information = tmp_path / "gpus" / "0000:01:00.0" / "information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA T4\nGPU UUID: GPU-1\n")
    assert machine.card_that_is_there() == "NVIDIA T4"


def test_the_drivers_program_may_fail(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/bin/nvidia-smi")

    def fails(command, **options):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(machine.subprocess, "run", fails)
    assert machine._nvidia("name") is None


@pytest.fixture
def cards(monkeypatch):
    """Returns a function that gives torch so many cards of one kind."""

    def give(count=1, capability=(8, 6), hip=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (4 << 30, 5 << 30))
        monkeypatch.setattr(torch.version, "hip", hip)

    return give


def test_the_first_card_is_taken_and_a_second_by_name(cards):
    cards(2)
    assert machine.device_of(None) == CUDA and machine.device_of("cuda:1") == torch.device("cuda", 1)
    assert machine.device_of("cuda") == CUDA and machine.device_of("cpu").type == "cpu"
    with pytest.raises(ValueError, match="no device 'cuda:2'; choose one of cuda:0, cuda:1"):
        machine.device_of("cuda:2")


@pytest.mark.parametrize(
    ("capability", "hip", "dtype"),
    [((7, 5), None, torch.float16), ((8, 0), None, torch.bfloat16), ((7, 5), "6.2", torch.bfloat16)],
    ids=["Turing", "Ampere", "AMD"],
)
def test_a_card_computes_in_what_its_matrix_units_have(cards, capability, hip, dtype):
    cards(1, capability, hip)
    assert machine.compute_dtype(CUDA) == dtype
    assert "compute capability" in machine._card(CUDA).said


def test_turing_is_slow_in_words(cards, monkeypatch):
    cards(1, (7, 5))
    halves = torch.full
    monkeypatch.setattr(torch, "full", lambda *sizes, device, **options: halves(*sizes, **options))
    finding = machine._dtype(CUDA)
    assert finding.verdict == "slow" and "no bfloat16" in finding.said and "--force-fp32" in finding.way_round


def test_apples_cards_compute_in_float16():
    assert machine.compute_dtype(torch.device("mps")) == torch.float16


def test_a_dtype_that_does_not_run_and_one_that_is_wrong_are_broken(monkeypatch):
    assert machine._dtype(torch.device("meta")).verdict == "broken"
    cpu, full = torch.device("cpu"), torch.full
    assert machine._dtype(cpu).verdict == "ok"
    monkeypatch.setattr(torch, "full", lambda *sizes, **options: full(*sizes, **options) * 1.25)
    assert machine._dtype(cpu).said == "a product in float32 came out wrong"


def test_facts_hold_whatever_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(machine, "find_ffmpeg", lambda: 1 / 0)
    found = machine.facts(torch.device("cpu"))
    assert found["ffmpeg"] is None and found["torch"] == torch.__version__ and found["rivulet"] != "unknown"


@pytest.mark.parametrize(
    ("why", "device"),
    [
        ("Triton is not installed (pip install triton).", CUDA),
        ("compute capability 7.5 is below 8.0 (RTX 30 and newer).", CUDA),
        ("there are no Triton kernels for mps.", torch.device("mps")),
    ],
)
def test_a_card_without_kernels_is_slow_and_torch_does_it_all(monkeypatch, why, device):
    monkeypatch.setattr(kernels, "triton_support", lambda device: Support(False, why))
    (finding,) = kernels.check_triton(device, Clock(10))
    assert finding.verdict == "slow" and why.rstrip(".") in finding.said
    assert finding.way_round == "torch does its work for the whole run"


def test_a_kernel_that_computes_wrong_is_broken_and_torchs_for_the_whole_run(monkeypatch):
    found = (
        KernelCheck("rope", True, False, 1e-3, 1e-2, 0.5, 1e-3, 2e-3),
        KernelCheck("quantize", True, True, 1e-3, 1e-2, 0.5, 3e-3, 2e-3),
        KernelCheck("rebuild", False, None, 0.3, 1e-2, why="1 x 70 tokens: a result is 0.3 off."),
    )
    monkeypatch.setattr(kernels, "triton_support", lambda device: Support(True, "it runs."))
    monkeypatch.setattr(kernels, "check_each", lambda device: iter(found))
    clock = Clock(10)
    with clock.bounded(10):
        triton, rope, quantize, rebuild = kernels.check_triton(CUDA, clock)
    assert [triton.verdict, rope.verdict, quantize.verdict, rebuild.verdict] == ["ok", "ok", "slow", "broken"]
    assert rebuild.said == "1 x 70 tokens: a result is 0.3 off"
    assert rebuild.way_round == "torch does its work for the whole run"


def test_kernels_that_take_too_long_leave_what_was_found(monkeypatch):
    found = KernelCheck("rope", True), KernelCheck("quantize", True)
    monkeypatch.setattr(kernels, "triton_support", lambda device: Support(True, "it runs."))
    monkeypatch.setattr(kernels, "check_each", lambda device: iter(found))
    clock, names = Clock(10), []
    with clock.bounded(-1), pytest.raises(OutOfTimeError):
        for finding in kernels.check_triton(CUDA, clock):
            names.append(finding.name)
    assert names == ["Triton", "Kernel rope"]


def attention_findings(**others):
    clock = Clock(100)
    with clock.bounded(100), torch.inference_mode():
        return {
            each.name: each
            for each in attention.check_attention(torch.device("cpu"), torch.bfloat16, clock, others)
        }


def test_attention_is_held_to_what_its_roundings_explain():
    def wrong(q, k, v):
        return attention.sdpa(q, k[:, 1:], v[:, 1:])

    def coarse(q, k, v):
        return attention.sdpa((q * 8).round() / 8, k, v)

    found = attention_findings(wrong=wrong, coarse=coarse, none=lambda q, k, v: q / 0)
    right = found["Attention, as streams call it (torch's own choice)"]
    assert right.verdict == "ok" and right.figures["error"] > right.figures["tolerance"] / 20
    assert found["Attention, cuDNN"].verdict == "skipped"
    assert found["none"].verdict == "broken" and "--use-split-cross-attention" in found["none"].way_round
    assert found["coarse"].verdict == "ok" and "fewer bits on purpose" in found["coarse"].said


def test_a_card_with_4_gb_is_refused_with_the_way_out():
    request = speed.request_for(speed.WAN, CUDA, torch.bfloat16)
    small = Device("a card of 4 GB", 20e12, 200e9, int(3.4e9), int(16e9), int(100e9))
    finding = speed.fit(request, small)
    assert finding.verdict == "broken" and "a card of 4 GB" in finding.said
    assert finding.said.startswith("Does not fit, and no")
    assert "Pocket Model" in finding.way_round and "tiny decoder" in finding.way_round
    middle = speed.fit(request, Device("12", 1e14, 1e12, int(11.5e9), int(16e9), int(100e9)))
    assert middle.verdict == "slow" and middle.said.startswith("Does not fit. Do this: take ")
    assert "Then it fits:" in middle.said
    assert speed.fit(request, Device("24", 1e14, 1e12, int(23e9), int(16e9), int(100e9))).verdict == "ok"


def test_time_and_memory_are_held_to_the_plan():
    plan = plan_stream(speed.request_for(speed.WAN, CUDA, torch.bfloat16))
    card = Device("a card", 1e14, 1e12, int(23e9))
    planned = plan.block.seconds(1e14, 1e12)
    found = speed.Measured(2 * planned, plan.device_bytes)
    assert speed.time_finding(plan, found, card, 1536).verdict == "ok"
    slow = speed.time_finding(plan, speed.Measured(4 * planned, None), card, 1536)
    assert slow.verdict == "slow" and "4 times the plan's" in slow.said
    assert speed.memory_finding(plan, speed.Measured(1, None)).verdict == "skipped"
    parts = plan.weights_bytes, plan.cache_bytes, plan.workspace_bytes, plan.text_bytes, plan.activation_bytes
    most = int(1.1 * sum(parts)) + speed.WORKSPACE_BYTES
    assert speed.memory_finding(plan, speed.Measured(1, most)).verdict == "ok"
    assert speed.memory_finding(plan, speed.Measured(1, most + 2)).verdict == "broken"


def test_a_verdict_is_one_of_four():
    with pytest.raises(ValueError, match="none of broken, slow, ok, skipped"):
        Finding("x", "fine", "it is")

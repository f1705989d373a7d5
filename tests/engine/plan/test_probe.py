"""The probe: rates from times, and what a machine has free."""

import pytest
import torch
from rivulet.model_patches.plan import probe
from rivulet.model_patches.plan.probe import Device

CPU = torch.device("cpu")


def test_rates_are_work_by_time(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "SIZES", {"cpu": (100, 1000)})
    monkeypatch.setattr(probe, "best_seconds", lambda work, device, seconds: 0.5 if work() is not None else 0)
    found = probe.probe(CPU, torch.float32, tmp_path)
    assert found.matmul_flops == 2 * 100**3 / 0.5 and found.bytes_per_second == 2 * 1000 / 0.5
    assert found.is_cpu and found.free_disk_bytes > 0


def test_free_memory_is_looked_at_once_before_anything_is_measured(monkeypatch, tmp_path):
    """What the measurement takes is free again when a model is loaded."""
    free = iter([5000])
    monkeypatch.setattr(probe, "SIZES", {"cpu": (4, 16)})
    monkeypatch.setattr(probe, "free_ram_bytes", lambda: next(free))
    monkeypatch.setattr(probe, "best_seconds", lambda *_: 1.0 if next(free, None) is None else 0.0)
    found = probe.probe(CPU, torch.float32, tmp_path)
    assert found.free_bytes == found.free_ram_bytes == 5000


def test_the_best_of_at_least_three_runs_counts(monkeypatch):
    now = iter([0.0, *(0.0, 9.0), *(10.0, 12.0), *(20.0, 21.0), *(30.0, 33.0), 40.0])
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(now))
    runs = []
    assert probe.best_seconds(lambda: runs.append(1), CPU, seconds=1.0) == 1.0
    assert len(runs) == 4


def test_a_device_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="rates must be above 0, got 0 FLOP/s"):
        Device("card", 0, 1.0)

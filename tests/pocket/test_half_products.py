"""Trainings multiply in bfloat16 only where the device has it in hardware."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rivulet.pocket import half_products as module
from rivulet.pocket.half_products import half_products, product_dtype

CPU = torch.device("cpu")


def dtype_of_products(device: torch.device = CPU, wanted: bool = True) -> torch.dtype:
    with half_products(device, wanted):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def processor(monkeypatch: pytest.MonkeyPatch, fast: bool, built: bool = True) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    library = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: fast)
    monkeypatch.setattr(torch, "ops", SimpleNamespace(mkldnn=library))


def test_a_processor_without_bfloat16_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, fast=False)
    assert dtype_of_products() is torch.float32
    assert product_dtype(CPU) is torch.float32


def test_a_processor_with_bfloat16_uses_it_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, fast=True)
    assert dtype_of_products() is torch.bfloat16
    assert dtype_of_products(wanted=False) is torch.float32


def test_a_torch_without_onednn_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, fast=True, built=False)
    assert dtype_of_products() is torch.float32


def test_a_card_is_left_to_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, fast=False)
    assert module._has_fast_bfloat16(torch.device("cuda"))

"""A memory's encoder as one of the host's models, which moves it to the card and away as it does the others.

R batch rows, M memory tokens, E evicted tokens, C channels of the model, N heads, D head width.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...model_patches.attention.sdpa import Attention, sdpa
from ...model_patches.memory.encoder import MemoryEncoder
from ...model_patches.memory.policy import MemoryPolicy
from .loaded import load_models


class HostEncoder:
    """A `MemoryEncoder` that is on its device whenever it is asked; to be asked between two samplings."""

    def __init__(self, encoder: MemoryEncoder, device: torch.device) -> None:
        self.config, self.dtype = encoder.config, encoder.dtype
        # not dynamic: of that kind every load would copy it again, since its layers are not the host's
        self.patcher = ModelPatcher(encoder, device, management.unet_offload_device())

    def fresh(self, rows: int) -> Tensor:
        """The learned initial state [R, M, C]."""
        return self._loaded().fresh(rows)

    def update(
        self, state_BMC: Tensor, k_BEND: Tensor, v_BEND: Tensor, attention: Attention = sdpa
    ) -> Tensor:
        """The state after one update, see `MemoryEncoder.update`."""
        return self._loaded().update(state_BMC, k_BEND, v_BEND, attention)

    def read(self, state_BMC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a state, see `MemoryEncoder.read`."""
        return self._loaded().read(state_BMC)

    def _loaded(self) -> MemoryEncoder:
        load_models([self.patcher])
        return self.patcher.model


def managed(policy: MemoryPolicy, device: torch.device) -> MemoryPolicy:
    """The policy with its encoders, where it has any, loaded by the host to this device."""
    if not is_dataclass(policy):
        return policy
    parts = {each.name: getattr(policy, each.name) for each in fields(policy)}
    encoders = {name: part for name, part in parts.items() if isinstance(part, MemoryEncoder)}
    return replace(policy, **{name: HostEncoder(part, device) for name, part in encoders.items()})

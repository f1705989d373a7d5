"""Loading models of the host, without a wait for the card where they are loaded already.

The host's `load_models_gpu` gives torch's freed memory back to the driver whenever that is a quarter of what
is free, which synchronizes; between two blocks of a stream that would be once for the model and once for the
VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management as management
from comfy.sampler_helpers import estimate_memory, get_additional_models


def load_models(patchers: Sequence[Any], memory_required: float = 0) -> None:
    """Has the host load these models beside so many free bytes, as `load_models_gpu` does."""
    if not in_place(patchers, memory_required):
        management.load_models_gpu(list(patchers), memory_required=memory_required)


def in_place(patchers: Sequence[Any], memory_required: float) -> bool:
    """Whether these models are loaded whole and as they are patched, with room for so many bytes beside them.

    The host then has nothing to load and nothing to free; they are marked as in use, as it marks them.
    """
    # of a model that nobody holds any more the host keeps the entry for a while
    living = (entry for entry in management.current_loaded_models if entry.model is not None)
    entries = {id(entry.model): entry for entry in living}
    found = [entries.get(id(patcher)) for patcher in patchers]
    if not all(entry is not None and _is_whole(entry) for entry in found):
        return False
    room = max(management.minimum_inference_memory(), memory_required + management.extra_reserved_memory())
    devices = {patcher.load_device for patcher in patchers}
    if any(management.get_free_memory(device) < room for device in devices):
        return False
    for entry in found:
        entry.currently_used = True
    return True


def prepare_sampling(
    executor: Any,
    model: Any,
    noise_shape: Sequence[int],
    conds: dict[str, Any],
    model_options: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """A wrapper around the host's preparation of a sampling: nothing is loaded where all of it is there."""
    beside, _ = get_additional_models(conds, model.model_dtype())
    if not (beside or any(more.values()) or (model_options or {}).get("registered_hooks")):
        nested = model.get_nested_additional_models()
        needed, _ = estimate_memory(model, noise_shape, conds)
        if in_place([model, *nested], needed):
            return model.model, conds, nested
    return executor(model, noise_shape, conds, model_options=model_options, **more)


def _is_whole(entry: Any) -> bool:
    """Whether an entry of the host's list needs nothing done to it; what others inject, the host sees to."""
    patcher = entry.model
    return (
        patcher.current_loaded_device() == patcher.load_device
        and patcher.model.current_weight_patches_uuid == patcher.patches_uuid
        and entry.model_offloaded_memory() <= 0
        and not (patcher.injections or patcher.forced_hooks or patcher.model_patches_models())
    )

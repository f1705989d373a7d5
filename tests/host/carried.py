"""A MODEL of the host on a card that is not there, see `tests.card.faked`."""

from contextlib import nullcontext, suppress
from copy import copy

import torch
from rivulet.tests.card.faked import Card

PLENTY = 2**40  # bytes free on the card


def carry(
    card: Card, model, monkeypatch, dtype: torch.dtype = torch.bfloat16, device: torch.device = Card.device
):
    """A clone of the MODEL whose weights are on the card; what the host does to real cards is left out.

    The layers are the MODEL's own: `monkeypatch` brings them back.
    """
    import comfy.ldm.wan.model
    import comfy.model_management as management
    import comfy.model_patcher
    from comfy.ldm.modules.attention import attention_pytorch
    from rivulet.nodes.host import block, past

    clone = model.clone()
    dit = clone.model.diffusion_model
    for part in dit.modules():
        monkeypatch.setattr(part, "_parameters", dict(part._parameters))
    card.carry(dit, dtype, device)
    card.carry(dit.patch_embedding, torch.float32, device)
    for owner, name, value in (
        (clone, "load_device", device),
        (clone.model, "device", device),
        (dit, "dtype", dtype),
        (management, "load_models_gpu", lambda *_, **__: None),
        (management, "free_memory", lambda *_, **__: []),
        (management, "get_free_memory", lambda *_, **__: PLENTY),
        (management, "cuda_device_context", lambda _: nullcontext()),
        (management, "device_supports_non_blocking", lambda _: True),
        (comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: PLENTY),
        (past, "optimized_attention", attention_pytorch),
        (comfy.ldm.wan.model, "optimized_attention", attention_pytorch),
        (block, "check_forward", _compared),
        # of the empty latents that a sampling is given; a card that has no numbers says "true" to "any?"
        (torch, "count_nonzero", lambda x: int(x.sum())),
    ):
        monkeypatch.setattr(owner, name, value)
    return clone


def carry_vae(card: Card, vae, monkeypatch, dtype: torch.dtype, device: torch.device):
    """A copy of the VAE whose weights are on the card; its self-checks are made before, where it has numbers.

    The layers are the VAE's own: `monkeypatch` brings them back.
    """
    from comfy.ldm.modules.diffusionmodules.model import pytorch_attention
    from rivulet.nodes.host.decoder import decoder_for, is_tiny
    from rivulet.nodes.host.encoder import HostEncoder

    decoder_for(vae, lambda latents: latents)
    if not is_tiny(vae):
        HostEncoder(vae)
    there, model = copy(vae), vae.first_stage_model
    for part in model.modules():
        monkeypatch.setattr(part, "_parameters", dict(part._parameters))
        if hasattr(part, "optimized_attention"):
            monkeypatch.setattr(part, "optimized_attention", pytorch_attention)
    card.carry(model, dtype, device)
    there.device, there.vae_dtype = device, dtype
    return there


def _compared(*given) -> None:
    """The comparison of both forwards, which finds no numbers to compare."""
    from rivulet.nodes.host.tree import check_forward

    with suppress(RuntimeError):
        check_forward(*given)


def settle(model, device, monkeypatch) -> None:
    """Has the host find the weights of a MODEL or VAE on the card, as after a load."""
    monkeypatch.setattr(model, "load_device", device)
    for name, value in (
        ("device", device),
        ("model_loaded_weight_memory", model.model_size()),
        ("model_lowvram", False),
        ("current_weight_patches_uuid", model.patches_uuid),
    ):
        monkeypatch.setattr(model.model, name, value)

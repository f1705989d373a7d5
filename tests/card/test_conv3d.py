"""A card whose libraries waste memory on 3D convolutions in half precision."""

import torch
import torch.nn.functional as F
from rivulet.model_patches.vae import wan
from rivulet.model_patches.vae.decoder import decode_stream


def test_a_card_with_such_versions_decodes_in_2d(card, monkeypatch):
    with torch.device("meta"):
        vae = wan.WanVAE(dim=8)
    card.carry(vae, torch.bfloat16)
    called = []
    convolve = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda *given, **named: called.append(0) or convolve(*given, **named))
    for wastes in (False, True):
        monkeypatch.setattr(wan, "wastes_memory", lambda *versions, wastes=wastes: wastes)
        called.clear()
        with card:
            frames, _ = decode_stream(vae, card.empty(1, 16, 3, 4, 6))
        assert frames.shape == (9, 32, 48, 3) and bool(called) is not wastes

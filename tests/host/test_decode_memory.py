"""What the host's decoder holds on a card, counted storage by storage at a published size."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.vae.cost import buffer_numbers, head_channels
from rivulet.tests.engine.viewers.live import Watch

BYTES = 2  # bfloat16


@pytest.fixture
def asked(monkeypatch):
    """Returns the bytes that were asked for, as a list that grows; there is always room."""
    import comfy.model_management

    seen = []
    monkeypatch.setattr(
        comfy.model_management, "load_models_gpu", lambda _, memory_required: seen.append(memory_required)
    )
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 2**40)
    return seen


@pytest.fixture
def decoder(card, comfyui, asked, monkeypatch, request):
    """Returns a decoder of the host's own layers, of this width and `upscale`, in bfloat16 on the card."""
    from comfy.ldm.wan.vae import WanVAE
    from rivulet.nodes.host.vae import HostDecoder

    with torch.device("meta"):
        dim, upscale = request.param
        widths = {"dim": dim, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
        head = {"conv_out_channels": head_channels(upscale)}
        model = WanVAE(**widths, **head, temperal_downsample=[False, True, True])
    card.carry(model, torch.bfloat16)
    card.attended = deque(maxlen=0)  # nothing is kept to be looked at
    monkeypatch.setattr(HostDecoder, "_check", lambda self: None)  # it has no numbers
    return HostDecoder(
        SimpleNamespace(
            first_stage_model=model, patcher=None, encode=None, memory_used_decode=None,
            process_output=lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0),
            vae_dtype=torch.bfloat16, device=card.device, output_device=torch.device("cpu"),
            latent_channels=16,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("decoder", "count", "height", "width"),
    [
        *[((96, 1), count, 60, 104) for count in (2, 4, 8)],  # latents of 832x480
        ((96, 2), 4, 60, 104),
        # narrow ones, whose pictures take as much as their layers, and that at a size at which what the host
        # holds for attention, as much as there is room for, takes less
        ((24, 1), 4, 30, 52),
        ((24, 2), 4, 30, 52),
    ],
    indirect=["decoder"],
)
def test_decoding_holds_what_is_asked_for_and_no_third_past(card, decoder, asked, count, height, width):
    places = height * width
    with card:
        _, past = decoder.decode(card.empty(1, 16, 3, height, width))
        given = card.empty(1, 16, count, height, width)
        asked.clear()
        with Watch() as seen:
            pixels, after = decoder.decode(given, past)
    assert pixels.dtype == torch.uint8 and pixels.device == card.device and len(pixels) == 4 * count
    kept = [part for part in after.layers if isinstance(part, torch.Tensor)]
    dim = decoder.vae.first_stage_model.decoder.conv1.out_channels // 4
    assert buffer_numbers(dim, places) == sum(part.numel() for part in kept)
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in kept)
    # the pictures of the pieces before come on top
    before = (count - 2) * 4 * 64 * places * head_channels(decoder.upscale)
    assert abs(seen.peak_bytes - before - asked[0]) < 0.03 * asked[0]

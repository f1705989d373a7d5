"""Streams on a card that is not there: what lies on it, and what beside it."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def decoder(card, load_vae, monkeypatch):
    """Returns a decoder whose VAE is on the card, in bfloat16."""
    import comfy.model_management
    from rivulet.nodes.host.vae import HostDecoder

    made = HostDecoder(load_vae("vae"))
    card.carry(made.vae.first_stage_model, torch.bfloat16)
    made.vae.device, made.vae.vae_dtype = card.device, torch.bfloat16
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: None)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 2**40)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_past_from_a_file_goes_on_with_latents_on_the_card(card, decoder, dtype):
    """Snapshots are read into the computer's memory, perhaps of a VAE in another dtype; the sampler gives its
    latents on the card."""
    from rivulet.model_patches.vae.decoder import VaeBuffers

    with card:
        _, past = decoder.decode(card.empty(1, 16, 4, 4, 4))
        assert past.pending.device == card.device
        read = [each.to("cpu", dtype) if isinstance(each, torch.Tensor) else each for each in past.layers]
        past = VaeBuffers(tuple(read), past.pending.cpu())
        pixels, past = decoder.decode(card.empty(1, 16, 3, 4, 4), past)
        assert pixels.shape == (16, 32, 32, 3) and past.pending is None
        on_card = {(each.device, each.dtype) for each in past.layers if isinstance(each, torch.Tensor)}
        assert on_card == {(card.device, torch.bfloat16)}


def test_the_tail_lies_where_the_hosts_samplers_leave_theirs(card, load, vae, prompt, tmp_path, monkeypatch):
    """On the card they would take the room of what runs next."""
    import comfy.model_management
    import folder_paths
    from rivulet.nodes import stream
    from rivulet.nodes.host.caller import HostCaller
    from rivulet.nodes.host.decoder import InModelUnits
    from rivulet.nodes.host.vae import HostDecoder
    from rivulet.nodes.stream import RivuletStream

    sampled = card.empty(1, 16, 3, 6, 4)
    monkeypatch.setattr(HostCaller, "to_vae", lambda *_: sampled)
    monkeypatch.setattr(stream, "decoder_for", lambda vae, _: InModelUnits(HostDecoder(vae), lambda x: x))
    monkeypatch.setattr(
        RivuletStream, "hidden", SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    )
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    asked = {"width": 32, "height": 48, "seconds": 0.5, "fps": 16.0, "seed": 5, "num_frame_per_block": 3}
    inputs = {"preset": "pocket", "cfg": 1.0, "filename_prefix": "take", "positive": prompt(0)}
    _, _, tail, _ = RivuletStream.execute(load("plain"), vae, **asked, **inputs).args
    assert tail["samples"].device == comfy.model_management.intermediate_device() == torch.device("cpu")
    assert tail["samples"].shape == sampled.shape

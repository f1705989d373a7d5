"""Pocket Model's VAE in soft light: pictures of three channels from core's nodes, the same from a stream."""

import gc
import weakref

import pytest
import torch
from rivulet.model_patches.vae.decoder import decode_stream
from rivulet.model_patches.vae.wan import in_model_units
from rivulet.pocket import detector, lit, world
from rivulet.pocket.choices import with_look
from rivulet.pocket.models import load_pocket
from rivulet.tests.host.decoding import streamed

PROMPT = "a red circle and a blue square on a green ground"


@pytest.fixture(scope="module")
def vaes(comfyui):
    """Returns the node's VAE in either look."""
    from rivulet.nodes.pocket_model import FLAT, LIT, RivuletPocketModel

    return {
        name: RivuletPocketModel.execute(look=look).args[2] for name, look in (("lit", LIT), ("plain", FLAT))
    }


@pytest.fixture(scope="module")
def film():
    """Returns (scenes, places) of one clip of nine pictures."""
    one = world.sample_scenes(1, torch.Generator().manual_seed(110), band_share=0.0)
    one.colour_BN[0], one.shape_BN[0], one.ground_B[0] = torch.tensor([0, 2]), torch.tensor([0, 1]), 1
    return one, world.simulate(one, 9)


@pytest.fixture(scope="module")
def latents(vaes, film):
    """Returns what the flat VAE of the host makes of the clip drawn flat."""
    return vaes["plain"].encode(world.render(*film, 64)[0] / 255)


def test_soft_light_is_what_the_node_gives_where_nothing_is_said(vaes):
    from rivulet.nodes.pocket_model import LIT, RivuletPocketModel

    schema = RivuletPocketModel.define_schema()
    assert [each.id for each in schema.inputs] == ["attention", "look"], (
        "workflows of before have the first alone"
    )
    assert schema.inputs[1].default == LIT and schema.inputs[1].optional
    assert RivuletPocketModel.execute("Wan's").args[2].decode(torch.zeros(1, 16, 1, 2, 2)).shape[-3:] == (
        32,
        32,
        3,
    )


def test_cores_vae_decode_gives_pictures_and_a_stream_gives_the_same(vaes, latents):
    from rivulet.nodes.host.vae import HostDecoder

    import nodes

    (whole,) = nodes.VAEDecode().decode(vaes["lit"], {"samples": latents.clone()})
    assert whole.shape == (9, 128, 128, 3)
    assert torch.equal(streamed(HostDecoder(vaes["lit"]), latents, 2), whole)
    own = decode_stream(with_look(load_pocket(), "lit").vae, in_model_units(latents))[0]
    assert (own.float() - whole * 255).abs().max() < 1, "the engine's, rounded to levels"
    plain = nodes.VAEDecode().decode(vaes["plain"], {"samples": latents.clone()})[0]
    assert plain.shape == (9, 64, 64, 3)


def test_cores_tiled_decode_gives_pictures_of_the_same_size(vaes, latents):
    import nodes

    whole = vaes["lit"].decode(latents.clone())[0]
    (tiled,) = nodes.VAEDecodeTiled().decode(vaes["lit"], {"samples": latents.clone()}, 64, overlap=32)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.1


def test_pictures_in_soft_light_are_encoded_as_flat_ones(vaes, film, latents):
    """So that a stream's own end, and a video to follow, are what the encoder knows."""
    from rivulet.nodes.host.encoder import HostEncoder

    small = torch.nn.functional.avg_pool2d(lit.render(*film, 128)[0].movedim(-1, 1) / 255, 2).movedim(1, -1)
    read, raw = (vaes[name].encode(small) for name in ("lit", "plain"))
    assert (read - latents).square().mean() < 0.25 * (raw - latents).square().mean()
    assert torch.allclose(HostEncoder(vaes["lit"])(small, last=True)[0], read, rtol=0, atol=1e-4)
    shown = (vaes["plain"].decode(read)[0] * 255).round().byte()
    assert detector.adherence(shown, PROMPT) == 1


@pytest.mark.parametrize("look", ["LIT", "FLAT"])
def test_a_vae_that_nobody_holds_is_gone_at_once(comfyui, look):
    """What is held in a circle waits for the collector: the host warns of a leak, and collects everything."""
    import comfy.model_management
    from rivulet.nodes import pocket_model

    vae = pocket_model.RivuletPocketModel.execute(look=getattr(pocket_model, look)).args[2]
    gc.collect()
    gc.disable()
    try:
        model = weakref.ref(vae.first_stage_model)
        vae.decode(torch.zeros(1, 16, 1, 2, 2))
        del vae
        comfy.model_management.cleanup_models()
        assert model() is None
    finally:
        gc.enable()

"""The host's tiny VAE (TAEHV), streamed: the pictures of its own decode of the whole, and whose it is."""

import pytest
import torch
from rivulet.model_patches.vae.decoder import VaeBuffers, decode_stream
from rivulet.model_patches.vae.load import load_tiny
from rivulet.model_patches.vae.tiny import TinyDecoder
from rivulet.model_patches.vae.wan import in_model_units, in_vae_units
from rivulet.tests.host.decoding import latents, streamed
from rivulet.tests.host.graphs import stream_graph


def in_its_units(latents):
    """Latents that are in the VAE's units already, to the last bit."""
    return latents


@pytest.fixture(scope="module")
def decoder(tiny_vae):
    from rivulet.nodes.host.decoder import decoder_for

    return decoder_for(tiny_vae, in_its_units)


@pytest.mark.parametrize("cut", [1, 3, 9], ids="cut{}".format)
def test_streamed_frames_equal_the_hosts_decode_of_the_whole(decoder, tiny_vae, cut):
    import nodes

    (whole,) = nodes.VAEDecode().decode(tiny_vae, {"samples": latents(9)})
    got = streamed(decoder, latents(9), cut)
    assert got.shape == whole.shape == (33, 32, 32, 3) and got.dtype == whole.dtype
    whole = whole.clamp(0, 1)
    assert whole.std() > 0.1 and whole.std(0).mean() > 0.01
    assert torch.equal(got, whole), f"max difference {(got - whole).abs().max():.3g}"
    levels = streamed(decoder, latents(9), cut, exact=False)
    assert levels.dtype == torch.uint8 and torch.equal(levels, (whole * 255).round().byte())


def test_the_engines_own_decoder_gives_the_hosts_pictures(tiny_vae, models):
    """The same file through both loaders; latents of a stream are in the model's units, the host's not."""
    from rivulet.nodes.host.decoder import decoder_for

    own = load_tiny(models / "lighttaew2_1.safetensors")
    (theirs,) = tiny_vae.decode(latents(3)).clamp(0, 1)
    ours, _ = decode_stream(own, in_model_units(latents(3)), dtype=torch.float32)
    # to other units and back: a few roundings of float32 on values up to 10
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    streams = streamed(decoder_for(tiny_vae, in_vae_units), in_model_units(latents(3)), 2)
    torch.testing.assert_close(streams, theirs, rtol=0, atol=1e-4)


def test_keys_and_shapes_are_those_of_the_hosts_class(comfyui):
    from comfy.taesd.taehv import TAEHV

    theirs = {k: v.shape for k, v in TAEHV(16).state_dict().items() if k.startswith("decoder.")}
    with torch.device("meta"):
        assert {k: v.shape for k, v in TinyDecoder().state_dict().items()} == theirs


def test_a_tiny_decoder_in_half_precision_is_taken_for_what_its_file_is_called(load_vae, models):
    """The host takes it for HunyuanVideo's and would scale the latents so."""
    from rivulet.nodes.host.decoder import decoder_for, why_not_vae

    named = load_vae("taew2_1")
    assert named.first_stage_model.latent_format is not None and why_not_vae(named) is None
    got = streamed(decoder_for(named, in_its_units), latents(3), 2)
    own = load_tiny(models / "taew2_1.safetensors")
    exact, _ = decode_stream(own, in_model_units(latents(3)), dtype=torch.float32)
    torch.testing.assert_close(got.float(), exact, rtol=0, atol=1e-4)
    refusal = why_not_vae(load_vae("hunyuan"))
    assert "takes this tiny decoder for HunyuanVideo's" in refusal and "give the file that name" in refusal


def test_a_first_picture_is_encoded_in_the_units_of_the_stream(load_vae, tiny_vae):
    from rivulet.nodes.host.decoder import first_latents

    picture = torch.rand(1, 32, 32, 3)
    of_vae = first_latents(tiny_vae, picture)
    assert of_vae.shape == (1, 16, 1, 4, 4) and torch.equal(of_vae, tiny_vae.encode(picture))
    of_model = in_model_units(first_latents(load_vae("taew2_1"), picture))
    # the same weights rounded to half precision, whose answers are in the model's units
    torch.testing.assert_close(
        of_model.float(), of_vae.float(), rtol=0, atol=0.02 * of_vae.abs().max().item()
    )


@pytest.mark.parametrize(("channels", "kind"), [(48, "Wan 2.2 5B"), (32, "HunyuanVideo 1.5")])
def test_tiny_decoders_of_other_latents_are_named(tiny_vae, monkeypatch, channels, kind):
    from rivulet.nodes.host.decoder import why_not_vae

    monkeypatch.setattr(tiny_vae, "latent_channels", channels)
    assert f"is a tiny decoder for {kind} ({channels} latent channels)" in why_not_vae(tiny_vae)


def test_a_host_whose_decoder_changed_is_found(tiny_vae, unchecked, monkeypatch):
    from rivulet.nodes.host.tiny_vae import HostTinyDecoder

    right = HostTinyDecoder._piece
    monkeypatch.setattr(HostTinyDecoder, "_piece", lambda self, piece, kept: right(self, piece, None))
    with pytest.raises(RuntimeError, match="other pictures piece by piece than at once"):
        HostTinyDecoder(tiny_vae)


def test_a_past_of_the_other_kind_is_refused(decoder, vae):
    from rivulet.nodes.host.vae import HostDecoder

    wan = HostDecoder(vae)
    _, of_tiny = decoder.decode(latents(1), None)
    _, of_wan = wan.decode(latents(1))
    for fitting, past in ((decoder, of_tiny), (wan, of_wan), (decoder, None), (wan, VaeBuffers(()))):
        fitting.refuse_foreign(past)
    for other, past in ((decoder, of_wan), (wan, of_tiny)):
        with pytest.raises(
            ValueError, match=r"decoded with another kind of VAE .* connect the VAE it was made"
        ):
            other.refuse_foreign(past)


def test_a_graph_streams_through_the_hosts_own_loader(server, models):
    folder = server.base / "models" / "vae_approx"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lighttaew2_1.safetensors").symlink_to(models / "lighttaew2_1.safetensors")
    graph = stream_graph("tiny", seconds=0.5)
    graph["9"] = {"class_type": "VAELoader", "inputs": {"vae_name": "lighttaew2_1.safetensors"}}
    (stream,) = (node for node in graph.values() if node["class_type"] == "RivuletStream")
    stream["inputs"]["vae"] = ["9", 0]
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    assert (server.base / "output" / "tiny_00001_.mp4").stat().st_size > 1000

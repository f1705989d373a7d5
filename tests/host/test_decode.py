"""The host's VAE, streamed: the pictures of its own decode of the whole."""

import pytest
import torch
from rivulet.tests.host.decoding import latents, streamed


@pytest.fixture(scope="module")
def decoder(vae):
    from rivulet.nodes.host.vae import HostDecoder

    return HostDecoder(vae)


@pytest.mark.parametrize("cut", [1, 3, 10], ids="cut{}".format)
@pytest.mark.parametrize("count", [9, 10], ids="{}latents".format)
def test_streamed_frames_equal_the_hosts_decode_of_the_whole(decoder, vae, cut, count):
    import nodes

    (whole,) = nodes.VAEDecode().decode(vae, {"samples": latents(count)})
    got = streamed(decoder, latents(count), cut)
    assert got.shape == whole.shape == (1 + 4 * (count - 1), 32, 32, 3)
    assert whole.std() > 0.01 and got.dtype == whole.dtype
    assert torch.equal(got, whole), f"max difference {(got - whole).abs().max():.3g}"
    levels = streamed(decoder, latents(count), cut, exact=False)
    assert levels.dtype == torch.uint8 and torch.equal(levels, (whole * 255).round().byte())


def test_a_past_can_be_continued_twice(decoder):
    whole = latents(5)
    _, past = decoder.decode(whole[:, :, :3])
    first, _ = decoder.decode(whole[:, :, 3:], past)
    again, _ = decoder.decode(whole[:, :, 3:], past)
    assert torch.equal(first, again) and len(first) == 8


def test_what_is_kept_does_not_hold_its_piece_alive(decoder):
    _, past = decoder.decode(latents(5))
    kept = [part for part in past.layers if isinstance(part, torch.Tensor)]
    assert kept and all(part.untyped_storage().nbytes() == part.nbytes for part in kept)


def test_another_vae_is_refused(vae):
    from rivulet.nodes.host.decoder import why_not_vae

    class Other:
        first_stage_model = torch.nn.Identity()
        latent_channels = 4

    assert "the VAE is missing" in why_not_vae(None)
    assert "needs the VAE of Wan" in why_not_vae(Other()) and "4 channels" in why_not_vae(Other())
    assert why_not_vae(vae) is None


def test_a_decoder_that_changed_is_found_in_every_run(vae, unchecked, monkeypatch):
    from rivulet.nodes.host.vae import HostDecoder

    right = HostDecoder._piece

    def forgetting(self, piece, kept, exact):
        kept[:] = [None] * len(kept)
        return right(self, piece, kept, exact)

    monkeypatch.setattr(HostDecoder, "_piece", forgetting)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="other pictures piece by piece than at once"):
            HostDecoder(vae)


def test_the_same_layers_are_checked_once_by_each_kind(vae, unchecked, monkeypatch):
    from rivulet.nodes.host.encoder import HostEncoder
    from rivulet.nodes.host.vae import HostDecoder

    asked = []
    for kind in (HostDecoder, HostEncoder):
        monkeypatch.setattr(kind, "_check", lambda self: asked.append(type(self)))
        kind(vae), kind(vae)
    assert asked == [HostDecoder, HostEncoder]
    assert unchecked[vae.first_stage_model] == {HostDecoder, HostEncoder}

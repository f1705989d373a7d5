"""A VAE of the host whose decoder draws twice the size: its own decode of the whole, shuffled by torch."""

import re
from copy import copy
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.tests.host.decoding import latents, streamed
from rivulet.tests.host.graphs import stream_graph
from safetensors.torch import save_file
from torch.nn.functional import pixel_shuffle

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)


@pytest.fixture(scope="module")
def twice(load_vae):
    """Returns the VAE through the host's own loader."""
    return load_vae("twice")


def shuffled(whole_FHWC: torch.Tensor) -> torch.Tensor:
    """What the host decodes [F, H, W, 12], as pictures: the last step, by torch alone."""
    return pixel_shuffle(whole_FHWC.movedim(-1, -3), 2).movedim(-3, -1)


@pytest.mark.parametrize("cut", [1, 3, 10], ids="cut{}".format)
def test_streamed_frames_are_the_hosts_whole_decode_shuffled(twice, cut):
    from rivulet.nodes.host.vae import HostDecoder

    import nodes

    (whole,) = nodes.VAEDecode().decode(twice, {"samples": latents(9)})
    assert whole.shape == (33, 32, 32, 12) and whole.std() > 0.01
    got = streamed(HostDecoder(twice), latents(9), cut)
    assert got.shape == (33, 64, 64, 3) and torch.equal(got, shuffled(whole))
    levels = streamed(HostDecoder(twice), latents(9), cut, exact=False)
    assert torch.equal(levels, (shuffled(whole) * 255).round().byte())
    assert HostDecoder(twice).decode(latents(1)[:, :, :0])[0].shape == (0, 64, 64, 3)


def test_latents_of_its_encoder_are_those_of_the_usual_size(twice):
    from rivulet.nodes.host.encoder import HostEncoder

    film = torch.rand(5, 48, 32, 3, generator=torch.Generator().manual_seed(1))
    made, _ = HostEncoder(twice)(film, last=True)
    assert made.shape == (1, 16, 2, 6, 4)
    assert torch.allclose(made, twice.encode(film), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 5, 27])
def test_a_head_of_other_channels_is_refused(twice, channels):
    from rivulet.nodes.host.decoder import decoder_for, why_not_vae

    other = copy(twice)
    decoder = SimpleNamespace(head=torch.nn.Sequential(torch.nn.Conv3d(1, channels, 1)))
    other.first_stage_model = SimpleNamespace(conv2=None, decoder=decoder)
    words = f"the VAE draws {channels} channels .* a stream takes 3, a picture, or 12"
    assert re.search(words, why_not_vae(other)) and why_not_vae(twice) is None
    with pytest.raises(ValueError, match=words):
        decoder_for(other, lambda latents: latents)


@pytest.mark.parametrize(("side", "times"), [(1, 1), (2, 2), (3, 2)])
def test_a_picture_is_put_back_at_the_decoders_size_where_it_has_the_pixels(twice, side, times):
    from rivulet.nodes.start_from import RivuletStartFrom

    image = torch.rand(1, 48 * side, 32 * side, 3, generator=torch.Generator().manual_seed(1))
    begin = RivuletStartFrom.execute(image, "crop").args[0].read(twice, CONFIG, 16.0, 99)
    assert begin.image_BHWC.shape == (1, 48, 32, 3) and begin.ending_HWC.shape == (48 * times, 32 * times, 3)
    if side == times:
        assert torch.equal(begin.ending_HWC, image[0])


def test_where_sizes_must_be_equal_the_streams_and_the_videos_both_are(twice):
    from rivulet.nodes.run.beginnings import FromVideo
    from rivulet.nodes.start_from import RivuletStartFrom

    for height, width in ((48, 32), (96, 64)):
        film = torch.rand(5, height, width, 3, generator=torch.Generator().manual_seed(1))
        picture = RivuletStartFrom.execute(film[:1], "refuse").args[0].read(twice, CONFIG, 16.0, 99)
        ending = FromVideo(source=film, fit="refuse").read(twice, CONFIG, 16.0, 99)
        assert picture.image_BHWC.shape[1:] == ending.pixels_FHWC.shape[1:] == (48, 32, 3)
        assert torch.equal(picture.ending_HWC, film[0]) and torch.equal(ending.ending_HWC, film[4])
    for other in (
        FromVideo(source=film[:, :50], fit="refuse"),
        RivuletStartFrom.execute(film[:1, :50], "refuse").args[0],
    ):
        with pytest.raises(
            ValueError, match="is 64x50 and the video is to be 32x48 or 64x96; make them equal"
        ):
            other.read(twice, CONFIG, 16.0, 99)


def test_plan_and_doctor_say_both_sizes(load, vae, twice):
    from rivulet.model_patches.plan.plan import plan_stream
    from rivulet.model_patches.plan.probe import Device
    from rivulet.model_patches.plan.verdict import describe
    from rivulet.nodes.doctor import fitness
    from rivulet.nodes.plan import request_of

    plain, large = (request_of(load("plain"), each, CONFIG, 16.0, 2.0) for each in (vae, twice))
    video = describe(large, plan_stream(large), Device("a card", 1e13, 1e12))[0]
    assert video.startswith("Video: 64x96 from a 32x48 stream at 16 pictures a second")
    for bytes_of in (lambda plan: plan.chunk_bytes, lambda plan: plan.video_bytes_per_hour):
        assert bytes_of(plan_stream(large)) == 4 * bytes_of(plan_stream(plain))
    assert plan_stream(large).vae_weights_bytes == sum(w.nbytes for w in twice.first_stage_model.parameters())
    assert fitness(None, twice)["VAE"].endswith("draws pictures of twice the stream's width and height")
    assert fitness(None, vae)["VAE"] == "can be streamed"


def error_of(done):
    """The sentence with which a run ended."""
    return next(
        told["exception_message"] for kind, told in done["status"]["messages"] if kind == "execution_error"
    )


def pictures_of(video):
    """The pictures of a file, [H, W, 3] each."""
    import av

    with av.open(str(video)) as opened:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in opened.decode(video=0)]


def test_a_video_comes_out_at_twice_the_streams_size_and_goes_on_so(server):
    """A picture of its size is the first as it is; another VAE is refused before the file is touched."""
    import numpy as np

    torch.manual_seed(4)
    (server.base / "models" / "vae").mkdir(parents=True, exist_ok=True)
    save_file(WanVAE(16, upscale=2).state_dict(), server.base / "models" / "vae" / "twice.safetensors")
    rows, columns = np.mgrid[0:128, 0:128]
    disc = np.where(((rows - 60) ** 2 + (columns - 68) ** 2 < 324)[..., None], [225, 40, 40], [23, 34, 91])
    (server.base / "input").mkdir(exist_ok=True)
    Image.fromarray(disc.astype("uint8")).save(server.base / "input" / "large_disc.png")
    more = {"vae": ["8", 0], "enlarge_small": False, "snapshot": "always"}
    graph = stream_graph("twice", seconds=10 / 16, start=["7", 0], **more)
    graph["6"] = {"class_type": "LoadImage", "inputs": {"image": "large_disc.png"}}
    graph["7"] = {"class_type": "RivuletStartFrom", "inputs": {"image": ["6", 0], "fit": "refuse"}}
    graph["8"] = {"class_type": "VAELoader", "inputs": {"vae_name": "twice.safetensors"}}
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    known = server.get("/rivulet/streams")[1]["streams"][0]
    video = server.base / "output" / "twice_00001_.mp4"
    assert (known["width"], known["height"], known["frames"]) == (128, 128, 13)
    first = pictures_of(video)
    assert len(first) == 13 and first[0].shape == (128, 128, 3) and abs(first[0] - disc).mean() < 4
    graph["7"] = {"class_type": "RivuletResume", "inputs": {"snapshot": "twice_00001_.mp4"}}
    graph["4"]["inputs"] |= {"seconds": 22 / 16, "vae": ["1", 2]}
    before = video.read_bytes()
    said = error_of(server.run(graph))
    assert "are 128x128, and this VAE draws 64x64" in said and "(of Pocket Model: set the other look)" in said
    assert video.read_bytes() == before
    graph["4"]["inputs"]["vae"] = ["8", 0]
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    rest = pictures_of(video)
    assert len(rest) == 25 and all(np.array_equal(*pair) for pair in zip(first, rest[:13], strict=True))


def test_layers_that_give_a_piece_at_once_are_taken(twice, monkeypatch):
    """As the decoders of earlier hosts do, which other packs load such files with."""
    from rivulet.nodes.host.vae import HostDecoder

    expected = streamed(HostDecoder(twice), latents(5), 3)
    decoder = twice.first_stage_model.decoder
    parts = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda *given, **how: torch.cat(parts(*given, **how), 2))
    assert torch.equal(streamed(HostDecoder(twice), latents(5), 3), expected)


@pytest.mark.parametrize("shuffles", [False, True])
def test_a_vae_that_another_pack_has_changed_is_checked_by_what_it_decodes(
    twice, unchecked, monkeypatch, shuffles
):
    """Pictures without the row of the batch, shuffled or not, as ComfyUI-VAE-Utils gives them."""
    from rivulet.nodes.host.vae import HostDecoder

    whole = twice.decode

    def decode(given):
        whole_FHWC = whole(given)[0]
        return shuffled(whole_FHWC) if shuffles else whole_FHWC

    monkeypatch.setattr(twice, "decode", decode)
    HostDecoder(twice)
    assert HostDecoder in unchecked[twice.first_stage_model]
    monkeypatch.setattr(twice, "decode", lambda given: decode(given).flip(-1))
    unchecked.clear()
    with pytest.raises(RuntimeError, match="other pictures piece by piece than at once"):
        HostDecoder(twice)

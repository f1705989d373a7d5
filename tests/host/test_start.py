"""A stream that begins with a picture: what it remembers, what it shows, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.stream.timeline import MODES
from rivulet.tests.host.graphs import BLUE, stream_graph
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(32, 48), "pocket", 3, (1.0, 0.5), seed=5)
WIDE = (1, 64, 96, 3)  # twice the height and three times the width


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def begun(load, prompt):
    """Returns a function that starts a stream on the plain checkpoint."""

    def of(config=CONFIG):
        made = HostRun(load("plain"), prompt(0), prompt(1), config)
        return made, made.begin(8)

    return of


@pytest.fixture
def node(comfyui):
    from rivulet.nodes.start_from import RivuletStartFrom

    return lambda image, fit="crop": RivuletStartFrom.execute(image, fit).args[0]


def blocks(made, state, count):
    parts = []
    for _ in range(count):
        latents, state = made.step(state)
        parts.append(latents)
    return torch.cat(parts, 2), state


@pytest.mark.parametrize("cfg", [1.0, 2.5], ids="cfg{}".format)
def test_what_was_made_can_be_given_again(begun, cfg):
    """A block given to a new stream is remembered just as when it was made."""
    config = replace(CONFIG, cfg=cfg)
    usual, _ = blocks(*begun(config), 2)
    made, state = begun(config)
    state = made.prefill(state, usual[:, :, :3])
    assert state.start_frame == 3 and state.cache.frames == (0, 1, 2) and state.block == 0
    second, _ = made.step(replace(state, block=1))
    assert torch.allclose(second, usual[:, :, 3:], rtol=0, atol=1e-4 * usual.abs().max().item())


@pytest.mark.parametrize("preset", ["pocket", "infinity_rope", "self_forcing"])
def test_one_latent_goes_before_the_blocks_and_counts(begun, preset):
    config = replace(CONFIG, preset=preset)
    first = torch.randn(1, 16, 1, 6, 4, generator=torch.Generator().manual_seed(2))
    made, state = begun(config)
    state = made.prefill(state, first)
    assert (
        state.start_frame == 1
        and state.cache.frames == (0,)
        and torch.equal(state.tail_BCTHW, made.caller.from_vae(first))
    )
    with_it, after = blocks(made, state, 3)
    assert after.start_frame == 10 and with_it.shape[2] == 9
    without, _ = blocks(*begun(config), 3)
    assert not torch.allclose(with_it, without, rtol=0, atol=0.01)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "shot"])
def test_before_the_first_block_no_switch_forgets_the_picture(begun, prompt, mode):
    first = torch.randn(1, 16, 1, 6, 4, generator=torch.Generator().manual_seed(2))
    made, state = begun()
    state = made.prefill(state, first)
    kept = state.cache.tensors()["kv"].clone()
    state = made.switch(state, prompt(3), mode)
    assert (
        state.start_frame == 1
        and state.blend is None
        and torch.equal(state.tail_BCTHW, made.caller.from_vae(first))
    )
    assert state.cache.frames == (0,) and torch.equal(state.cache.tensors()["kv"], kept)
    assert made.step(state)[1].start_frame == 4


def test_an_error_leaves_the_state_as_it_was(begun):
    made, state = begun()
    with pytest.raises(ValueError, match="latents hold NaN"):
        made.prefill(state, torch.full((1, 16, 1, 6, 4), float("nan")))
    with pytest.raises(ValueError, match="the stream needs"):
        made.prefill(state, torch.zeros(1, 16, 1, 4, 4))
    assert torch.equal(made.step(state)[0], blocks(*begun(), 1)[0])


def test_the_picture_is_the_first_of_the_video(server):
    """Ten pictures are four latents: the one that is given and a block of three, thirteen pictures."""
    import av
    import numpy as np

    rows, columns = np.mgrid[0:64, 0:64]
    disc = ((rows - 30) ** 2 + (columns - 34) ** 2 < 81)[..., None]
    ground, red = np.array([23, 34, 91]), np.array([225, 40, 40])
    (server.base / "input").mkdir(exist_ok=True)
    Image.fromarray(np.where(disc, red, ground).astype("uint8")).save(server.base / "input" / "disc.png")
    graph = stream_graph("started", text=BLUE, seconds=10 / 16, start=["7", 0], enlarge_small=False)
    graph["6"] = {"class_type": "LoadImage", "inputs": {"image": "disc.png"}}
    graph["7"] = {"class_type": "RivuletStartFrom", "inputs": {"image": ["6", 0], "fit": "refuse"}}
    done = server.run(graph)
    assert done["status"]["status_str"] == "success", done["status"]
    with av.open(str(server.base / "output" / "started_00001_.mp4")) as video:
        made = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert len(made) == 13
    # the first through the file's encoder alone: the ground to a few levels, the disc's colours at half width
    assert abs(made[0] - np.where(disc, red, ground)).mean() < 4
    assert abs(made[12] - np.where(disc, red, ground)).mean() < 40


def test_the_latent_is_the_vaes_own_and_has_the_videos_size(node, load, vae):
    from rivulet.nodes.host.caller import HostCaller

    start = node(picture(1, 48, 32, 3), "refuse")
    caller = HostCaller(load("plain"))
    begin = start.read(vae, CONFIG, 16.0, 99).prefill(caller, vae)
    assert torch.equal(begin.latents_BCTHW, caller.from_vae(vae.encode(start.image_BHWC)))
    assert begin.latents_BCTHW.shape == (1, 16, 1, 6, 4) and begin.hidden == 0
    assert torch.equal(begin.ending_HWC, start.image_BHWC[0])


def test_a_shots_reference_is_a_film_of_the_picture_at_the_videos_size(node, load, vae, prompt):
    """As many latents as the sink has; a stream keeps them and goes on under its prompt."""
    from rivulet.nodes.host.caller import HostPrompt
    from rivulet.nodes.host.encoder import HostEncoder
    from rivulet.nodes.run.reference import reference_latents

    made = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
    kept = reference_latents(made.caller, vae, picture(*WIDE), CONFIG)
    film = node(picture(*WIDE)).resize(CONFIG.geometry).expand(9, -1, -1, -1)
    assert (
        torch.equal(kept, made.caller.from_vae(HostEncoder(vae)(film, last=True)[0])) and kept.shape[2] == 3
    )
    _, state = made.step(made.begin(8))
    after = switch(made.caller, state, HostPrompt(prompt(2), prompt(1)), "shot", reference_BCTHW=kept)
    assert torch.equal(after.tail_BCTHW, kept.to(after.tail_BCTHW))
    assert blocks(made, after, 2)[0].isfinite().all()
    with pytest.raises(ValueError, match="preset self_forcing has no place"):
        reference_latents(made.caller, vae, picture(*WIDE), replace(CONFIG, preset="self_forcing"))


def test_another_size_is_made_to_fit_by_the_chosen_rule(node, vae):
    middle = torch.zeros(WIDE)
    middle[:, :, 32:64] = 1.0
    cropped = node(middle, "crop").resize(Geometry(32, 64))
    assert cropped.shape == (1, 64, 32, 3) and cropped.mean() > 0.99
    stretched = node(middle, "stretch").resize(Geometry(32, 64))
    assert abs(stretched.mean().item() - 1 / 3) < 0.05
    with pytest.raises(ValueError, match="is 96x64 and the video is to be 32x64"):
        node(middle, "refuse").read(vae, StreamConfig(Geometry(32, 64)), 16.0, 99)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 8, 8, 3), "image holds 2 pictures, and one is needed"),
        ((1, 8, 8, 4), "has transparent parts"),
        ((1, 8, 8, 1), r"image is \[1, 8, 8, 1\]; one colour picture"),
        ((0, 8, 8, 3), r"image is \[0, 8, 8, 3\]"),
    ],
    ids=["batch", "alpha", "grey", "nothing"],
)
def test_what_is_no_single_picture_is_refused(node, shape, words):
    with pytest.raises(ValueError, match=words):
        node(picture(*shape))


def test_an_alpha_channel_that_hides_nothing_is_dropped(node):
    image = torch.cat([picture(1, 8, 8, 3), torch.ones(1, 8, 8, 1)], -1)
    assert torch.equal(node(image).image_BHWC, image[..., :3])
    with pytest.raises(ValueError, match="NaN or infinite"):
        node(image[..., :3] * float("nan"))

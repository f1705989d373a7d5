"""Image to video as ComfyUI's own template does it, against Start From and Stream Video in its nodes' place.

The template is run as it is, on small files: causal weights, a Wan VAE, texts of random numbers.
"""

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.sampler.schedule import sigmas as usual_sigmas
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.step import prefill
from rivulet.tests.engine.host_noise import HostNoise
from rivulet.tests.host import host_template
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun

NAME = "video_causal_forcing_i2v"
WIDTH, HEIGHT, SEED = 48, 32, 77
EPS = torch.finfo(torch.float32).eps


def picture(width=WIDTH, height=HEIGHT):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def template(models, prompt):
    """Returns a function that reads the template for small files: its graph, to be run."""
    pytest.importorskip(host_template.PACKAGE)

    def read(block_frames=1, image=None):
        graph = host_template.read(NAME)
        graph.set("UNETLoader", unet_name="causal.safetensors")
        graph.set("VAELoader", vae_name="vae.safetensors")
        graph.set("ARVideoI2V", width=WIDTH, height=HEIGHT)
        graph.set("RandomNoise", noise_seed=SEED)
        graph.set("SamplerARVideo", num_frame_per_block=block_frames)
        graph.give(graph.of("LoadImage"), picture() if image is None else image)
        graph.give(graph.source("CFGGuider", "positive")[0], prompt(0))
        graph.give(graph.source("CFGGuider", "negative")[0], prompt(1))
        return graph

    return read


def begun_by(graph, way):
    """The beginning of a stream in the place of the template's sampler, and the MODEL that it is of."""
    from rivulet.nodes.run.host_picture import begun_with
    from rivulet.nodes.start_from import RivuletStartFrom

    if way == "ARVideoI2V":
        model = graph.value(graph.source("CFGGuider", "model"))
        return begun_with(None, model), model
    image = graph.value((graph.of("LoadImage"), 0))
    model = graph.value((graph.of("UNETLoader"), 0))
    return RivuletStartFrom.execute(image).args[0], model


def ours(graph, way, blocks, block_frames):
    """Latents of our nodes in the sampler's place [1, C, T, H, W], the picture's with them."""
    begin, model = begun_by(graph, way)
    vae, levels = (graph.value((graph.of(kind), 0)) for kind in ("VAELoader", "BasicScheduler"))
    size = Geometry(WIDTH, HEIGHT)
    config = StreamConfig(size, "self_forcing", block_frames, tuple(levels[:-1].tolist()), seed=SEED)
    positive, negative = (graph.value(graph.source("CFGGuider", side)) for side in ("positive", "negative"))
    clip = graph.value(graph.source("SamplerCustomAdvanced", "noise")).generate_noise(
        graph.value(graph.source("SamplerCustomAdvanced", "latent_image"))
    )
    run = HostRun(model, positive, negative, config, noise=HostNoise(SEED, clip), like_host=True)
    given = begin.read(vae, config, 16.0, 81).prefill(run.caller, vae).latents_BCTHW
    made, _ = make_blocks(run, prefill(run.caller, run.begin(), given), blocks)
    return torch.cat([run.caller.to_vae(given), made], 2)


@pytest.mark.parametrize("way", ["Start From", "ARVideoI2V"])
@pytest.mark.parametrize(("block_frames", "blocks"), [(1, 20), (3, 6)], ids=["blocks of 1", "blocks of 3"])
def test_latents_equal_the_templates_to_the_last_bit(template, way, block_frames, blocks):
    """Where 20 latents after the picture are no whole blocks, its last block is shorter; ours are whole."""
    graph = template(block_frames)
    theirs = graph.value(graph.source("VAEDecode", "samples"))["samples"]
    assert theirs.shape == (1, 16, 21, HEIGHT // 8, WIDTH // 8) and theirs.std() > 0.1
    made = ours(graph, way, blocks, block_frames)
    assert made.shape[2] == 1 + blocks * block_frames
    theirs = theirs[:, :, : made.shape[2]]
    assert torch.equal(made, theirs), f"max difference {(made - theirs).abs().max():.3g}"


def test_the_templates_levels_are_the_usual_ones(template):
    """So that no levels are missing where its scheduler is left out; the host's table is in float32."""
    graph = template()
    levels = graph.value((graph.of("BasicScheduler"), 0)).tolist()
    usual = (*usual_sigmas(), 0.0)
    assert levels == pytest.approx(usual, abs=4 * EPS, rel=0) and len(levels) == len(usual)


def test_a_picture_of_another_size_is_refused(template):
    begin, _ = begun_by(template(), "ARVideoI2V")
    config = StreamConfig(Geometry(HEIGHT, WIDTH), "self_forcing", 1)
    with pytest.raises(ValueError, match=r"made the picture 48x32 .*, and the video is to be 32x48 "):
        begin.read(None, config, 16.0, None)


def test_what_is_connected_to_start_goes_before_the_picture_in_the_model(template, caplog):
    from rivulet.nodes.run.going_on import Resume
    from rivulet.nodes.run.host_picture import begun_with

    start, _ = begun_by(template(), "Start From")
    _, model = begun_by(template(), "ARVideoI2V")
    assert begun_with(start, model) is start and "ARVideoI2V put into the MODEL is not used" in caplog.text
    caplog.clear()
    resume = Resume()
    assert begun_with(resume, model) is resume and not caplog.text


def test_a_model_without_a_picture_begins_with_nothing(load):
    from rivulet.nodes.run.host_picture import begun_with

    assert begun_with(None, load("plain")) is None

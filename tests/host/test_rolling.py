"""Blocks that are denoised together inside ComfyUI, which knows one noise level a call."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.step import init, rollout
from rivulet.tests.host.loading import make_blocks
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(32, 48), "rolling_forcing", 3, (1.0, 0.8, 0.5), seed=5, sampler="rolling")
BLOCKS = 9  # the sink leaves the sight of passes at timestep 0 with the eighth


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_it_is_the_engines_own_stream(load, prompt, models, cfg):
    from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint

    config = replace(CONFIG, cfg=cfg)
    caller = ModelCaller(open_checkpoint(models / "plain.safetensors").load(torch.float32))
    begin = init(caller, texts(prompt(0)[0][0], prompt(1)[0][0]), config)
    own = list(rollout(caller, begin, BLOCKS))
    run = HostRun(load("plain"), prompt(0), prompt(1), config)
    host, after = make_blocks(run, run.begin(), BLOCKS)
    raw = load("plain").model.process_latent_out(torch.cat([latents for latents, _ in own], 2))
    # the same arithmetic; the host's own embedding of patches is another operation
    assert torch.allclose(host, raw, rtol=0, atol=1e-4 * raw.abs().max().item())
    under_way = own[-1][1].under_way_BCTHW
    assert after.under_way_BCTHW.shape == under_way.shape
    assert torch.allclose(after.under_way_BCTHW, under_way, rtol=0, atol=1e-4 * under_way.abs().max().item())
    assert after.cache.frames == own[-1][1].cache.frames


def test_a_prompt_and_an_interruption_in_the_middle_of_a_call(load, prompt, monkeypatch):
    from rivulet.nodes.host.block import HostPass

    run = HostRun(load("plain"), prompt(0), prompt(1), CONFIG)
    _, state = make_blocks(run, run.begin(), 2)
    expected, after = run.step(run.switch(state, prompt(2), "smooth"))
    real, calls = HostPass.flow, []

    def stopped(self, *given):
        calls.append(len(calls))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(HostPass, "flow", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.step(run.switch(state, prompt(2), "smooth"))
    latents, again = run.step(run.switch(state, prompt(2), "smooth"))
    assert torch.equal(latents, expected) and torch.equal(again.under_way_BCTHW, after.under_way_BCTHW)


def test_conditioning_that_does_not_cover_a_joint_call_is_refused(load, prompt):
    late = [[text, {**more, "start_percent": 0.5, "end_percent": 1.0}] for text, more in prompt(0)]
    run = HostRun(load("plain"), late, prompt(1), CONFIG)
    with pytest.raises(ValueError, match="no positive conditioning in block 0"):
        run.step(run.begin())


@pytest.fixture
def rolling(load):
    """Returns a MODEL whose recipe has three blocks under way at a time."""
    from rivulet.nodes.host.recipe import ModelRecipe, set_recipe

    model = load("plain").clone()
    set_recipe(model, ModelRecipe("rolling_forcing", sigmas=CONFIG.sigmas, sampler="rolling"))
    return model


def test_a_recipe_says_so_and_the_widgets_may_not_contradict_it(rolling, load):
    from rivulet.nodes.host.recipe import FROM_MODEL, stream_config

    config = stream_config(rolling, 32, 48, FROM_MODEL, 0, 0.0, seed=5)
    assert config == replace(CONFIG, dtype=config.dtype)
    with pytest.raises(ValueError, match=r"9 latent frames are denoised together.*room for 5"):
        stream_config(rolling, 32, 48, "infinity_rope", 0, 0.0)
    with pytest.raises(ValueError, match="preset rolling_forcing is for checkpoints that denoise several"):
        stream_config(load("plain"), 32, 48, "rolling_forcing", 0, 0.0)


@pytest.mark.parametrize(("memory", "file"), [("memrope", "none"), ("learned", "built in (Pocket Model)")])
def test_a_memory_with_positions_of_its_own_is_refused_by_the_node_that_brings_it(
    rolling, memory, file, monkeypatch
):
    from rivulet.model_patches.memory.policies import POLICIES
    from rivulet.nodes.memory import RivuletMemory, memory_of

    # the file is for another width, and is not what this is about
    monkeypatch.setattr(type(POLICIES["learned"]), "load", lambda *_: SimpleNamespace(trained="", lora=None))
    monkeypatch.setattr(type(POLICIES["learned"]), "preset", lambda *_: "echo")
    with pytest.raises(ValueError, match=rf"Memory: {memory} .* denoises 3 blocks together.*to ema or off\."):
        RivuletMemory.execute(rolling, memory, file)
    (kept,) = RivuletMemory.execute(rolling, "ema", "none").result
    assert memory_of(kept).name == "ema"


def test_what_needs_one_block_after_the_other_is_refused_before_work_begins(rolling):
    from rivulet.nodes.calibrate import RivuletCalibrate
    from rivulet.nodes.run.beginnings import Following

    with pytest.raises(ValueError, match="3 blocks under way at a time; take a checkpoint that makes one"):
        Following(source=None).read(None, CONFIG, 16.0, None)
    asked = {"prompts": "a\nb", "name": "basis", "width": 32, "height": 48, "bytes_per_token": 0}
    rest = {"error_percent": 5.0, "cfg": 0.0, "preset": "as the model was trained", "num_frame_per_block": 0}
    with pytest.raises(ValueError, match="load it with recipe self_forcing for this alone"):
        RivuletCalibrate.execute(rolling, None, **asked, **rest, blocks=4, seed=0)

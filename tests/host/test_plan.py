"""The plan of a MODEL of the host: the engine's figures for it, and a run that stops before it begins."""

import re
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.plan import plan_stream
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.vae.cost import WanCost
from rivulet.model_patches.vae.wan import in_vae_units

CARD = Device("a card", matmul_flops=1e14, bytes_per_second=1e12)
INPUTS = {
    "width": 64,
    "height": 48,
    "seconds": 2.0,
    "fps": 16.0,
    "preset": "as the model was trained",
    "num_frame_per_block": 0,
    "cfg": 0.0,
    "stop_if_too_big": True,
}


@pytest.fixture
def planned(load, monkeypatch):
    """Returns a function that runs the node on a machine with so many free bytes."""
    from rivulet.nodes import plan

    def of(free=1e12, model=None, vae=None, **inputs):
        monkeypatch.setattr(plan, "free_on", lambda *_: replace(CARD, free_bytes=round(free)))
        return plan.RivuletPlan.execute(model or load("plain"), vae=vae, **{**INPUTS, **inputs})

    return of


def test_the_models_sizes_are_read_from_the_host(load, vae, models):
    from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
    from rivulet.nodes.plan import request_of

    config = StreamConfig(Geometry(64, 48))
    request = request_of(load("plain"), vae, config, 16.0, 0.0)
    assert request.model == open_checkpoint(models / "plain.safetensors").config
    assert request.seconds is None and request.decoder == WanCost(16, in_pairs=True)
    assert plan_stream(request).weights_bytes == load("plain").model_size()


def test_what_fits_passes_the_model_on_and_says_so(planned, load):
    model, text = planned().args
    assert model is load("plain")
    first, video, *rest = text.splitlines()
    assert first.startswith("Fits your card (a card): needs ") and video.startswith("Video: 64x48 at 16 ")
    assert "Not counted: the text encoder, and the programs themselves." in rest
    assert "New prompts" not in text


def test_what_does_not_fit_stops_with_a_proposal(planned):
    with pytest.raises(
        ValueError,
        match=r"(?s)^Plan Stream: Does not fit. Do this: take .*\nGraphics memory: needs .*\nThen it fits:\n"
        r".*\nComputed.* a tiny decoder, .*\nTo run it all the same, switch stop_",
    ):
        planned(6e9, width=640, height=480)


def test_it_only_says_so_where_that_is_wished(planned):
    _, text = planned(6e9, width=640, height=480, stop_if_too_big=False).args
    assert text.startswith("Does not fit. Do this: take ")


def test_weights_that_the_host_can_keep_in_ram_do_not_stop_a_run(planned, load, vae):
    from rivulet.model_patches.plan.verdict import HEADROOM
    from rivulet.nodes.plan import request_of

    config = StreamConfig(Geometry(64, 48), "infinity_rope")
    needed = HEADROOM * plan_stream(request_of(load("plain"), vae, config, 16.0, 2.0)).device_bytes
    _, text = planned(needed - 100_000, vae=vae).args
    assert text.startswith("Fits your card (a card), but slowly: ")
    # 0.1 MB has no room, and a block has five calls
    assert re.search(
        r"About 0\.00\d GB go to the card .* in each of its 5 calls: .*\n.* at least halve it", text
    )
    assert "\nTo have all of them there, take a " in text


def test_a_stream_without_end_is_planned_by_the_hour(planned):
    _, text = planned(seconds=0.0).args
    assert "64x48 at 16 pictures a second, without end." in text
    assert "Time: an hour of it takes" in text and "Disk: an hour of it takes" in text


def test_prompts_beyond_the_end_are_told_before_the_run(planned):
    from rivulet.nodes.prompts import Prompts

    prompts = Prompts("[0s] one\n[1s] two\n[5s] three\n[1:00 cut] four", 5.0, "recipe", None)
    lines = planned(prompts=prompts).args[1].splitlines()
    late = [line for line in lines if "is not shown" in line]
    # 2 s are 32 pictures, which 3 blocks of 12 hold, the first of which has 9
    assert [line.split(" ")[0] for line in late] == ["'three'", "'four'"]
    assert all("the video ends at 2.062s; start it earlier or make the video longer" in line for line in late)
    assert "is not shown" not in planned(prompts=prompts, seconds=0.0).args[1]


def test_a_model_that_cannot_be_streamed_is_refused(planned, load, monkeypatch):
    model = load("plain").model.diffusion_model
    for name in ("in_dim", "out_dim"):
        monkeypatch.setattr(model, name, 48)
    with pytest.raises(ValueError, match=r"is a WanModel, Wan 2\.2 5B \(48 latent"):
        planned()


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"num_frame_per_block": 8}, "block of 8 latent frames leaves no ids .* take blocks of 7 or fewer"),
        ({"preset": "infinity_rope"}, "preset infinity_rope has no ids for a memory; take the preset"),
    ],
)
def test_a_memory_that_no_block_would_see_is_refused(planned, load, widgets, sentence):
    from rivulet.nodes.memory import RivuletMemory

    (model,) = RivuletMemory.execute(load("plain"), "memrope", "none").args
    with pytest.raises(ValueError, match=sentence):
        planned(model=model, **widgets)


def test_this_machine_is_measured_before_there_is_an_output_folder(load, monkeypatch, tmp_path):
    import folder_paths
    from rivulet.nodes.plan import free_on

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "new" / "output"))
    device = free_on(load("plain").load_device, torch.float32)
    assert device.free_bytes > 0 and device.free_ram_bytes > 0 and device.free_disk_bytes > 0


def test_a_tiny_vae_is_planned_with_its_own_figures(load, tiny_vae):
    from rivulet.nodes.host.decoder import decoder_for
    from rivulet.nodes.plan import request_of

    request = request_of(load("plain"), tiny_vae, StreamConfig(Geometry(64, 48)), 16.0, 0.0)
    plan, model = plan_stream(request), tiny_vae.first_stage_model
    assert request.vae_dtype == tiny_vae.vae_dtype
    assert plan.vae_weights_bytes == sum(weight.nbytes for weight in model.parameters())
    _, past = decoder_for(tiny_vae, in_vae_units).decode(torch.zeros(1, 16, 3, 6, 8), None)
    assert plan.buffer_bytes == sum(kept.nbytes for kept in past.layers)


def test_what_fits_which_card_is_said(planned, load):
    from rivulet.nodes.small_cache import CacheChoice

    _, text = planned().args
    assert "By card, computed: 12 GB: dense cache, bf16 weights; 16 GB: dense cache" in text
    _, text = planned(cache=CacheChoice("int8")).args
    assert "12 GB: dense cache" in text and "In the format int8 each token takes" in text


def test_a_tiny_decoder_is_named_where_it_is_enough_and_not_where_it_is_there(load, tiny_vae):
    from rivulet.model_patches.plan.verdict import HEADROOM
    from rivulet.nodes.plan import request_of
    from rivulet.nodes.plan_lines import tiny_text

    config = StreamConfig(Geometry(640, 480), "infinity_rope")
    request = request_of(load("plain"), None, config, 16.0, 2.0)
    device = replace(CARD, free_bytes=int(HEADROOM * plan_stream(request).device_bytes) // 2)
    assert "it fits with a tiny decoder" in tiny_text(request, device)
    assert tiny_text(request, replace(device, free_bytes=10**6)) is None
    assert tiny_text(request_of(load("plain"), tiny_vae, config, 16.0, 2.0), device) is None


def test_int8_is_proposed_before_a_smaller_window(load):
    from rivulet.model_patches.plan.verdict import HEADROOM
    from rivulet.nodes.plan import formats_for, request_of, smaller
    from rivulet.nodes.plan_lines import verdict_lines

    request = request_of(load("plain"), None, StreamConfig(Geometry(640, 480), "infinity_rope"), 16.0, 2.0)
    formats = formats_for(request, load("plain").get_model_object("diffusion_model"))
    assert [cost.name for cost in formats] == ["dense", "int8", "latent"]
    free = int(HEADROOM * plan_stream(request).device_bytes) - 1000
    lines, fits = verdict_lines(request, replace(CARD, free_bytes=free), smaller(request, formats))
    assert fits == lines[1].startswith("ComfyUI keeps")
    assert any("take the cache format int8 instead of dense." in line for line in lines)

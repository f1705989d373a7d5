"""A format and a policy that are in their tables are in the nodes, the plan and the Doctor, and stream."""

import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.tests.engine.cache.toy import KIND as TOY
from rivulet.tests.engine.memory.toy import KIND as COUNT
from rivulet.tests.host.streams import HostRun

CONFIG = StreamConfig(Geometry(48, 48), "pocket", 3, (1.0, 0.5), seed=5)


def streamed(model, prompt, cache, count):
    from rivulet.nodes.memory import memory_of

    kept = cache.format_for(CONFIG, model.get_model_object("diffusion_model"))
    policy = memory_of(model).policy_for(CONFIG, model.load_device)
    made = HostRun(model, prompt(0), prompt(1), CONFIG, cache=kept, memory=policy)
    state = made.begin()
    for _ in range(count):
        latents, state = made.step(state)
    return latents, state


def test_a_new_format_is_a_choice_and_streams(load, prompt, monkeypatch):
    from rivulet.model_patches.cache.formats import FORMATS
    from rivulet.nodes.plan import RivuletPlan
    from rivulet.nodes.small_cache import RivuletLatentCache

    monkeypatch.setitem(FORMATS, TOY.name, TOY)
    combo = RivuletLatentCache.define_schema().inputs[0]
    assert combo.options[-1] == "toy" and f"toy: {TOY.label}." in combo.tooltip
    (cache,) = RivuletLatentCache.execute("toy", "none", True, False).args
    latents, state = streamed(load("plain"), prompt, cache, 5)
    assert latents.isfinite().all() and type(state.cache.store.codecs[0]).__name__ == "UpperByte"
    sizes = {"width": 48, "height": 48, "seconds": 2.0, "fps": 16.0, "preset": "pocket"}
    options = {"num_frame_per_block": 3, "cfg": 1.0, "stop_if_too_big": False, "cache": cache}
    text = RivuletPlan.execute(load("plain"), **sizes, **options).args[1]
    assert "In the format toy each token takes 256 bytes a layer in the cache instead of 1,024" in text


def test_a_new_policy_is_a_choice_with_its_option_and_streams(load, prompt, monkeypatch):
    from rivulet.nodes.memory import RivuletMemory, memory_of
    from rivulet.nodes.small_cache import CacheChoice

    monkeypatch.setitem(POLICIES, COUNT.name, COUNT)
    inputs = {each.id: each for each in RivuletMemory.define_schema().inputs}
    assert inputs["memory"].options[-1] == "count" and f"count: {COUNT.label}." in inputs["memory"].tooltip
    options = [option.name for kind in POLICIES.values() for option in kind.options]
    assert list(inputs) == ["model", "memory", "memory_file", *options] and options[-1] == "count_step"
    widget = inputs["count_step"]
    assert (widget.default, widget.min, widget.max, widget.step) == (2.0, 0.0, 9.0, 0.5)
    assert widget.tooltip == "For count: what each of them counts."
    (model,) = RivuletMemory.execute(load("plain"), "count", "none", count_step=3.0, ema_keep=0.9).args
    assert memory_of(model).policy_for(CONFIG, torch.device("cpu")).step == 3.0
    _, state = streamed(model, prompt, CacheChoice(), 5)
    assert state.memory.frames == 3 * (15 - len(state.cache.frames))


def test_the_doctor_lists_what_a_model_can_take(load, comfyui, monkeypatch):
    from rivulet.model_patches.cache.formats import FORMATS
    from rivulet.nodes.doctor import findings
    from rivulet.nodes.pocket_model import RivuletPocketModel

    monkeypatch.setitem(FORMATS, TOY.name, TOY)
    found = findings(load("plain"))
    assert found["Small Cache"] == (
        "dense, int8, latent (needs a basis of this checkpoint), not mla (needs a VideoMLA checkpoint), "
        "not mla-int8 (needs a VideoMLA checkpoint), toy"
    )
    needs = {"learned": " (needs the file of a memory trained with this checkpoint)"}
    assert found["Evolving Memory"] == ", ".join(name + needs.get(name, "") for name in POLICIES)
    found = findings(RivuletPocketModel.execute("VideoMLA's").args[0])
    assert found["Small Cache"].startswith("dense, int8, not latent, mla, mla-int8")
    assert found["Evolving Memory"] == f"not {', '.join(POLICIES)}"  # of which the first is learned

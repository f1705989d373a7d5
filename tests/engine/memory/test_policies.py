"""The table of policies: whom each suits, and that a new one needs its module and nothing else."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.checkpoints.published import RECIPES
from rivulet.model_patches.memory.cost import FREE
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.memory.learned import cost_of
from rivulet.model_patches.memory.policies import POLICIES, find_policy
from rivulet.model_patches.memory.policy import OFF, Off
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step

from .memories import encoder, learned
from .toy import KIND

CPU = torch.device("cpu")


def test_every_row_has_its_name_and_words():
    for name, kind in POLICIES.items():
        assert kind.name == name and kind.label and not kind.label.endswith(".")
        assert bool(kind.files) is bool(kind.needs)
        assert all(option.help.endswith(".") and "_" in option.name for option in kind.options)
    names = [option.name for kind in POLICIES.values() for option in kind.options]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match=r"Here: there is no 'x'; choose one of learned, ema, memrope, off"):
        find_policy("x", "Here")


def test_the_memories_of_published_checkpoints_are_in_the_table():
    assert {record.memory for record in RECIPES} <= set(POLICIES)


def test_options_are_as_usual_where_they_are_not_given(config):
    config = replace(config, preset=PRESETS["reward_forcing"])
    build = POLICIES["ema"].build
    assert build(config, CPU, None, {}) == EmaSink(3, 0.999)
    assert build(config, CPU, None, {"ema_keep": 0.9, "from_start": True}) == EmaSink(3, 0.9)
    assert POLICIES["off"].build(config, CPU, None, {"ema_keep": 0.9}) is OFF


def test_a_sink_is_no_kind_of_forgetting():
    assert not issubclass(EmaSink, Off) and OFF.cost is FREE and EmaSink().cost is FREE


def test_a_memory_brings_the_positions_it_needs():
    assert POLICIES["ema"].preset("pocket", None) == "pocket"
    without = next(name for name, preset in PRESETS.items() if not preset.sink_frames)
    assert POLICIES["ema"].preset(without, None) == "reward_forcing"
    assert POLICIES["off"].preset(without, None) == without


def test_latents_that_were_taught_no_memory_are_refused_one():
    with torch.device("meta"):
        wan, mla = (WanModel(WanConfig(1536, 8960, 1)), MlaModel(WanConfig(1536, 8960, 1), MlaSizes()))
    assert POLICIES["learned"].why_not(wan, "") is None
    assert "was not trained to read a memory" in POLICIES["learned"].why_not(mla, "")
    assert POLICIES["learned"].why_not(mla, "its own") is None and POLICIES["ema"].why_not(mla, "") is None


def test_a_policy_costs_what_its_encoder_does():
    sizes = encoder().config
    cost, dtype, shape = learned().cost, torch.bfloat16, CacheShape(3, 2, 2, 3, 2, 12)
    assert cost.tokens == cost_of(sizes).tokens == 18
    assert cost.device_bytes(shape, dtype) == sizes.device_bytes(2, dtype)
    assert cost.snapshot_bytes(shape, dtype) == 2 * 2 * 18 * 24 * 2


def test_a_new_policy_streams_and_is_taken_up_again(monkeypatch, model, make_text, config, tmp_path):
    monkeypatch.setitem(POLICIES, KIND.name, KIND)
    policy = find_policy("count").build(config, CPU, None, {})
    state = init(ModelCaller(model), (make_text(),), config, memory=policy)
    for _ in range(4):
        _, state = step(ModelCaller(model), state)
    assert state.memory.frames == 2 * (12 - len(state.cache.frames))
    save(ModelCaller(model), state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", ModelCaller(model), config, memory=policy)
    (latents, on), (again, _) = step(ModelCaller(model), state), step(ModelCaller(model), back)
    assert torch.equal(latents, again) and on.memory.frames == state.memory.frames + 2 * 3

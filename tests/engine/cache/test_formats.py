"""The table of formats: whom each suits, and that a new one needs its module and nothing else."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.cost import DENSE_COST
from rivulet.model_patches.cache.formats import FORMATS, compatible_formats, find_format
from rivulet.model_patches.cache.shapes import CacheShape, Exact
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.cards import describe_cards, usable_formats
from rivulet.model_patches.plan.plan import Request
from rivulet.model_patches.plan.probe import Device
from rivulet.model_patches.plan.verdict import judge
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step

from ..formats import basis, latent
from .toy import KIND

WAN = WanConfig(dim=1536, ffn_dim=8960, num_layers=30)
STREAM = StreamConfig(Geometry(832, 480), "longlive_infinity", dtype=torch.bfloat16)


@pytest.fixture
def wan():
    """Returns Wan 1.3B without weights."""
    with torch.device("meta"):
        return WanModel(WAN)


@pytest.fixture
def mla():
    """Returns the same with VideoMLA's attention."""
    with torch.device("meta"):
        return MlaModel(WAN, MlaSizes())


@pytest.fixture
def toy(monkeypatch):
    """Adds the format of `toy`."""
    monkeypatch.setitem(FORMATS, KIND.name, KIND)
    return KIND


def test_every_row_has_its_name_and_words():
    for name, kind in FORMATS.items():
        assert kind.name == name and kind.label and not kind.label.endswith(".")
        assert kind.source is None or kind.needs  # a file is something a user must have
    with pytest.raises(ValueError, match=r"Here: there is no format 'x'; choose one of dense, int8, latent"):
        find_format("x", "Here")


def test_a_model_is_offered_what_it_can_take_and_nothing_larger_than_what_loses_nothing(wan, mla):
    assert [kind.name for kind in compatible_formats(wan)] == ["dense", "int8", "latent"]
    assert [kind.name for kind in compatible_formats(mla)] == ["mla", "mla-int8"]
    assert FORMATS["dense"].why_not(mla) is None and FORMATS["int8"].why_not(mla) is None
    assert "no basis can be calibrated for it" in FORMATS["latent"].why_not(mla)
    assert "is no VideoMLA attention" in FORMATS["mla"].why_not(wan)
    assert [cost.name for cost in usable_formats(mla)] == ["mla", "mla-int8"]


def test_a_kind_costs_what_its_format_costs(wan, mla):
    shape = CacheShape(30, 1, 30, 52, 12, 128)
    for model, name in ((wan, "dense"), (wan, "int8"), (mla, "mla"), (mla, "mla-int8")):
        planned, made = FORMATS[name].cost(model), FORMATS[name].build(model).cost
        assert planned.token_bytes(shape, torch.bfloat16) == made.token_bytes(shape, torch.bfloat16)
        assert planned.name == made.name == name
    dense = DENSE_COST.token_bytes(shape, torch.bfloat16)
    assert 8 < dense / FORMATS["latent"].cost(wan).token_bytes(shape, torch.bfloat16) < 8.5


def test_a_format_of_another_model_says_so_before_anything_is_allocated(make_model, model):
    small = FORMATS["latent"].build(model, source=basis(*[latent(16, 8)] * 3))
    assert small.why_not(model) is None
    assert "the basis is for 3 layers, the model has 2" in small.why_not(make_model(num_layers=2))
    assert "24 channels do not divide into groups of 64" in FORMATS["int8"].why_not(model)


def test_scaled_bytes_keep_their_shares(wan, mla):
    large = CacheShape(40, 1, 1, 1, 40, 128)
    for model, name in ((wan, "dense"), (wan, "int8"), (mla, "mla")):
        made = FORMATS[name].build(model)
        one, other = (cost.token_bytes(large, torch.bfloat16) for cost in (made.cost, DENSE_COST))
        scaled = made.scaled_cost(large, 1536).token_bytes(large, torch.bfloat16)
        assert scaled == (one if name != "mla" else round((224 * 5120 / 1536 - 32) / 32) * 64 + 64)
        assert scaled <= other


def test_a_new_format_is_planned_and_proposed(toy, wan):
    request = Request(WAN, STREAM, fps=16)
    formats = usable_formats(wan)
    assert [cost.name for cost in formats] == ["dense", "int8", "latent", "toy"]
    card = Device("a card", 1e14, 1e12, free_bytes=10**12)
    assert "dense cache" in describe_cards(request, formats)
    whole = judge(request, card, formats)
    assert whole.answer == "fits"
    device_bytes = [int(1.1 * _device_bytes(request, cost)) + 1 for cost in formats]
    tight = judge(request, replace(card, free_bytes=device_bytes[3]), [formats[3]])
    assert tight.proposal.cache.name == "toy" and "the cache format toy instead of dense" in tight.text


def _device_bytes(request, cost):
    from rivulet.model_patches.plan.plan import plan_stream

    return plan_stream(replace(request, cache=cost)).device_bytes


def test_a_new_format_streams_and_is_taken_up_again(toy, model, make_text, config, tmp_path):
    made = find_format("toy").build(model, Exact(sink=1))
    state = init(ModelCaller(model), (make_text(),), config, cache=made)
    for _ in range(4):
        _, state = step(ModelCaller(model), state)
    save(ModelCaller(model), state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", ModelCaller(model), config, cache=made)
    assert torch.equal(step(ModelCaller(model), state)[0], step(ModelCaller(model), back)[0])
    assert state.cache.bytes == made.cost.allocated_bytes(state.cache.shape, 6, torch.float32)

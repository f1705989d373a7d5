"""The measure of a format shows what is lost and changes nothing; the picture shows every format."""

import io
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import INT8, Int8Format
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout
from rivulet.pocket import detector, held_out, world
from rivulet.tests.bench import contenders
from rivulet.tests.bench.beside import Tally, beside
from rivulet.tests.bench.cache import nearness, totals
from rivulet.tests.bench.cache_picture import draw
from rivulet.tests.bench.contenders import Contender
from rivulet.tests.bench.quality_figures import Span
from rivulet.tests.bench.records import Rows


@pytest.fixture(scope="module")
def streamed():
    """Returns a maker of five blocks of a small random model, guided, with a cache format."""
    torch.manual_seed(3)
    model = WanModel(WanConfig(dim=24, ffn_dim=32, num_layers=2, num_heads=2, text_dim=6)).requires_grad_(
        False
    )
    for parameter in model.parameters():
        parameter.normal_(std=0.25)
    text = torch.randn(1, 4, 6)
    config = StreamConfig(Geometry(32, 32), "infinity_rope", sigmas=(1.0, 0.5), cfg=2.0)

    def make(made, tally=None):
        caller = ModelCaller(model) if tally is None else ModelCaller(model, attention=tally.attend)
        state = init(caller, (text, -text), config, cache=made)
        return torch.cat([latents for latents, _ in rollout(caller, state, 5)], 2)

    return model, make


def test_a_stream_that_is_measured_is_the_dense_stream(streamed):
    model, make = streamed
    tally = Tally(model, counts=True)
    assert torch.equal(make(beside(Int8Format(8), tally), tally), make(DENSE))
    errors = tally.errors()
    assert len(errors.layers) == 2 and [len(heads) for heads in errors.heads] == [2, 2]
    assert 0 < errors.total < 0.02 and all(0 < head < 0.05 for heads in errors.heads for head in heads)
    assert errors.total == pytest.approx((sum(e * e for e in errors.layers) / 2) ** 0.5)


def test_dense_beside_itself_loses_nothing_and_nothing_is_counted_before_it_is_to_be(streamed):
    model, make = streamed
    tally = Tally(model, counts=True)
    make(beside(DENSE, tally), tally)
    assert tally.errors().layers == (0.0, 0.0)
    silent = Tally(model)
    make(beside(Int8Format(8), silent), silent)
    assert silent.sums == []


def contender(made):
    return Contender(made.name, made, None, lambda shape: made.cost)


def printed(made):
    out = io.StringIO()
    totals(Rows("cache", quick=True, out=out), contender(made))
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_totals_are_the_published_ones_and_say_that_they_are_computed():
    rows = printed(DENSE)
    assert [(row["model"], row["picture"]) for row in rows] == [
        ("wan_1.3b", "480p"), ("wan_1.3b", "720p"), ("wan_14b", "480p"), ("wan_14b", "720p"),
    ]  # fmt: skip
    assert rows[0]["kept_bytes"] == 6_038_323_200 and rows[0]["bytes_per_token_layer"] == 6144
    assert all(row["is_computed"] and row["smaller_ratio"] == row["whole_smaller_ratio"] == 1 for row in rows)
    eight = printed(INT8)[0]
    assert eight["smaller_ratio"] == pytest.approx(6144 / 3168) and eight["whole_smaller_ratio"] < 1.94


def test_nearness_is_that_of_the_first_two_seconds():
    pocket = SimpleNamespace(recipe=SimpleNamespace(fps=4))
    dense = Span(torch.zeros(3, 12, 2, 2, 3, dtype=torch.uint8), ())
    made = Span(dense.pixels_BFHWC.clone(), ())
    made.pixels_BFHWC[:, 8:] = 255  # after them
    assert nearness(pocket, made, dense) == {}
    made.pixels_BFHWC[0, :8] = 51  # a fifth of 255
    assert nearness(pocket, made, dense) == {"psnr_db": pytest.approx(10 * math.log10(25 * 3))}
    made.pixels_BFHWC[1, :8] = 51
    assert nearness(pocket, made, dense)["median_stream_psnr_db"] == pytest.approx(10 * math.log10(25))


def test_a_plan_keeps_its_shares_at_another_width():
    layer = LayerBasis(torch.zeros(256), torch.zeros(256, 128), torch.zeros(128, 256))
    plan = (LayerPlan("latent", 128, 32), LayerPlan("latent", 64, 64))
    made = LatentFormat(Basis((layer, layer), plan, 32))
    small, wan = CacheShape(2, 1, 1, 1, 2, 128), CacheShape(30, 1, 1, 1, 12, 128)
    same = made.scaled_cost(small, 256)
    assert same.token_bytes(small, torch.bfloat16) == made.cost.token_bytes(small, torch.bfloat16)
    expected = ((192 + 576 // 2 + 24 * 2 + 2) + (384 + 12 * 2 + 2)) / 2
    assert made.scaled_cost(wan, 256).token_bytes(wan, torch.bfloat16) == expected


def test_a_converted_pocket_keeps_the_published_sizes_at_the_published_width():
    """28 + 8 numbers of a width of 256 are 192 + 32 of 1536 (VideoMLA, arXiv 2605.30351)."""
    wan = CacheShape(30, 1, 30, 52, 12, 128)
    cost = MlaFormat(28, 8).scaled_cost(wan, 256)
    assert cost.token_bytes(wan, torch.bfloat16) == 2 * (192 + 32)
    assert round(cost.allocated_bytes(wan, 21, torch.bfloat16) / 1e9, 3) == 0.440


def test_another_model_is_measured_on_the_dense_models_tokens(streamed):
    """The same weights in another tree lose nothing but rounding, twice its output is off by itself."""
    model, make = streamed
    tally = Tally(model, Passing(model), counts=True)
    assert torch.equal(make(beside(DENSE, tally), tally), make(DENSE))
    errors = tally.errors()
    assert max(errors.layers) < 1e-6 and errors.heads == ((), ())
    doubled = Tally(model, Passing(model, 2.0), counts=True)
    make(beside(DENSE, doubled), doubled)
    assert min(doubled.errors().layers) == pytest.approx(1, rel=1e-5)


class Passing:
    """The same blocks as another tree, whose outputs may be scaled."""

    def __init__(self, model, scale=1.0):
        self.blocks = []
        for block in model.blocks:
            a = block.self_attn
            names = {name: getattr(a, name) for name in ("num_heads", "q", "k", "v", "norm_q", "norm_k")}
            bias = a.o.bias
            o = lambda x, a=a, bias=bias: scale * (a.o(x) - bias) + bias  # noqa: E731
            self.blocks.append(SimpleNamespace(self_attn=SimpleNamespace(**names, o=o)))


def test_the_picture_has_a_mark_for_every_format_with_an_error(tmp_path):
    points = [
        {"format": "dense", "bytes_per_token_layer": 6144.0, "attention_error": 0.0},
        {"format": "int8", "bytes_per_token_layer": 3168.0, "attention_error": 0.003},
        {"format": "latent_8x", "bytes_per_token_layer": 742.0, "attention_error": 0.0093},
    ]
    draw(points, tmp_path / "new" / "cache.png")
    colours = {colour for _, colour in Image.open(tmp_path / "new" / "cache.png").getcolors(1 << 20)}
    assert {(38, 110, 200), (214, 84, 40)} <= colours and (120, 120, 120) not in colours
    with pytest.raises(ValueError, match="no format has an error to draw"):
        draw(points[:1], tmp_path / "cache.png")


def test_frames_that_are_all_exact_have_no_error(streamed):
    model, make = streamed
    tally = Tally(model, counts=True)
    made = Int8Format(8)
    exact = replace(made, exact=type(made.exact)(sink=1, newest=3))
    make(beside(exact, tally), tally)
    assert tally.errors().total < 1e-6


def test_no_basis_is_learned_on_what_is_held_out(monkeypatch):
    monkeypatch.setattr(contenders, "calibrate", lambda streams, prompts, *_, **__: prompts)
    drawn = contenders.learned(SimpleNamespace(dit=None), 300, 1)
    unseen = {(frozenset(one.objects), one.ground) for one in held_out.unseen()}
    colours, shapes = list(world.COLOURS), list(world.SHAPES)
    for prompt in drawn:
        objects, ground = detector.parse_prompt(prompt)
        things = frozenset((colours.index(colour), shapes.index(shape)) for colour, shape in objects)
        assert (things, colours.index(ground)) not in unseen, prompt
    assert len(drawn) > 200

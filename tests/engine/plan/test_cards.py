"""What fits a card: against allocations on the meta device, and the choice of the nearest way."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.int8 import INT8
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.plan.cards import (
    BF16,
    CARDS,
    FP8,
    PRECISIONS,
    Q4,
    WEIGHTS,
    Weights,
    choices,
    describe_cards,
    free_bytes,
    usable_formats,
)
from rivulet.model_patches.plan.plan import Request, plan_stream
from rivulet.model_patches.plan.verdict import HEADROOM
from rivulet.model_patches.stream.config import StreamConfig

META = torch.device("meta")
SIZES = {
    "1.3B": WanConfig(dim=1536, ffn_dim=8960, num_layers=30),
    "14B": WanConfig(dim=5120, ffn_dim=13824, num_layers=40),
}
STREAM = StreamConfig(Geometry(832, 480), "longlive_infinity", dtype=torch.bfloat16)


def on_meta(sizes):
    with torch.device(META):
        return WanModel(sizes).bfloat16()


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_those_of_the_layers_kept_so(name):
    """fp8: the model itself, its layers' matrices converted; Q4: 18 bytes for each 32 numbers of a row."""
    model = on_meta(SIZES[name])
    whole = {name: tensor.nbytes for name, tensor in model.named_parameters()}
    assert Weights(BF16).stored_bytes(SIZES[name], 2) == sum(whole.values())
    matrices = {n: t for n, t in model.named_parameters() if n.startswith("blocks.") and n.endswith("weight")}
    matrices = {n: t for n, t in matrices.items() if t.ndim == 2}
    rest = sum(whole.values()) - sum(whole[n] for n in matrices)
    eight = rest + sum(t.to(torch.float8_e4m3fn).nbytes for t in matrices.values())
    four = rest + sum(t.shape[0] * t.shape[1] // 32 * 18 for t in matrices.values())
    assert Weights(FP8).stored_bytes(SIZES[name], 2) == eight
    assert Weights(Q4).stored_bytes(SIZES[name], 2) == four
    widest = max(t.nbytes for t in matrices.values())
    assert Weights(Q4).card_bytes(SIZES[name], 2) == four + widest
    layer = sum(t.nbytes for n, t in matrices.items() if n.startswith("blocks.0."))
    assert Weights(BF16, True).card_bytes(SIZES[name], 2) == 2 * layer
    assert Weights(FP8, True).card_bytes(SIZES[name], 2) == layer + widest


@pytest.mark.parametrize("name", SIZES)
def test_the_cache_of_each_way_is_what_the_format_allocates(name):
    """Two layers of the true width: all layers are alike."""
    sizes = replace(SIZES[name], num_layers=2)
    request = Request(sizes, STREAM, fps=16)
    model, shape = on_meta(sizes), request.cache_shape
    rank, wide = sizes.dim * 3 // 4, sizes.dim // 6 // 64 * 64
    nought = torch.zeros(1, 1)
    layer = LayerBasis(
        nought[0].expand(sizes.dim), nought.expand(sizes.dim, rank), nought.expand(rank, sizes.dim)
    )
    plans = (LayerPlan("latent", rank, wide),) * sizes.num_layers
    latent = LatentFormat(Basis((layer,) * sizes.num_layers, plans, group=64))
    ways = choices(request, usable_formats(model), [Weights(BF16)])
    for made, way in zip((DENSE, INT8, latent), ways, strict=True):
        cache = made.empty(model, shape, 12, torch.bfloat16, META)
        assert way.plan.cache_bytes == cache.bytes, made.name
        assert way.plan.workspace_bytes == cache.store.workspace_bytes, made.name
    assert (
        8
        < ways[0].cache.token_bytes(shape, torch.bfloat16) / ways[2].cache.token_bytes(shape, torch.bfloat16)
        < 8.5
    )


def test_a_way_is_the_plan_of_its_request():
    request = Request(SIZES["14B"], STREAM, fps=16)
    found = choices(request, usable_formats(on_meta(request.model)))
    assert [(way.weights.name, way.cache.name) for way in found[:4]] == [
        ("bf16", "dense"),
        ("bf16", "int8"),
        ("bf16", "latent"),
        ("fp8", "dense"),
    ]
    assert len(found) == len(WEIGHTS) * 3 and {way.weights.precision for way in found} == set(PRECISIONS)
    for way in found:
        kept = way.weights.card_bytes(request.model, 2)
        assert way.plan == plan_stream(replace(request, cache=way.cache, weights_bytes=kept))


def test_the_card_is_the_smallest_with_room():
    request = Request(SIZES["1.3B"], STREAM, fps=16)
    for way in choices(request, usable_formats(on_meta(request.model))):
        needed = HEADROOM * way.plan.device_bytes
        assert way.card is not None and needed <= free_bytes(way.card)
        assert all(needed > free_bytes(size) for size in CARDS if size < way.card)
    large = Request(SIZES["14B"], replace(STREAM, geometry=Geometry(1280, 720)), fps=16)
    assert choices(large, [DENSE.cost], [Weights(BF16)])[0].card is None


def test_the_sentence_names_the_way_that_gives_up_least():
    large = Request(SIZES["14B"], replace(STREAM, geometry=Geometry(1280, 720)), fps=16, piece_latents=2)
    assert describe_cards(large, usable_formats(on_meta(large.model))) == (
        "By card, computed: 12 GB: no; 16 GB: no; 24 GB: no; 32 GB: latent cache, bf16 offloaded weights."
    )
    small = describe_cards(Request(SIZES["1.3B"], STREAM, fps=16), usable_formats(on_meta(SIZES["1.3B"])))
    assert "32 GB: dense cache, bf16 weights" in small


def test_only_offloaded_weights_go_over_the_bus():
    assert Weights(FP8).bus_bytes(SIZES["14B"], 2, 5) == 0
    stored = Weights(FP8, True).stored_bytes(SIZES["14B"], 2)
    assert Weights(FP8, True).bus_bytes(SIZES["14B"], 2, 5) == 5 * stored

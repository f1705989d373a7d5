"""What lossy formats give back, against the same numbers worked out in float64."""

from dataclasses import replace

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.parts import project_kv
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.attention.rope import rope_table
from rivulet.model_patches.cache.basis import LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.shapes import CacheShape, Exact
from torch.utils.flop_counter import FlopCounterMode

from ..formats import FORMATS, GROUP, LOSSY, basis, latent

SHAPE = CacheShape(layers=3, rows=2, grid_height=2, grid_width=3, heads=2, head_dim=12)
PRESET = PRESETS["infinity_rope"]
CPU = torch.device("cpu")
ALL = slice(0, 2)


def tokens_of(frames, layer, dtype):
    """Modulated inputs [2, L, 24] of whole frames, each told apart by frame and layer."""
    parts = [
        torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(100 * frame + layer)) + 0.2
        for frame in frames
    ]
    return torch.cat(parts, 1).to(dtype)


def write(model, draft, frames, dtype, calls=(False, True)):
    """What a block leaves: calls of other tokens that are not kept, then the last."""
    for rows in (slice(0, 1), slice(1, 2)):
        past = draft.past(rows)
        for layer, block in enumerate(model.blocks):
            for keep in calls:
                x = tokens_of(frames, layer if keep else layer + 50, dtype)[rows]
                k, v = project_kv(block.self_attn, x)
                past.write(layer, x, k, v, keep=keep)
                past.read(layer)


def streamed(model, cache_format, dtype, blocks=3):
    """The cache after so many blocks, and the draft of the next, whose own tokens were not kept yet."""
    cache = cache_format.empty(model, SHAPE, PRESET.capacity_frames, dtype, CPU)
    for start in range(0, 3 * blocks, 3):
        call = call_of(PRESET, start, 3)
        draft = cache.begin(call)
        write(model, draft, call.new, dtype)
        cache = draft.commit(call_of(PRESET, start + 3, 3).cached)
    return cache, cache.begin(call_of(PRESET, 3 * blocks, 3)), call_of(PRESET, 3 * blocks, 3)


def by_frame(tensor_BLND, frames):
    """Frame -> its tokens, for a tensor in the order of the slots."""
    return {frame: part for frame, part in zip(frames, tensor_BLND.split(6, 1), strict=True)}


def read(model, draft, call, layer, dtype):
    """Keys and values by frame, as a call of other tokens reads them."""
    past = draft.past(ALL)
    x = tokens_of(call.new, layer + 50, dtype)
    k, v = project_kv(model.blocks[layer].self_attn, x)
    past.write(layer, x, k, v, keep=False)
    order = draft.cache.slots.frames[: len(call.cached + call.new)]
    return [by_frame(side, order) for side in past.read(layer)], (k, v)


def decoded(buffer, layer, slot, plan):
    """c [2, 6, R] in float64 from a slot's codes, by hand."""
    at = slice(6 * slot, 6 * slot + 6)
    codes, scales = buffer[f"{layer}.codes"][:, at], buffer[f"{layer}.scales"][:, at].double()
    pairs = codes[..., plan.wide :].view(torch.uint8)
    narrow = torch.stack([pairs % 16, pairs // 16], -1).flatten(-2).double() - 8
    whole = torch.cat([codes[..., : plan.wide].double(), narrow], -1)
    return whole * scales.repeat_interleave(GROUP, -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_latents_come_back_as_their_codes_say(make_model, dtype):
    """Worked out from the codes in float64: x = mu + c R, k = (W x + b) * gain / rms, turned."""
    model, cache_format = make_model(dtype), FORMATS["latent"]
    plans, exact = cache_format.basis.plan, make_model(dtype).to(torch.float64)
    cache, draft, call = streamed(model, cache_format, dtype)
    place = dict(zip(call.cached + call.new, call.ids, strict=True))
    unit = torch.finfo(dtype).eps
    for layer, plan in enumerate(plans):
        (keys, values), _ = read(model, draft, call, layer, dtype)
        attention, layer_basis = exact.blocks[layer].self_attn, cache_format.basis.layers[layer]
        up = layer_basis.up_RC[: plan.rank].double()
        for frame in call.cached:
            slot = cache.table.index(frame)
            c = decoded(cache.store.buffers, layer, slot, plan)
            inverse = cache.store.buffers[f"{layer}.inverse_rms"][:, 6 * slot : 6 * slot + 6].double()
            x = layer_basis.mu_C.double() + c @ up
            gain = attention.norm_k.weight
            k = ((attention.k(x) * gain) * inverse[..., None]).unflatten(-1, (2, 12))
            table = rope_table([place[frame]], 2, 3, 12, dtype=torch.float64)
            expected = rotate(k, table), attention.v(x).unflatten(-1, (2, 12))
            # each product of a coordinate with a folded weight is rounded three times at most, a sum of R of
            # them R times in float32 or wider; the rotation mixes two channels, results are rounded once
            sizes = []
            for weight, scale in (
                (attention.k.weight.T * gain, inverse[..., None]),
                (attention.v.weight.T, 1),
            ):
                size = (c.abs() @ (up @ weight).abs() + (layer_basis.mu_C.double() @ weight).abs()) * abs(
                    scale
                )
                sizes.append(size + size.amax(-1, keepdim=True))
            for got, wanted, size in zip((keys[frame], values[frame]), expected, sizes, strict=True):
                wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
                # the gain was asked for with 256, beside which the norm's own eps of 1e-6 is not nothing
                assert (
                    (got.double() - wanted).abs().flatten(2) <= (4 * unit + 64 * wide + 1e-11) * size
                ).all()


def test_codes_are_the_nearest_to_the_coordinates(make_model):
    model, cache_format = make_model(torch.float64), FORMATS["latent"]
    cache, _, call = streamed(model, cache_format, torch.float64)
    for layer, plan in enumerate(cache_format.basis.plan):
        for frame in call.cached:
            slot, layer_basis = cache.table.index(frame), cache_format.basis.layers[layer]
            down = layer_basis.down_CR[:, : plan.rank].double()
            true = (tokens_of([frame], layer, torch.float64) - layer_basis.mu_C.double()) @ down
            scales = cache.store.buffers[f"{layer}.scales"][:, 6 * slot : 6 * slot + 6].double()
            step = scales.repeat_interleave(GROUP, -1)
            # a scale stored in float16 may be too small for the largest coordinate by its rounding
            slack = true.abs() * torch.finfo(torch.float16).eps
            assert ((decoded(cache.store.buffers, layer, slot, plan) - true).abs() <= step / 2 + slack).all()


def test_the_stored_rms_is_that_of_the_true_key(make_model):
    model = make_model(torch.float64)
    cache, _, call = streamed(model, FORMATS["latent"], torch.float64)
    for layer, block in enumerate(model.blocks):
        for frame in call.cached:
            k = block.self_attn.k(tokens_of([frame], layer, torch.float64))
            true = (k.square().mean(-1) + block.self_attn.norm_k.eps).rsqrt()
            slot = cache.table.index(frame)
            got = cache.store.buffers[f"{layer}.inverse_rms"][:, 6 * slot : 6 * slot + 6].double()
            torch.testing.assert_close(got, true, rtol=torch.finfo(torch.float16).eps / 2 * 1.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_int8_is_off_by_half_a_step(make_model, dtype):
    model = make_model(dtype)
    _, draft, call = streamed(model, FORMATS["int8"], dtype)
    place = dict(zip(call.cached + call.new, call.ids, strict=True))
    for layer, block in enumerate(model.blocks):
        (keys, values), _ = read(model, draft, call, layer, dtype)
        for frame in call.cached:
            k, v = project_kv(block.self_attn, tokens_of([frame], layer, dtype))
            turned = rotate(k.double(), rope_table([place[frame]], 2, 3, 12, dtype=torch.float64))
            for got, true, sides in ((keys[frame], turned, 2**0.5), (values[frame], v.double(), 1)):
                given = (k if sides > 1 else v).double().flatten(2).unflatten(-1, (-1, GROUP))
                step = (given.abs().amax(-1, keepdim=True) / 127).expand_as(given).flatten(-2).view_as(true)
                # half a step on each of two channels that a turn mixes, and what dtype and scale round
                rounding = 2 * torch.finfo(dtype).eps + torch.finfo(torch.float16).eps
                bound = sides * step / 2 * 1.01 + rounding * sides * 127 * step
                assert ((got.double() - true).abs() <= bound).all()


@pytest.mark.parametrize("name", LOSSY)
def test_the_blocks_own_keys_and_values_are_as_they_are(model, name):
    _, draft, call = streamed(model, FORMATS[name], torch.float32)
    for layer in range(3):
        (keys, values), (k, v) = read(model, draft, call, layer, torch.float32)
        turned = by_frame(rotate(k, draft.query_table), call.new)
        for frame, value in by_frame(v, call.new).items():
            assert torch.equal(keys[frame], turned[frame]) and torch.equal(values[frame], value)


@pytest.mark.parametrize("name", ["int8_exact", "latent_mixed_exact"])
def test_sink_and_newest_frames_are_those_of_the_dense_cache(model, name):
    _, dense, call = streamed(model, DENSE, torch.float32)
    cache, draft, _ = streamed(model, FORMATS[name], torch.float32)
    assert sorted(frame for frame in cache.exact.frames if frame >= 0) == [0, 8]
    for layer in range(2):
        expected, _ = read(model, dense, call, layer, torch.float32)
        got, _ = read(model, draft, call, layer, torch.float32)
        for side, wanted in zip(got, expected, strict=True):
            assert torch.equal(side[0], wanted[0]) and torch.equal(side[8], wanted[8])
            assert not torch.equal(side[7], wanted[7])


def test_calls_that_are_not_the_last_keep_nothing(model):
    cache = FORMATS["latent"].empty(model, SHAPE, 6, torch.float32, CPU)
    call = call_of(PRESET, 0, 3)
    draft = cache.begin(call)
    write(model, draft, call.new, torch.float32, calls=(False,))
    assert not any(buffer.any() for buffer in cache.store.buffers.values())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_bytes_are_what_is_allocated(make_model, name, dtype):
    made = FORMATS[name]
    cache = made.empty(make_model(dtype), SHAPE, 7, dtype, CPU)
    assert made.cost.allocated_bytes(SHAPE, 7, dtype) == cache.bytes
    assert made.cost.workspace_bytes(SHAPE, 7, dtype) == cache.store.workspace_bytes
    cache, _, call = streamed(make_model(dtype), made, dtype)
    buffers = {key: buffer for key, buffer in cache.tensors().items() if key != "exact.frames"}
    saved = sum(buffer.nbytes for buffer in buffers.values())
    assert made.cost.snapshot_bytes(SHAPE, len(call.cached), dtype) == saved


def test_weights_that_change_between_blocks_are_folded_anew(make_model):
    """As when a user switches an adapter: what is read follows the weights that run."""
    model, changed = make_model(torch.float64), make_model(torch.float64)
    cache, _, call = streamed(model, FORMATS["latent"], torch.float64)
    before, _ = read(model, cache.begin(call), call, 1, torch.float64)
    before = {frame: part.clone() for frame, part in before[1].items()}
    delta = torch.randn(24, 24, dtype=torch.float64) * 0.1
    for either in (model, changed):
        either.blocks[1].self_attn.v.weight.add_(delta)
    after, _ = read(model, cache.begin(call), call, 1, torch.float64)
    fresh = FORMATS["latent"].restore(changed, SHAPE, cache.table, cache.tensors(), torch.float64, CPU)
    expected, _ = read(changed, fresh.begin(call), call, 1, torch.float64)
    for frame in call.cached:
        assert torch.equal(after[1][frame], expected[1][frame])
        assert not torch.equal(after[1][frame], before[frame])


def test_weights_are_folded_once_while_they_stay(model, monkeypatch):
    asked = []
    target = "rivulet.model_patches.cache.latent.effective_linear"
    real = __import__("rivulet.model_patches.arch.effective", fromlist=["effective_linear"]).effective_linear
    monkeypatch.setattr(target, lambda *given: asked.append(1) or real(*given))
    streamed(model, FORMATS["latent"], torch.float32, blocks=4)
    assert len(asked) == 2 * 3


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Int8Format(7), "24 channels do not divide into groups of 7; give .* such as 6"),
        (lambda: LatentFormat(basis(latent(8, 8))), "the basis is for 1 layers, the model has 3"),
        (
            lambda: LatentFormat(basis(*[latent(16, 8)] * 3, width=32)),
            "layer 0 of the basis is for a width of 32, the model's is 24",
        ),
        (
            lambda: Int8Format(GROUP, Exact(sink=-1)),
            "-1 sink frames and 0 newest frames cannot be exact",
        ),
    ],
)
def test_formats_that_do_not_fit_are_refused(model, made, words):
    with pytest.raises(ValueError, match=words):
        made().empty(model, SHAPE, 6, torch.float32, CPU)


def test_bytes_for_a_model_of_other_layers_are_refused():
    """Room is asked for before a cache is allocated."""
    for layers in (2, 4):
        cost = LatentFormat(basis(*[latent(8, 8)] * layers)).cost
        with pytest.raises(ValueError, match=f"the basis is for {layers} layers, the model has 3"):
            cost.allocated_bytes(SHAPE, 6, torch.float32)


def test_folding_that_overflows_half_precision_is_refused(make_model):
    model = make_model(torch.float16)
    model.blocks[0].self_attn.v.weight.mul_(60)
    cache_format = LatentFormat(
        replace(
            basis(latent(24, 24), LayerPlan("int8"), LayerPlan("int8")),
            layers=(replace(FORMATS["latent"].basis.layers[0], up_RC=torch.eye(24) * 1e4), None, None),
        )
    )
    with pytest.raises(ValueError, match=r"projections of layer 0 overflow float16 .* bfloat16, or plan"):
        streamed(model, cache_format, torch.float16)


@pytest.mark.parametrize("name", ["int8", "latent", "latent_mixed_exact"])
def test_a_read_takes_the_products_that_a_plan_counts(model, name):
    """Of every token kept from before that is not exact; asking the layers for their weights comes before."""
    _, draft, call = streamed(model, FORMATS[name], torch.float32)
    tokens = sum(part.stop - part.start for part in draft.at.cached) * SHAPE.rows
    for layer in range(3):
        read(model, draft, call, layer, torch.float32)
        past = draft.past(ALL)
        k, v = project_kv(model.blocks[layer].self_attn, tokens_of(call.new, layer, torch.float32))
        past.write(layer, tokens_of(call.new, layer, torch.float32), k, v, keep=False)
        with FlopCounterMode(display=False) as counter:
            past.read(layer)
        assert counter.get_total_flops() == tokens * FORMATS[name].cost.read_flops(SHAPE, layer)

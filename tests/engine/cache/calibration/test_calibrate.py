"""Calibration of a small model: what is measured is true, allocation pays, bad requests end in a sentence."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
import torch
from rivulet.kernels.quantize import dequantize, quantize
from rivulet.kernels.rope import rotate
from rivulet.kernels.tiers import Tiers
from rivulet.model_patches.arch.wan import WanModel
from rivulet.model_patches.attention.sdpa import sdpa
from rivulet.model_patches.cache.calibration import calibrate as calibrate_module
from rivulet.model_patches.cache.calibration.allocate import mean_bytes
from rivulet.model_patches.cache.calibration.calibrate import Goal, calibrate, samples_bytes, split
from rivulet.model_patches.cache.calibration.fit import frontier, noise
from rivulet.model_patches.cache.calibration.measure import Truth, layer_weights
from rivulet.model_patches.cache.calibration.record import Ask, LayerSample, Recording
from rivulet.model_patches.cache.calibration.whiten import Whitened
from rivulet.model_patches.cache.cost import latent_layer_bytes
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.engine.conftest import SIZES

CPU = torch.device("cpu")
PROMPTS = ("one", "two", "three", "four", "five")
GROUP = 4
WIDTH = 48


def error(calibration, layer, tiers):
    """The errors of a layer on held-out prompts."""
    return calibration.fitted.truth(layer).errors(calibration.fitted.layers[layer].basis, tiers)


def latent_bytes(tiers):
    return latent_layer_bytes(tiers.rank, tiers.wide, tiers.group)


def weights_of(model):
    return lambda layer: layer_weights(model.blocks[layer], WIDTH, torch.float32, CPU)


def calibrated(model, config, make_text, prompts=PROMPTS, blocks=4, **more):
    caller = ModelCaller(model)

    def streams(recording, index):
        state = init(caller, (make_text(index),), config, cache=recording)
        for _ in range(blocks):
            _, state = step(caller, state)
            yield state

    return calibrate(streams, prompts, weights_of(model), blocks=blocks, group=GROUP, **more)


@pytest.fixture
def model():
    """Returns a model as before its training: each layer adds to what it is given, the first sees least."""
    torch.manual_seed(3)
    model = WanModel(replace(SIZES, dim=WIDTH, ffn_dim=2 * WIDTH)).requires_grad_(False).eval()
    torch.nn.init.xavier_uniform_(model.head.head.weight)
    for block in model.blocks:
        block.self_attn.norm_q.weight *= 2  # attention that is less even
    return model


@pytest.fixture(scope="module")
def layered():
    """Returns errors of layers as they are kept: filled by the fixture below, once."""
    return {}


@pytest.fixture
def calibration(layered, model, config, make_text):
    """Returns what was learned of the tiny model, once for all tests that only look at it."""
    if not layered:
        layered["made"] = calibrated(model, config, make_text)
    return layered["made"]


def test_prompts_are_split_into_learned_and_held_out(calibration):
    assert split(PROMPTS) == ([0, 1, 2, 4], [3]) and split("ab") == ([0], [1])
    assert calibration.learned == ("one", "two", "three", "five") and calibration.held_out == ("four",)
    # four blocks of three frames of 3 x 2 tokens
    assert calibration.tokens == 4 * 4 * 18


def test_errors_are_those_of_attention_written_out(calibration, model):
    """Latents, their quantisation, keys, values and attention again in float64, formula by formula."""
    layer, truth = calibration.fitted.layers[1], calibration.fitted.truth(1)
    told = truth.errors(layer.basis, Tiers(8, 8, GROUP))
    weights = weights_of(model)(1)
    key, value, out = (w.double() for w in (weights.key_CO, weights.value_CO, weights.out_OC))

    def outputs(sample, tokens, inverse):
        k = ((tokens @ key + weights.key_bias_O) * inverse * weights.gain_O).unflatten(-1, (2, -1))
        v = (tokens @ value + weights.value_bias_O).unflatten(-1, (2, -1))
        k = rotate(k, sample.key_table.double())
        return [
            sdpa(
                ask.q_BQND.double(),
                torch.cat([k, ask.k_BQND.double()], 1),
                torch.cat([v, ask.v_BQND.double()], 1),
            ).flatten(2)
            @ out
            for ask in sample.asks
        ]

    off = torch.zeros(2, dtype=torch.float64)
    for sample in truth.samples:
        x = sample.x_BTC.double()
        c = ((x - layer.basis.mu_C) @ layer.basis.down_CR[:, :16].double()).float()
        kept = [
            dequantize(*quantize(part, GROUP, bits), GROUP, bits, torch.float32).double()
            for part, bits in ((c[..., :8], 8), (c[..., 8:], 4))
        ]
        back = layer.basis.mu_C + torch.cat(kept, -1) @ layer.basis.up_RC[:16].double()
        raw = x @ key + weights.key_bias_O
        inverse = torch.rsqrt(raw.square().mean(-1, keepdim=True) + 1e-6)

        for true, made in zip(
            outputs(sample, x, inverse), outputs(sample, back, inverse.half().double()), strict=True
        ):
            off += torch.stack([(made - true).square().sum(), true.square().sum()])
    # a code at the border between two may round either way in float32; few of them do
    assert told.total == pytest.approx(float((off[0] / off[1]).sqrt()), rel=1e-2)


def test_heads_are_told_apart(calibration):
    told = error(calibration, 2, Tiers(4, 4, GROUP))
    assert len(told.heads) == 2 and told.heads[0] != told.heads[1] and min(told.heads) > 0


def test_curves_cost_more_and_err_less(calibration):
    for curve in calibration.fitted.curves:
        assert [p.bytes for p in curve] == sorted({p.bytes for p in curve})
        assert [p.error for p in curve] == sorted({p.error for p in curve}, reverse=True)


def test_the_first_layer_needs_less(calibration):
    """Its input is a norm of a linear map of the 16 numbers of a patch, so 17 channels hold all of it."""
    first, *later = (error(calibration, layer, Tiers(20, 0, GROUP)).total for layer in range(3))
    assert first < 0.5 * min(later)


@pytest.mark.parametrize("point", [(12, 4), (24, 8), (36, 12), (44, 24)])
def test_allocation_beats_the_same_for_every_layer(calibration, point):
    """At no more bytes, on prompts that neither the basis nor the allocation has seen."""
    fitted = calibration.fitted
    same = Tiers(point[1], point[0] - point[1], GROUP)
    uniform = [error(calibration, layer, same).total for layer in range(3)]
    chosen = calibration.choose(Goal(token_bytes=latent_bytes(same)))
    assert mean_bytes(chosen) <= latent_bytes(same)
    assert len({(p.rank, p.wide) for p in chosen}) > 1
    told = [errors.total for errors in fitted.errors(chosen)]
    assert sum(e * e for e in told) < sum(e * e for e in uniform)


def test_mixed_bits_beat_fewer_channels(calibration):
    """All channels in eight bits, or more of them and most in four: at no more bytes."""
    narrow, mixed = Tiers(28, 0, GROUP), Tiers(8, 28, GROUP)
    assert latent_bytes(mixed) <= latent_bytes(narrow)
    assert error(calibration, 2, mixed).total < error(calibration, 2, narrow).total


def test_an_error_is_reached_with_few_bytes(calibration):
    chosen = calibration.choose(Goal(error=0.1))
    assert sum(point.error**2 for point in chosen) <= 0.1**2 * len(chosen)
    with pytest.raises(ValueError, match=r"no basis of this model gets below .* int8 or dense"):
        calibration.choose(Goal(error=1e-9))


def test_a_basis_is_cut_to_its_plan_and_tells_where_it_comes_from(calibration):
    chosen = calibration.choose(Goal(token_bytes=36))
    basis = calibration.basis(chosen, {"checkpoint": "tiny"})
    for layer, plan, point in zip(basis.layers, basis.plan, chosen, strict=True):
        assert layer.down_CR.shape == (WIDTH, point.rank) and layer.up_RC.shape == (point.rank, WIDTH)
        assert (plan.kind, plan.rank, plan.wide) == ("latent", point.rank, point.wide)
    told = json.loads(json.dumps(basis.provenance))
    assert told["checkpoint"] == "tiny" and told["held_out_prompts"] == ["four"]
    assert told["token_bytes"] == mean_bytes(chosen) and len(told["head_errors"][2]) == 2
    root = sum(e * e for e in told["layer_errors"]) / 3
    assert told["error"] == pytest.approx(root**0.5, rel=1e-3)


def test_two_calibrations_give_the_same_basis(calibration, model, config, make_text):
    again = calibrated(model, config, make_text)
    one, other = (each.basis(each.choose(Goal(token_bytes=36)), {}) for each in (calibration, again))
    assert one.fingerprint == other.fingerprint


def test_it_tells_how_far_it_is_and_can_be_stopped(model, config, make_text):
    heard = []
    calibrated(model, config, make_text, report=lambda what, share: heard.append((what, share)))
    shares = [share for _, share in heard]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(heard) == 5 * 4 + 3
    assert heard[0][0] == "prompt 1 of 5" and heard[-1][0] == "layer 3 of 3"

    def stop(what, share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(model, config, make_text, report=stop)


def test_noise_is_what_quantisation_adds():
    eye = torch.eye(8, dtype=torch.float64)
    whitened = Whitened(torch.zeros(8).double(), eye, eye, torch.ones(8).double() / 8)
    x = torch.randn(500, 8)
    noises = noise(whitened, x, GROUP)
    steps = x.unflatten(-1, (-1, GROUP)).abs().amax(-1, keepdim=True).double()
    for bits, top in ((8, 127), (4, 7)):
        # errors of rounding are even over a step: a twelfth of its square, less where the largest is exact
        even = ((steps / top).square() / 12).mean() * torch.ones(8)
        assert ((noises[bits] / even) > 0.5).all() and ((noises[bits] / even) < 1.1).all()


def test_the_frontier_holds_what_no_other_choice_beats():
    importance = torch.tensor([8.0, 4, 2, 1, 0.5, 0.3, 0.1, 0.05]).double()
    eye = torch.eye(8, dtype=torch.float64)
    whitened = Whitened(torch.zeros(8).double(), eye, eye, importance)
    noises = {8: torch.full((8,), 1e-5).double(), 4: torch.full((8,), 1e-2).double()}
    found = frontier(whitened, noises, 2)
    for rank in range(2, 9, 2):
        for wide in range(0, rank + 1, 2):
            expected = float(
                (importance[:wide] * 1e-5).sum()
                + (importance[wide:rank] * 1e-2).sum()
                + importance[rank:].sum()
            )
            size = latent_bytes(Tiers(wide, rank - wide, 2))
            assert any(p.bytes <= size and p.error <= expected * (1 + 1e-12) for p in found)
    assert [p.bytes for p in found] == sorted({p.bytes for p in found})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": ("one",)}, r"got 1 prompts; give two or more"),
        ({"blocks": 1}, r"a stream of 1 blocks looks back on nothing"),
        ({"prompts": ("one", "two"), "blocks": 2}, r"36 tokens were seen, .* 48 channels needs 192 or more"),
    ],
)
def test_too_little_to_learn_from_is_refused(model, config, make_text, change, words):
    with pytest.raises(ValueError, match=words):
        calibrated(model, config, make_text, **change)


@pytest.mark.parametrize(("token_bytes", "error"), [(None, None), (100.0, 0.1), (0.0, None), (None, -0.1)])
def test_a_goal_is_one_number(token_bytes, error):
    with pytest.raises(ValueError, match=r"give either bytes per token and layer or an error, above 0"):
        Goal(token_bytes, error)


def test_rows_of_a_sample_need_not_be_of_one_stream(calibration, model):
    """Errors over two samples are those of the norms of both together, not a mean of two errors."""
    layer = calibration.fitted.layers[1]
    one, two = calibration.fitted.truth(1).samples[:2]
    far = replace(two, x_BTC=two.x_BTC * 3)
    both = Truth([one, far], weights_of(model)(1)).errors(layer.basis, Tiers(8, 8, GROUP)).total
    alone = [
        Truth([each], weights_of(model)(1)).errors(layer.basis, Tiers(8, 8, GROUP)).total
        for each in (one, far)
    ]
    assert min(alone) < both < max(alone) and isinstance(one, LayerSample)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:3]], ids=["all", "few"])
def test_the_bytes_of_samples_are_those_that_are_kept(model, config, make_text, monkeypatch, prompts):
    recorders, running = [], []
    real_recorder, real_retain = calibrate_module.Recorder, Recording.retain

    def recorder(*places):
        recorders.append(real_recorder(*places))
        return recorders[0]

    def retain(self, frames):
        running.append(bytes_of(self.kept))
        return real_retain(self, frames)

    monkeypatch.setattr(calibrate_module, "Recorder", recorder)
    monkeypatch.setattr(Recording, "retain", retain)
    calibrated(model, config, make_text, prompts=prompts, blocks=6)
    kept = bytes_of((recorders[0].samples, recorders[0].held_out)) + max(running)
    caller = ModelCaller(model)
    shape = caller.shape(texts(make_text(0)), config)
    sizes = (config.positions, config.block_frames, len(config.sigmas), config.dtype)
    counted = samples_bytes(shape, *sizes, prompts=len(prompts), blocks=6)
    # of the running stream no angles are kept, which are counted with its tokens
    angles = config.positions.capacity_frames * shape.frame_tokens * shape.head_dim * 4
    assert kept <= counted <= kept + angles
    assert angles < 0.01 * counted


def bytes_of(part):
    """Of all tensors in it, each storage once."""
    storages = {}

    def visit(each):
        if isinstance(each, torch.Tensor):
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        elif isinstance(each, Mapping):
            visit(tuple(each.values()))
        elif isinstance(each, (LayerSample, Ask)):
            visit(tuple(getattr(each, one.name) for one in fields(each)))
        elif isinstance(each, (list, tuple)):
            for one in each:
                visit(one)

    visit(part)
    return sum(storages.values())

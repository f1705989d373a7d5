"""VideoMLA's formats: bytes at true sizes, what they give back, and streams that are taken up again."""

from dataclasses import replace

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.mla import MlaModel, MlaSizes
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.attention.rope import rope_table
from rivulet.model_patches.cache.basis import Basis, LayerPlan
from rivulet.model_patches.cache.calibration.record import Recorder
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.cache.shapes import NO_EXACT, CacheShape, Exact
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step

from ..conftest import SIZES

META, CPU = torch.device("meta"), torch.device("cpu")
WAN = CacheShape(30, 1, 30, 52, 12, 128, RopeLayout.truncated(128, 32))
LAYOUT = RopeLayout(4, (1.0, 0.3), (0.7,), (0.9,))  # heads of 12: 4 still and 8 turned channels
LATENTS = MlaSizes(6, 10, LAYOUT, frozenset({"kv_down", "k_up", "v_up", "o"}))


# two blocks of three together; the sink leaves the sight of passes at timestep 0 with the fifth block
ROLLING = replace(PRESETS["rolling_forcing"], window_frames=12, last_id=11, trained_frames=12)


@pytest.fixture
def mla(make_model):
    """Returns a maker of the tiny model with latents of 6 + 8 channels."""

    def make(dtype=torch.float32):
        model = MlaModel(SIZES, LATENTS).requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        return model.to(dtype)

    return make


@pytest.mark.parametrize(("frames", "gigabytes"), [(21, 0.440), (7, 0.147), (6, 0.126)])
def test_the_published_totals_are_allocated(frames, gigabytes):
    """Wan 1.3B at 832 x 480 (VideoMLA, arXiv 2605.30351): 92.7 % less than 6.04, 2.01 and 1.73 GB."""
    with torch.device(META):
        model = MlaModel(WanConfig(1536, 8960, 30, 12), MlaSizes())
    made = MlaFormat.for_model(model)
    cache = made.empty(model, WAN, frames, torch.bfloat16, META)
    assert round(cache.bytes / 1e9, 3) == gigabytes
    assert made.cost.token_bytes(WAN, torch.bfloat16) == 448
    assert cache.bytes == made.cost.allocated_bytes(WAN, frames, torch.bfloat16)
    assert cache.store.workspace_bytes == made.cost.workspace_bytes(WAN, frames, torch.bfloat16)
    dense = DENSE.empty(model, WAN, frames, torch.bfloat16, META)
    assert round(1 - cache.bytes / dense.bytes, 3) == 0.927 and round(dense.bytes / cache.bytes, 1) == 13.7


def test_int8_is_a_byte_a_number_and_a_scale_for_every_32():
    with torch.device(META):
        model = MlaModel(WanConfig(1536, 8960, 30, 12), MlaSizes())
    made = MlaFormat.for_model(model, int8=True)
    cache = made.empty(model, WAN, 21, torch.bfloat16, META)
    assert made.cost.token_bytes(WAN, torch.bfloat16) == 224 + 7 * 2
    assert cache.bytes == 21 * 1560 * 30 * 238 == made.cost.allocated_bytes(WAN, 21, torch.bfloat16)


def rebuilt(model, made, dtype):
    """(turned keys, values) of two blocks after a clean pass each, and what they were made of."""
    shape = CacheShape(3, 2, 2, 3, 2, 12, LAYOUT)
    preset = PRESETS["infinity_rope"]
    cache = made.empty(model, shape, 6, dtype, CPU)
    attention = model.blocks[1].self_attn
    x = torch.randn(2, 36, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)
    for start in (0, 3):
        draft = cache.begin(call_of(preset, start, 3))
        own = x[:, start * 6 : (start + 3) * 6]
        k, v = (side.unflatten(-1, (2, 12)) for side in (attention.k(own), attention.v(own)))
        draft.past(slice(0, 2)).write(1, own, k, v)
        cache = draft.commit(call_of(preset, start + 3, 3).cached) if start == 0 else cache
    return draft.past(slice(0, 2)).read(1), x


def exact_pair(model, x):
    """The same in float64, from whole keys turned at their places."""
    attention, x = model.double().blocks[1].self_attn, x.double()
    table = rope_table(range(6), 2, 3, 12, dtype=torch.float64, layout=LAYOUT)
    k, v = (side.unflatten(-1, (2, 12)) for side in (attention.k(x), attention.v(x)))
    return rotate(k, table), v


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_latents_give_back_the_keys_and_values_of_the_layers(mla, dtype):
    model = mla(dtype)
    made, x = rebuilt(model, MlaFormat.for_model(model), dtype)
    for got, exact in zip(made, exact_pair(model, x), strict=True):
        # three roundings of sums of up to 24 products: latent down, norm, up; worst case all one way
        bound = 3 * 24 * torch.finfo(dtype).eps * exact.abs().max()
        assert (got.double() - exact).abs().max() <= bound


def test_int8_is_half_a_step_from_the_latents(mla):
    model = mla(torch.float64)
    made, x = rebuilt(model, MlaFormat.for_model(model, int8=True), torch.float64)
    attention = model.blocks[1].self_attn
    c, k_rope = attention.latent(x)
    half = 0.5 * torch.cat([t.unflatten(-1, (-1, 2)).abs().amax(-1) / 127 for t in (c, k_rope)], -1)
    half = half.repeat_interleave(2, -1) * (1 + 2**-9)  # and the rounding of a float16 scale
    moved_c, moved_r = half[..., :6], half[..., 6:]
    for got, exact, layer in zip(made, exact_pair(model, x), (attention.k_up, attention.v_up), strict=True):
        bound = (moved_c @ layer.weight.abs().T).unflatten(-1, (2, -1))
        if layer is attention.k_up:
            # a turned pair moves by at most the length of what both channels moved
            pair = (moved_r.unflatten(-1, (-1, 2)).square().sum(-1)).sqrt().repeat_interleave(2, -1)
            bound = torch.cat([bound, pair[:, :, None].expand(-1, -1, 2, -1)], -1)
        error = (got - exact).abs()
        assert (error <= bound + 1e-12).all() and error.max() > 0


def test_int8_scales_are_never_shared_by_latent_and_rotary_key():
    assert MlaFormat().group == 32 and MlaFormat(28, 8).group == 4 and MlaFormat(512, 64).group == 64


@pytest.mark.parametrize("int8", [False, True])
def test_a_stream_goes_on_bit_for_bit_from_a_file(mla, make_text, config, tmp_path, int8):
    model = mla()
    caller = ModelCaller(model)
    made, other = (MlaFormat.for_model(model, each) for each in (int8, not int8))
    state = init(caller, (make_text(),), config, cache=made)
    for _ in range(3):
        _, state = step(caller, state)
    save(caller, state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", caller, config, cache=made)
    for _ in range(2):
        latents, state = step(caller, state)
        again, back = step(caller, back)
        assert torch.equal(latents, again)
    with pytest.raises(ValueError, match=f"cache {made.name}, not {other.name}"):
        load(tmp_path / "stream.safetensors", caller, config, cache=other)


@pytest.mark.parametrize("sampler", ["block", "rolling"])
def test_a_stream_is_the_one_of_the_dense_cache(mla, make_text, config, sampler):
    """In float64 both formats are exact, so only the order of sums may tell them apart."""
    caller = ModelCaller(mla(torch.float64))
    preset = ROLLING if sampler == "rolling" else config.preset
    config = replace(config, preset=preset, sigmas=(1.0, 0.6), dtype=torch.float64, sampler=sampler)
    prompt = (make_text(dtype=torch.float64),)
    states = [init(caller, prompt, config, cache=made) for made in (DENSE, MlaFormat.for_model(caller.tree))]
    for _ in range(6):
        made = [step(caller, state) for state in states]
        states = [state for _, state in made]
        (dense, _), (latent, _) = made
        assert (dense - latent).abs().max() <= 1e4 * torch.finfo(torch.float64).eps * dense.abs().max()
    assert states[1].cache.bytes * 48 == states[0].cache.bytes * 14


def keys_values_of(attention, x):
    """Keys and values [2, R, L, N, D] of tokens by the formulas (arXiv 2605.30351, section 3), in float64."""

    def linear(layer, tokens):
        product = tokens @ layer.weight.double().T
        return product if layer.bias is None else product + layer.bias.double()

    norm, heads = attention.norm_kv_latent, (attention.num_heads, -1)
    c = linear(attention.kv_down, x.double())
    c = c / (c.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
    still, shared = linear(attention.k_up, c).unflatten(-1, heads), linear(attention.k_rope, x.double())
    turned = shared[:, :, None].expand(*still.shape[:-1], -1)
    return torch.stack([torch.cat([still, turned], -1), linear(attention.v_up, c).unflatten(-1, heads)])


def code_error(attention, x):
    """Most that a key or value is off where its latent is in codes: half a step of each channel."""
    most = max(part.abs().max() for part in attention.latent(x))
    widest = max(layer.weight.abs().sum(1).max() for layer in (attention.k_up, attention.v_up))
    # a scale is kept in float16, 2**-11 off at most, and the largest code is 127 of it
    return (0.5 / 127 + 2**-11) * most * max(1, widest)


@pytest.mark.parametrize("made", ["mla", "mla_int8", "dense"])
@torch.inference_mode()
def test_a_sink_takes_in_what_leaves_the_window(mla, make_text, config, made):
    """Beside an average of the keys and values themselves, which no cache had a hand in."""
    model = mla(torch.float64)
    exact = MlaFormat.for_model(model, int8=True, exact=Exact(sink=1))
    cache = {"mla": MlaFormat.for_model(model), "mla_int8": exact, "dense": DENSE}[made]
    config = replace(config, preset=PRESETS["videomla_7"], dtype=torch.float64)
    text, memory = make_text(dtype=torch.float64), EmaSink(sink_frames=1, keep=0.9)
    state, seen, sinks, off = (
        init(ModelCaller(model), (text,), config, cache=cache, memory=memory),
        {},
        {},
        [0.0] * 3,
    )
    for index, block in enumerate(model.blocks):

        def take(module, given, at=index):
            if (
                given[0].shape[1] == 3 * config.geometry.frame_tokens
            ):  # a cache may ask for some of the frames
                seen[at] = given[0].clone()

        block.self_attn.kv_down.register_forward_pre_hook(take)
    for number in range(6):
        latents, state = step(ModelCaller(model), state)
        assert latents.isfinite().all()
        for layer, block in enumerate(model.blocks):
            now = keys_values_of(block.self_attn, seen[layer]).chunk(3, 2)
            sink, left = sinks.get(layer, (now[0], now[1:]))
            if number:  # frames 1 and 2, then three a block
                for frame in left:
                    sink = 0.9 * sink + 0.1 * frame
                left = now
            sinks[layer] = sink, left
            kept = torch.stack(state.cache.keys_values(layer, (0,)))
            # frames leave an int8 cache as codes; an average is off by no more than what it averages
            off[layer] = max(off[layer], float(code_error(block.self_attn, seen[layer])))
            limit = 1e4 * torch.finfo(torch.float64).eps * sink.abs().max()
            assert (kept - sink).abs().max() <= limit + (off[layer] if made == "mla_int8" else 0)


def test_a_memory_over_latents_is_the_one_over_keys_and_values(mla, make_text, config):
    """In float64, block for block: the sink is attended to as it was folded."""
    model, memory = mla(torch.float64), EmaSink(sink_frames=1, keep=0.9)
    config = replace(config, preset=PRESETS["videomla_7"], dtype=torch.float64)
    text = make_text(dtype=torch.float64)
    states = [
        init(ModelCaller(model), (text,), config, cache=f, memory=memory)
        for f in (DENSE, MlaFormat.for_model(model))
    ]
    plain, told = init(ModelCaller(model), (text,), config, cache=MlaFormat.for_model(model)), []
    for _ in range(6):
        (dense, latent), states = zip(*(step(ModelCaller(model), state) for state in states), strict=True)
        assert (dense - latent).abs().max() <= 1e4 * torch.finfo(torch.float64).eps * dense.abs().max()
        without, plain = step(ModelCaller(model), plain)
        told.append(torch.equal(without, latent))
    assert told == [True, True, False, False, False, False]


@pytest.mark.parametrize("int8", [False, True])
def test_a_folded_sink_goes_on_bit_for_bit_from_a_file(mla, make_text, config, tmp_path, int8):
    model, memory = mla(), EmaSink(sink_frames=1, keep=0.9)
    config = replace(config, preset=PRESETS["videomla_7"])
    made = MlaFormat.for_model(model, int8, Exact(sink=1) if int8 else NO_EXACT)
    state = init(ModelCaller(model), (make_text(),), config, cache=made, memory=memory)
    for _ in range(4):
        _, state = step(ModelCaller(model), state)
    save(ModelCaller(model), state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", ModelCaller(model), config, cache=made, memory=memory)
    for _ in range(3):
        latents, state = step(ModelCaller(model), state)
        again, back = step(ModelCaller(model), back)
        assert torch.equal(latents, again)


def test_a_sink_in_codes_is_refused_an_average(mla, make_text, config):
    model, config = mla(), replace(config, preset=PRESETS["videomla_7"])
    with pytest.raises(
        ValueError, match=r"cache format mla-int8 keeps 1 of its 1 frames rounded; keep 1 sink"
    ):
        init(
            ModelCaller(model),
            (make_text(),),
            config,
            cache=MlaFormat.for_model(model, True),
            memory=EmaSink(sink_frames=1),
        )


def test_changed_weights_are_taken_anew(mla, make_text, config, tmp_path):
    """As if the stream had been taken up by a model that never had others."""
    model = mla()
    caller, made = ModelCaller(model), MlaFormat.for_model(model)
    _, state = step(caller, init(caller, (make_text(),), config, cache=made))
    _, state = step(caller, state)
    save(caller, state, tmp_path / "before.safetensors")
    unchanged = ModelCaller(mla())
    before = load(tmp_path / "before.safetensors", unchanged, config, cache=made)
    model.blocks[0].self_attn.v_up.weight.mul_(-1)
    save(caller, state, tmp_path / "stream.safetensors")
    changed, _ = step(caller, state)
    fresh = ModelCaller(mla())
    fresh.tree.load_state_dict(model.state_dict())
    again, _ = step(fresh, load(tmp_path / "stream.safetensors", fresh, config, cache=made))
    assert torch.equal(changed, again) and not torch.equal(changed, step(unchanged, before)[0])


def test_other_models_are_refused(make_model, mla):
    with pytest.raises(ValueError, match=r"layer 0 of this model is no VideoMLA attention.*convert-mla"):
        MlaFormat.for_model(make_model())
    shape = CacheShape(3, 1, 2, 3, 2, 12, LAYOUT)
    with pytest.raises(ValueError, match=r"latents of 192 \+ 32 channels, layer 0 has 6 \+ 8"):
        MlaFormat().empty(mla(), shape, 6, torch.float32, CPU)


def test_no_basis_is_calibrated_for_a_model_with_latents_of_its_own(mla):
    """Its keys are no linear map of a token: a basis would be learned for something else."""
    model, shape = mla(), CacheShape(SIZES.num_layers, 1, 2, 3, SIZES.num_heads, 12, LAYOUT)
    plan = (LayerPlan("dense"),) * SIZES.num_layers
    for made in (LatentFormat(Basis((None,) * SIZES.num_layers, plan, 8)), Recorder().watch((0,))):
        with pytest.raises(
            ValueError, match=r"VideoMLA's attention, .* no basis can be calibrated.*format mla"
        ):
            made.empty(model, shape, 3, torch.float32, torch.device("cpu"))

"""One stream, two streams, and what is refused before work starts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS, PositionPreset, cached_frames
from rivulet.model_patches.cache.basis import Basis, LayerPlan
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.latent import LatentFormat
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.sampler.denoise import InitLatents
from rivulet.model_patches.sampler.schedule import sigmas
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, rollout, step
from rivulet.model_patches.stream.switch import switch
from rivulet.model_patches.stream.timeline import MODES

from ..formats import FORMATS, basis, latent
from ..host_noise import HostNoise


def latents_of(caller, state, blocks, **options):
    return torch.cat([latents for latents, _ in rollout(caller, state, blocks, **options)], 2)


def test_a_block_has_the_geometrys_shape_and_counts_on(caller, make_text, config):
    state = init(caller, (make_text(batch=2),), config)
    latents, after = step(caller, state)
    assert latents.shape == config.geometry.latent_shape(3, batch=2) and latents.dtype == torch.float32
    assert (state.block, state.start_frame, state.cache.frames) == (0, 0, ())
    assert (after.block, after.start_frame, after.cache.frames) == (1, 3, (0, 1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_latents_in_float32(make_model, make_text, config, dtype):
    config = replace(config, dtype=dtype)
    caller = ModelCaller(make_model(dtype))
    latents, state = step(caller, init(caller, (make_text(dtype=dtype),), config))
    assert latents.dtype == torch.float32 and state.cache.store.kv.dtype == dtype
    exactly = ModelCaller(make_model())
    exact, _ = step(exactly, init(exactly, (make_text(),), replace(config, dtype=torch.float32)))
    # three calls through three layers of a few roundings each
    assert (latents - exact).abs().max() < 32 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("name, block_frames", [(name, frames) for name in PRESETS for frames in (1, 2, 3)])
def test_eviction_keeps_just_the_frames_of_the_next_block(caller, make_text, config, name, block_frames):
    sampler = "rolling" if PRESETS[name].sink_within else "block"
    config = replace(config, preset=name, block_frames=block_frames, sigmas=(1.0,), sampler=sampler)
    state = init(caller, (make_text(),), config)
    slots = len(state.cache.table)
    for _ in range(2 + 24 // block_frames):
        _, state = step(caller, state)
        sink, window = cached_frames(PRESETS[name], state.start_frame, block_frames)
        assert state.cache.frames == sink + window
        assert PRESETS[name].window_frames is None or len(state.cache.table) == slots


def test_three_blocks_are_the_beginning_of_ten(caller, make_text, config):
    whole = latents_of(caller, init(caller, (make_text(),), config), 10)
    begun = latents_of(caller, init(caller, (make_text(),), config), 3)
    assert torch.equal(whole[:, :, :9], begun)
    assert not torch.equal(whole[:, :, :3], whole[:, :, 3:6])


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_two_streams_on_one_model_do_not_meet(caller, make_text, config, made):
    other = replace(config, preset="pocket", seed=8, cfg=2.0)
    alone = [
        latents_of(caller, init(caller, (make_text(1),), config, cache=made), 5),
        latents_of(caller, init(caller, (make_text(2), make_text(3)), other, cache=made), 5),
    ]
    states = [
        init(caller, (make_text(1),), config, cache=made),
        init(caller, (make_text(2), make_text(3)), other, cache=made),
    ]
    parts = [[], []]
    for _ in range(5):
        for i in (0, 1):
            latents, states[i] = step(caller, states[i])
            parts[i].append(latents)
    assert all(torch.equal(torch.cat(part, 2), whole) for part, whole in zip(parts, alone, strict=True))


def test_streams_side_by_side_are_one_batch(make_model, make_text, config):
    caller, config = ModelCaller(make_model(torch.float64)), replace(config, dtype=torch.float64)
    texts = make_text(batch=2, dtype=torch.float64)
    both = latents_of(caller, init(caller, (texts,), config), 4)
    first = latents_of(caller, init(caller, (texts[:1],), config), 4)
    assert (both[:1] - first).abs().max() < 1e3 * torch.finfo(torch.float64).eps * first.abs().max()


def test_without_guidance_a_negative_text_changes_nothing(make_model, make_text, config):
    caller, config = ModelCaller(make_model(torch.float64)), replace(config, dtype=torch.float64)
    text, negative = make_text(1, dtype=torch.float64), make_text(2, dtype=torch.float64)
    plain = latents_of(caller, init(caller, (text,), config), 4)
    given = init(caller, (text, negative), config)
    assert given.cache.shape.rows == 1
    assert torch.equal(latents_of(caller, given, 4), plain)
    guided = replace(config, cfg=3.0)
    same = latents_of(caller, init(caller, (text, text), guided), 4)
    assert (same - plain).abs().max() < 1e4 * torch.finfo(torch.float64).eps * plain.abs().max()
    other = latents_of(caller, init(caller, (text, negative), guided), 4)
    assert not torch.allclose(other, plain, rtol=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_without_guidance_a_switch_may_bring_a_negative_text(caller, make_text, config, mode):
    made = []
    for prompt in ((make_text(2),), (make_text(2), make_text(3))):
        _, state = step(caller, init(caller, (make_text(1),), config))
        made.append(latents_of(caller, switch(caller, state, prompt, mode), 3))
    assert torch.equal(*made)


def test_another_prompt_keeps_the_past(caller, make_text, config):
    config, negative = replace(config, cfg=2.0), make_text(3)
    _, state = step(caller, init(caller, (make_text(1), negative), config))
    changed = switch(caller, state, (make_text(2), negative), "smooth")
    assert changed.cache is state.cache and changed.start_frame == 3
    back = switch(caller, changed, (make_text(1), negative), "smooth")
    first, _ = step(caller, changed)
    second, _ = step(caller, state)
    assert not torch.allclose(first, second, rtol=0.1)
    assert torch.equal(step(caller, back)[0], second)


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_whole_clip_cache_grows_and_gives_the_same_bits(caller, make_text, config, made):
    config = replace(config, preset="self_forcing")
    small, large = (init(caller, (make_text(),), config, reserve_frames=n, cache=made) for n in (0, 40))
    assert (len(small.cache.table), len(large.cache.table)) == (3, 40)
    for _ in range(6):
        _, small = step(caller, small)
    assert small.cache.frames == tuple(range(18)) and len(small.cache.table) == 24
    assert small.cache.bytes == made.cost.allocated_bytes(small.cache.shape, 24, config.dtype)
    got = latents_of(caller, small, 2)
    assert torch.equal(got, latents_of(caller, large, 8)[:, :, 18:])


def test_a_plan_of_dense_layers_gives_the_dense_bits(caller, make_text, config):
    made = LatentFormat(Basis((None,) * 3, (LayerPlan("dense"),) * 3))
    dense, coded = (init(caller, (make_text(),), config, cache=each) for each in (DENSE, made))
    assert torch.equal(latents_of(caller, coded, 5), latents_of(caller, dense, 5))


def test_more_bytes_are_nearer_to_dense(caller, make_text, config):
    """int8 by less than 1 %, and latents by less the more is kept of each token."""

    def distance(made):
        got, true = (
            latents_of(caller, init(caller, (make_text(),), config, cache=c), 4) for c in (made, DENSE)
        )
        return float((got - true).norm() / true.norm())

    assert 0 < distance(FORMATS["int8"]) < 0.01
    plans = [latent(24, 24), latent(24, 8), latent(24, 0), latent(8, 0)]
    distances = [distance(LatentFormat(basis(*[plan] * 3))) for plan in plans]
    assert distances == sorted(distances) and 0 < distances[0] < 0.02


@pytest.mark.parametrize("made", FORMATS.values(), ids=FORMATS)
def test_a_state_that_was_continued_twice_says_it_is_spent(caller, make_text, config, made):
    states = [init(caller, (make_text(),), config, cache=made)]
    for _ in range(5):
        states.append(step(caller, states[-1])[1])
    step(caller, states[5])
    for old in (4, 3):
        with pytest.raises(RuntimeError, match=r"is spent: the stream has continued .* the newest state"):
            step(caller, states[old])
    latents, fork = step(caller, states[5])
    step(caller, states[5])
    with pytest.raises(RuntimeError, match="is spent"):
        step(caller, fork)
    assert torch.equal(latents, step(caller, states[5])[0])


class Leaf:
    """A layer that can be called and has nothing to read."""

    def __init__(self, layer):
        self.run = lambda x: layer(x)

    def __call__(self, x):
        return self.run(x)


def bare(module):
    """The tree of Wan's names without a single module or weight in it."""
    attention = ("q", "k", "v", "o", "norm_q", "norm_k")

    def copy(source, names, **more):
        return SimpleNamespace(**{name: Leaf(getattr(source, name)) for name in names}, **more)

    blocks = [
        copy(
            block,
            ("norm1", "norm2", "norm3", "ffn"),
            modulation=block.modulation.data,
            self_attn=copy(block.self_attn, attention, num_heads=2),
            cross_attn=copy(block.cross_attn, attention, num_heads=2),
        )
        for block in module.blocks
    ]
    embeddings = ("patch_embedding", "text_embedding", "time_embedding", "time_projection")
    return copy(
        module,
        embeddings,
        num_heads=2,
        freq_dim=256,
        text_dim=6,
        patch_size=(1, 2, 2),
        blocks=blocks,
        head=copy(module.head, ("norm", "head"), modulation=module.head.modulation.data),
    )


def test_any_tree_with_the_names_is_a_model(model, caller, make_text, config):
    expected = latents_of(caller, init(caller, (make_text(),), config), 3)
    called = ModelCaller(bare(model))
    assert torch.equal(latents_of(called, init(called, (make_text(),), config), 3), expected)


def test_the_given_attention_and_noise_are_used(model, caller, make_text, config):
    shapes = []

    def attention(q, k, v):
        shapes.append((q.shape[1], k.shape[1]))
        return torch.zeros_like(q)

    state = init(caller, (make_text(),), config)
    step(ModelCaller(model, attention=attention), state)
    own, text = (18, 18), (18, 5)
    # the call that only remembers leaves before the last layer's attention
    assert shapes == 3 * 3 * [own, text] + 2 * [own, text]
    clip = torch.randn(config.geometry.latent_shape(6))
    first = latents_of(caller, state, 2, noise=HostNoise(1, clip))
    assert torch.equal(first, latents_of(caller, state, 2, noise=HostNoise(1, clip)))
    assert not torch.equal(first, latents_of(caller, state, 2))


def test_what_has_no_past_has_its_own_noise_levels(caller, make_text, config):
    """A stream's first block, and a scene's after a cut; not one that begins with a picture."""
    text, own = make_text(1), (1.0, 0.9, 0.6, 0.3)
    with_own, all_own = replace(config, first_sigmas=own), replace(config, sigmas=own)
    assert config.levels(0) == config.levels(3) == config.sigmas
    assert (with_own.levels(0), with_own.levels(3)) == (own, config.sigmas)
    state = init(caller, (text,), with_own)
    first, later = step(caller, state)
    expected, after = step(caller, init(caller, (text,), all_own))
    assert torch.equal(first, expected)
    assert torch.equal(step(caller, later)[0], step(caller, replace(after, config=config))[0])
    begin = InitLatents(torch.zeros_like(first), 0)
    assert torch.equal(
        step(caller, state, begin=begin)[0],
        step(caller, init(caller, (text,), config), begin=begin)[0],
    )
    cut = switch(caller, later, (make_text(2),), "cut")
    assert torch.equal(step(caller, cut)[0], step(caller, replace(cut, config=all_own))[0])


CONFIGS = [
    ({"preset": "wan"}, r"no preset is called 'wan'; there are .*pocket"),
    ({"preset": PositionPreset("thin", 3, 2, None, trained_frames=21)}, r"block of 3 .* does not fit"),
    ({"block_frames": 0}, r"block_frames must be at least 1 latent frame, got 0; published"),
    ({"block_frames": -3}, r"block_frames must be at least 1 latent frame, got -3"),
    ({"block_frames": 1.5}, r"block_frames must be at least 1 latent frame, got 1.5"),
    ({"sigmas": ()}, r"sigmas must fall from at most 1 and stay above 0, got \(\)"),
    ({"sigmas": (1.0, 1.0)}, r"sigmas must fall"),
    ({"first_sigmas": (0.5, 0.7)}, r"first_sigmas must fall from at most 1 and stay above 0, got"),
    ({"sigmas": (0.5, 0.7)}, r"sigmas must fall"),
    ({"sigmas": (1.5,)}, r"sigmas must fall from at most 1"),
    ({"sigmas": (1.0, 0.0)}, r"stay above 0, got \(1.0, 0.0\)"),
    ({"sigmas": (1.0, float("nan"))}, r"sigmas must fall"),
    ({"cfg": float("inf")}, r"cfg must be 0 or more, got inf; 1 is without guidance"),
    ({"cfg": -1.0}, r"cfg must be 0 or more, got -1.0"),
    ({"dtype": torch.int8}, r"cannot compute in int8; take one of float32, bfloat16"),
]


@pytest.mark.parametrize("change, words", CONFIGS, ids=lambda value: str(value)[:40])
def test_a_contract_that_cannot_be_is_refused(config, change, words):
    with pytest.raises(ValueError, match=words):
        replace(config, **change)


def test_the_default_contract_is_the_published_one():
    config = StreamConfig(Geometry(64, 64))
    assert config.sigmas == sigmas() and config.block_frames == 3 and not config.guided


def raising(error):
    def hook(*_):
        raise error

    return hook


def test_texts_that_do_not_fit_are_refused(caller, make_text, config):
    guided = replace(config, cfg=4.0)
    with pytest.raises(ValueError, match=r"cfg 4.0 guides away from a negative text, got none"):
        init(caller, (make_text(),), guided)
    with pytest.raises(ValueError, match=r"must be \[streams, tokens, text_dim\] of float32 .*float64"):
        init(caller, (make_text(dtype=torch.float64),), config)
    with pytest.raises(ValueError, match=r"got \[5, 6\] of float32"):
        init(caller, (make_text()[0],), config)
    with pytest.raises(ValueError, match=r"got \[1, 0, 6\]"):
        init(caller, (make_text()[:, :0],), config)
    with pytest.raises(ValueError, match=r"the negative text holds NaN or infinite numbers"):
        init(caller, (make_text(), make_text() / 0), guided)
    with pytest.raises(ValueError, match=r"the negative text is for 2 streams on cpu, the text for 1 on cpu"):
        init(caller, (make_text(), make_text(batch=2)), guided)
    state = init(caller, (make_text(),), config)
    with pytest.raises(ValueError, match=r"the text is for 2 streams on cpu, the stream has 1 on cpu"):
        switch(caller, state, (make_text(batch=2),), "smooth")
    with pytest.raises(ValueError, match=r"the text holds NaN"):
        switch(caller, state, (make_text() * float("nan"),), "smooth")


TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
OF_A_DRIVER = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: device-side assert triggered", 710),
    RuntimeError("CUDA error: an illegal memory access was encountered; size of the launch"),
    RuntimeError("HIP out of memory. Tried to allocate a tensor of dtype half"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: 9.07 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( ..., Atype, lda)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR, a wrong dtype"),
    RuntimeError("a node's own hook gave up"),
]


@pytest.mark.parametrize("error", OF_A_DRIVER, ids=lambda error: str(error)[:20])
def test_what_a_driver_says_is_not_said_of_the_layers(make_model, make_text, config, error):
    model = make_model()
    model.text_embedding.register_forward_pre_hook(raising(error))
    with pytest.raises(type(error)) as told:
        init(ModelCaller(model), (make_text(),), config)
    assert told.value is error


def test_a_model_that_does_not_fit_is_refused(make_model, make_text, config):
    with pytest.raises(ValueError, match=r"layers refused float32 on cpu .* the model's own dtype"):
        init(ModelCaller(make_model(torch.bfloat16)), (make_text(),), config)
    elsewhere = make_model()
    elsewhere.patch_embedding.register_forward_pre_hook(raising(RuntimeError(TWO_DEVICES)))
    with pytest.raises(ValueError, match=r"on cpu .* devices, cuda:0 and cpu!. Give text and StreamConfig"):
        init(ModelCaller(elsewhere), (make_text(),), config)
    with pytest.raises(ValueError, match=r"text_dim 6 and 16 latent channels"):
        init(ModelCaller(make_model()), (make_text(),), replace(config, geometry=Geometry(48, 32)))
    with pytest.raises(ValueError, match=r"makes 4 x 6 tokens .* 48 x 32 picture.* expects 2 x 3"):
        init(ModelCaller(make_model(patch=(1, 1, 1))), (make_text(),), config)
    wide = ModelCaller(make_model(out_channels=5))
    with pytest.raises(ValueError, match=r"latents \[1, 4, 3, 4, 6\] into a flow \[1, 5, 3, 4, 6\]"):
        step(wide, init(wide, (make_text(),), config))


@pytest.mark.parametrize("blocks", [0, -2])
def test_a_rollout_of_no_length_is_refused_at_once(caller, make_text, config, blocks):
    with pytest.raises(ValueError, match=rf"at least 1 block \(3 latent frames, 12 pictures\), got {blocks}"):
        rollout(caller, init(caller, (make_text(),), config), blocks)

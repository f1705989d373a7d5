"""Conversion to VideoMLA's attention: the start, the rollout, the phases, the plan, the command."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from rivulet.kernels.rope import rotate
from rivulet.model_patches.arch.mla import MlaModel
from rivulet.model_patches.arch.parts import embed_time
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.attention.forward import forward, write_past
from rivulet.model_patches.attention.rope import layout_of, rope_table
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.cache.format import call_of
from rivulet.model_patches.cache.shapes import CacheShape
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step
from rivulet.pocket.convert_mla.clip_sources import StreamedClips
from rivulet.pocket.convert_mla.distil import Conversion, Distiller, build_student
from rivulet.pocket.convert_mla.memory_estimate import Fused, Job, estimate, rollout_bytes, why_not
from rivulet.pocket.convert_mla.prompts import Prompts
from rivulet.pocket.convert_mla.rollout import PairedRollout, read_text_rows
from rivulet.pocket.convert_mla.spectral import Moments, TokenMoments, _share_rotary_key, initialize_attention
from rivulet.pocket.convert_mla.student_rollouts import BATCHES, MAX_BLOCKS, StudentRollouts
from rivulet.pocket.convert_mla.trainable_context import ContextInputs
from rivulet.tests.pocket.convert_mla.tiny_models import (
    BLOCKS,
    CONFIG,
    FRAMES,
    GEOMETRY,
    PRESET,
    SIZES,
    RandomClips,
    dense_model,
)


def streamed(model, clips, seen_of):
    """Flows of all blocks by the engine, whose dense cache takes the clips' frames."""
    shape = CacheShape(2, 2, 2, 2, 2, 16, layout_of(model))
    cache, flows = DENSE.empty(model, shape, 12, torch.float64, torch.device("cpu")), []
    for block, reference in enumerate(seen_of):
        frames = slice(block * FRAMES, (block + 1) * FRAMES)
        draft = cache.begin(call_of(PRESET, frames.start, FRAMES))
        past, text = draft.past(slice(0, 2)), read_text_rows(model, clips.texts[block])
        sigma = clips.sigmas[block][:, None].double()
        flows.append(
            forward(model, reference.noisy, embed_time(model, 1000 * sigma, torch.float64), text, past)
        )
        clean = embed_time(model, torch.zeros(2, 1, dtype=torch.float64), torch.float64)
        write_past(model, clips.context_RCTHW[:, :, frames], clean, text, past)
        cache = draft.commit(call_of(PRESET, frames.stop, FRAMES).cached)
    return flows


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dense", "student"])
def test_a_rollout_makes_the_flows_of_the_stream(kind):
    dense, clips = dense_model(), RandomClips().draw(torch.Generator().manual_seed(1))
    student = MlaModel(CONFIG, SIZES).double()
    torch.nn.init.normal_(student.head.head.weight, std=0.2)
    rollout, inputs = PairedRollout(dense, PRESET, FRAMES), ContextInputs()
    references, made = [], []
    for reference in rollout.blocks(clips, torch.Generator().manual_seed(4)):
        references.append(reference)
        made.append(
            reference.flow if kind == "dense" else rollout.student_flow(student, reference, clips, inputs)
        )
        rollout.append_block(student, reference, clips, inputs)
    for flow, wanted in zip(
        made, streamed(dense if kind == "dense" else student, clips, references), strict=True
    ):
        # rotary tables are rounded to float32 in a rollout
        bound = 64 * torch.finfo(torch.float32).eps * wanted.abs().max()
        assert (flow - wanted).abs().max() < bound


def test_dense_attentions_are_their_own_best_students():
    dense, clips = dense_model(), RandomClips().draw(torch.Generator().manual_seed(1))
    for reference in PairedRollout(dense, PRESET, FRAMES).blocks(clips, torch.Generator()):
        assert [len(each) for each in reference.outputs] == [2, 1]
        for made, wanted in PairedRollout(dense, PRESET, FRAMES).attention_outputs(dense, reference):
            assert (made - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_gradients_reach_the_projections_of_the_context():
    dense, clips = dense_model(), RandomClips().draw(torch.Generator().manual_seed(1))
    student = build_student(dense, SIZES, whole=False).double()
    for parameter in student.blocks[0].self_attn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        parameter.requires_grad_(True)
    rollout = PairedRollout(dense, PRESET, FRAMES)
    for reference in rollout.blocks(clips, torch.Generator()):
        student.zero_grad()
        made, wanted = next(iter(rollout.attention_outputs(student, reference)))
        (made - wanted).square().sum().backward()
        with_context = student.blocks[0].self_attn.kv_down.weight.grad.clone()
        if reference.block:
            assert len(reference.call.cached) == min(9, 3 * reference.block)
            inputs = reference.contexts[0].inputs
            x = inputs.tokens(reference.call.cached, 0)
            inputs.frames = {frame: [0 * t for t in each] for frame, each in inputs.frames.items()}
            student.zero_grad()
            made = next(iter(rollout.attention_outputs(student, reference)))[0]
            (made - wanted).square().sum().backward()
            without = student.blocks[0].self_attn.kv_down.weight.grad
            assert x.abs().sum() > 0 and not torch.allclose(with_context, without)
            break
    assert not any(p.requires_grad for p in dense.parameters())


def moments_of(attention, x):
    moments = Moments()
    moments.add(attention, x)
    return moments


@pytest.mark.parametrize("affine", [True, False])
def test_a_basis_of_full_width_loses_nothing(affine):
    dense = dense_model(torch.float32)
    x = torch.randn(3, 400, 32) + 0.5
    attention = dense.blocks[0].self_attn
    if not affine:
        torch.nn.init.zeros_(attention.v.bias)
    tokens = TokenMoments(moments_of(attention, x), affine)
    wanted = tokens.fit(moments_of(attention, x).mean("vx"))
    down = tokens.basis(wanted, 32)
    up = tokens.refit(wanted, down)
    rows = torch.cat([x, torch.ones_like(x[..., :1])], -1)[..., : tokens.width].flatten(0, 1).double()
    latent = rows @ down.mT
    if affine:
        latent = torch.cat([latent, torch.ones_like(latent[:, :1])], -1)
    got, exact = latent @ up.mT, attention.v(x).flatten(0, 1).double()
    # what the ridge holds back: 1e-5 of the mean variance, of directions as large as the tokens' own
    assert (got - exact).norm() < 1e-3 * exact.norm()
    assert tokens.basis(wanted, 5).shape == (5, 32 + affine)
    with pytest.raises(ValueError, match="a latent of 33 channels is wider than the 32"):
        tokens.basis(wanted, 33)


def test_one_head_shares_its_rotary_key_without_loss():
    """Scores of turned queries and keys at any distance, before and after."""
    x = torch.randn(1, 300, 32)
    attention = dense_model(torch.float32).blocks[0].self_attn
    moments = moments_of(attention, x)
    tokens = TokenMoments(moments, affine=True)
    q, k = (torch.randn(1, 8, 33, dtype=torch.float64) for _ in range(2))
    reference = torch.eye(8, dtype=torch.float64)[None] * torch.rand(8, dtype=torch.float64)
    shared, fitted = _share_rotary_key(q, k, reference, tokens)
    rows = torch.randn(5, 33, dtype=torch.float64)
    table = rope_table(range(5), 1, 1, 8, dtype=torch.float64, layout=RopeLayout.truncated(8, 8))

    def scores(query, key):
        turned = [rotate((rows @ side.mT)[None, :, None], table)[0, :, 0] for side in (query, key)]
        return turned[0] @ turned[1].mT

    torch.testing.assert_close(scores(fitted[0], shared), scores(q[0], k[0]), rtol=1e-9, atol=1e-9)


def test_the_start_is_far_better_than_chance_and_latents_have_unit_size():
    dense = dense_model(torch.float32)
    x = torch.randn(4, 500, 32) @ torch.diag(torch.logspace(0, -1.5, 32)) + 0.3
    attention = dense.blocks[0].self_attn
    student = build_student(dense, replace(SIZES, kv_latent=20), whole=False).blocks[0].self_attn
    initialize_attention(student, attention, moments_of(attention, x))
    error = (student.v(x) - attention.v(x)).square().sum() / attention.v(x).square().sum()
    assert error < 0.05
    c = student.kv_down(x)
    assert 0.8 < c.square().mean() < 1.2 and torch.equal(student.o.weight, attention.o.weight)


def distiller(folder, dense, whole=False, **changes):
    recipe = Conversion(
        moment_rollouts=2, local_steps=10, flow_steps=15, local_rate=1e-2, flow_rate=5e-3, whole=whole
    )
    student = build_student(dense, SIZES, whole)
    rollout = PairedRollout(dense, PRESET, FRAMES)
    return Distiller(rollout, student, RandomClips(torch.float32), replace(recipe, **changes), folder)


@pytest.mark.parametrize("whole", [False, True])
def test_both_phases_lower_what_they_train_and_go_on_where_they_were(tmp_path, whole):
    dense = dense_model(torch.float32)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    made = distiller(tmp_path, dense, whole)
    made.initialize()
    for block in made.student.blocks:  # tokens of noise leave the start nothing to learn
        for parameter in block.self_attn.parameters():
            parameter.data += 0.15 * torch.randn(parameter.shape)
    at_start = made.evaluate(1)
    made.train()
    at_end = made.evaluate(1)
    assert sum(at_end["flow_error"]) < 0.8 * sum(at_start["flow_error"])
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    assert (made.student.head.head.weight is dense.head.head.weight) == (not whole)
    again = distiller(tmp_path, dense, whole)
    again.train()
    assert again.evaluate(1) == at_end
    longer = distiller(tmp_path, dense, whole, flow_steps=17)
    longer.train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "flow.jsonl").read_text().splitlines()]
    assert steps == [1, 2] and torch.load(tmp_path / "flow.pt", weights_only=True)["step"] == 17


def test_minutes_end_both_phases(tmp_path):
    made = distiller(tmp_path, dense_model(torch.float32), minutes=1e-6)
    made.initialize()
    made.train()
    steps = [torch.load(tmp_path / f"{name}.pt", weights_only=True)["step"] for name in ("local", "flow")]
    assert max(steps) <= 1


def test_a_bfloat16_model_is_converted_along_what_it_streams(tmp_path):
    dense = dense_model(torch.bfloat16)
    config = StreamConfig(GEOMETRY, PRESET, FRAMES, sigmas=(1.0, 0.5), dtype=torch.bfloat16)
    source = StreamedClips(dense, Prompts(torch.randn(3, 5, 6)), config, 2, batch=2)
    clips = source.draw(torch.Generator().manual_seed(1))
    assert clips.clean_RCTHW.shape == (2, 4, 6, 4, 4) and set(torch.cat(clips.sigmas).tolist()) <= {1.0, 0.5}
    recipe = Conversion(moment_rollouts=1, local_steps=2, flow_steps=2, half=True, offload=False)
    student = build_student(dense, SIZES, whole=False)
    made = Distiller(PairedRollout(dense, PRESET, FRAMES), student, source, recipe, tmp_path)
    made.initialize()
    made.train()
    assert all(p.dtype == torch.float32 for p in student.blocks[0].self_attn.parameters())
    assert all(error < 2 for error in made.evaluate(1)["flow_error"])


def student_rollouts(model, batch=2, **changes):
    config = StreamConfig(GEOMETRY, PRESET, FRAMES, sigmas=(1.0, 0.5), cfg=2.0, **changes)
    texts, nothing = torch.randn(3, 5, 6), torch.zeros(1, 5, 6)
    prompts = Prompts(texts, nothing)
    return StudentRollouts(model, prompts, config, lambda count, _: torch.rand(count), BLOCKS, batch)


def test_student_rollouts_go_on_from_draw_to_draw():
    model, generator = dense_model(torch.float32), torch.Generator().manual_seed(1)
    source, caller = student_rollouts(model), ModelCaller(model)
    for _ in range(40):
        before = list(source.streams)
        clips = source.draw(generator)
        assert clips.clean_RCTHW.shape == (2, 4, BLOCKS * FRAMES, 4, 4)
        assert not clips.clean_RCTHW.is_inference() and not clips.texts[0].is_inference()
        now = next(s for i, s in enumerate(source.streams) if i >= len(before) or s is not before[i])
        state, made = init(caller, now[1].prompt, now[1].config), []
        for _ in range(now[1].block):
            latents, state = step(caller, state)
            made.append(latents)
        wanted = torch.cat([made[0], *made[1 - BLOCKS :]], 2)
        torch.testing.assert_close(clips.clean_RCTHW, wanted, rtol=0, atol=0)
        if len(before) == BATCHES and any(
            new[1].block < old[1].block for new, old in zip(source.streams, before, strict=True)
        ):
            break  # one was begun anew
    else:
        pytest.fail("no stream was begun anew")
    assert any(MAX_BLOCKS - BLOCKS < state.block <= MAX_BLOCKS for _, state in before)


def test_student_rollouts_follow_the_weights_and_leave_some_rows_without_a_prompt(tmp_path):
    model, generator = dense_model(torch.float32), torch.Generator().manual_seed(1)
    source = student_rollouts(model, batch=64)
    clips = source.draw(generator)
    silent = (clips.texts[0] == 0).all((1, 2)).sum()
    assert 0.05 * 64 < silent < 0.5 * 64
    old = ModelCaller(deepcopy(model))
    for block in model.blocks:
        block.cross_attn.k.bias.data += 1
    save(old, source.streams[0][1], tmp_path / "stream.safetensors")
    before, clips = [load(tmp_path / "stream.safetensors", old) for _ in range(2)], None
    while source.streams[0][1].block == before[0].block:
        clips = source.draw(generator)
    newest = clips.clean_RCTHW[:, :, FRAMES : 2 * FRAMES]
    assert torch.equal(newest, step(ModelCaller(model), before[0])[0])
    assert not torch.equal(newest, step(old, before[1])[0])


class Counted:
    """A source that tells when it was asked."""

    def __init__(self, source, asked):
        self.source, self.asked = source, asked

    def draw(self, generator):
        self.asked.append(self)
        return self.source.draw(generator)


@pytest.mark.parametrize("half", [False, True])
def test_the_second_half_of_the_second_phase_goes_along_student_rollouts(tmp_path, half):
    dense, asked = dense_model(torch.bfloat16 if half else torch.float32), []
    student = build_student(dense, SIZES, whole=True)
    dtype = torch.bfloat16 if half else torch.float32
    recipe = Conversion(
        moment_rollouts=1, local_steps=10, flow_steps=20, half=half, whole=True, student_share=1.0
    )
    rollout, clips = PairedRollout(dense, PRESET, FRAMES), Counted(RandomClips(dtype), asked)
    own = Counted(student_rollouts(student), asked)
    made = Distiller(rollout, student, clips, recipe, tmp_path, own)
    made.initialize()
    asked.clear()
    made.train()
    assert asked == [clips] * 4 + [own] * 2  # rollouts of five blocks
    assert own.source.streams[0][1].cache.bytes and all(e < 4 for e in made.evaluate(1)["flow_error"])


def test_so_many_rollouts_go_along_first_blocks_alone(tmp_path):
    dense = dense_model(torch.float32)
    recipe = Conversion(moment_rollouts=1, local_steps=5, flow_steps=40, beginnings=0.5)
    asked, rollout = [], PairedRollout(dense, PRESET, FRAMES)
    clips = Counted(RandomClips(torch.float32), asked)
    first = Counted(RandomClips(torch.float32, batch=6, blocks=1), asked)
    made = Distiller(rollout, build_student(dense, SIZES, False), clips, recipe, tmp_path, beginnings=first)
    made.train()
    assert asked[0] is clips and {*asked} == {clips, first}, "the first phase, and some of the second"
    # the first phase takes five steps of one rollout, the second forty of rollouts of five blocks and of one
    assert 5 * (asked.count(clips) - 1) + asked.count(first) >= 40


def test_the_plan_counts_student_rollouts():
    model, generator = dense_model(torch.float32), torch.Generator().manual_seed(1)
    source = student_rollouts(model)
    while len(source.streams) < BATCHES:
        source.draw(generator)
    job = Job(CONFIG, SIZES, PRESET, GEOMETRY, FRAMES, 2, 5, torch.float32, False, False, BATCHES * 2 * 2)
    held = sum(state.cache.bytes for _, state in source.streams)
    assert rollout_bytes(job, PRESET.capacity_frames) == held
    assert estimate(job).device_bytes == estimate(replace(job, rollout_rows=0)).device_bytes + held


def test_the_plan_counts_what_a_call_keeps_for_its_gradients():
    job = Job(CONFIG, SIZES, PRESET, GEOMETRY, FRAMES, 2, 5, torch.float32, False, False)
    needed = estimate(job)
    dense = dense_model(torch.float32)
    student = build_student(dense, SIZES, whole=False)
    for block in student.blocks:
        for parameter in block.self_attn.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        block.self_attn.requires_grad_(True)
    rollout, inputs = PairedRollout(dense, PRESET, FRAMES, Fused.apply), ContextInputs()
    parameters = {id(p) for p in student.parameters()}
    for reference in rollout.blocks(RandomClips(torch.float32).draw(torch.Generator()), torch.Generator()):
        kept = {}

        def keep(tensor, kept=kept):
            if id(tensor) not in parameters:
                kept[tensor.untyped_storage()._cdata] = (tensor, tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            rollout.student_flow(
                student, reference, seen_clips := RandomClips(torch.float32).draw(torch.Generator()), inputs
            )
        rollout.append_block(student, reference, seen_clips, inputs)
        if len(reference.call.cached) == 9:
            break
    counted = sum(size for _, size in kept.values())
    # tables of angles lie in a store of their own, and are counted in one of both
    assert abs(needed.saved - counted) < 0.05 * counted
    assert needed.trained == 20 * sum(p.numel() for b in student.blocks for p in b.self_attn.parameters())
    assert "kept for gradients" in str(needed)


def test_a_conversion_that_does_not_fit_is_refused_before_it_starts(monkeypatch):
    job = Job(CONFIG, SIZES, PRESET, GEOMETRY, FRAMES, 2, 5, torch.float32, False, False)
    cpu = torch.device("cpu")
    monkeypatch.setattr("rivulet.pocket.convert_mla.memory_estimate.free_ram_bytes", lambda: 10_000)
    assert "GB on cpu and 0.00 GB are free. Take a smaller --batch" in why_not(estimate(job), cpu)
    monkeypatch.setattr("rivulet.pocket.convert_mla.memory_estimate.free_ram_bytes", lambda: 1 << 40)
    assert why_not(estimate(job), cpu) is None

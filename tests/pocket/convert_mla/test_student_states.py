"""The conversion's third phase: lessons at the states to which the student's own sampler comes."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.sampler.noise import KeyedNoise
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller, texts
from rivulet.model_patches.stream.step import init, step
from rivulet.pocket.convert_mla.distil import Conversion, Distiller, build_student
from rivulet.pocket.convert_mla.memory_estimate import Job, estimate
from rivulet.pocket.convert_mla.prompts import Prompts
from rivulet.pocket.convert_mla.rollout import PairedRollout
from rivulet.pocket.convert_mla.student_states import StudentSampling, call_weights
from rivulet.pocket.convert_mla.trainable_context import ContextInputs
from rivulet.tests.pocket.convert_mla.tiny_models import (
    CONFIG,
    FRAMES,
    GEOMETRY,
    PRESET,
    SIZES,
    RandomClips,
    dense_model,
)

FEW = StreamConfig(
    GEOMETRY, PRESET, FRAMES, sigmas=(1.0, 0.5), first_sigmas=(1.0, 0.8, 0.3), cfg=2.0, fresh_noise=False
)


def student(dense, seed=5):
    made = build_student(dense, SIZES, whole=True).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in made.blocks:
        for parameter in block.self_attn.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def streams(dense, model, config=FEW, texts=None):
    texts = torch.randn(6, 5, 6, generator=torch.Generator().manual_seed(4)) if texts is None else texts
    negative = torch.zeros(1, 5, 6) if config.cfg != 1 else None
    return StudentSampling(PairedRollout(dense, PRESET, FRAMES), model, Prompts(texts, negative), config, 2)


def test_a_calls_weight_is_its_step_and_what_is_decided_by_then():
    assert call_weights((1.0, 0.5)) == pytest.approx([0.25 / 0.5 / 0.75, 0.25 / 0.75])
    share = call_weights((1.0, 0.98, 0.9, 0.4))
    assert sum(share) == pytest.approx(1) and share.index(max(share)) == 2


@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("fresh_noise", [False, True])
def test_it_comes_to_the_states_of_the_engines_own_stream(cfg, fresh_noise):
    dense = dense_model(torch.float32)
    model, config = student(dense), replace(FEW, cfg=cfg, fresh_noise=fresh_noise, seed=9)
    lessons = streams(dense, model, config)
    text_RLE = lessons._draw_rows(torch.Generator().manual_seed(1))
    caller = ModelCaller(model)
    state = init(caller, texts(text_RLE[:2], text_RLE[2:] if config.guided else None), config)
    inputs = ContextInputs(), ContextInputs()
    for block in range(6):  # the window of the preset is full from the fourth on
        wanted, state = step(caller, state)
        latents, _ = lessons.grade_block(block, text_RLE, inputs, KeyedNoise(9))
        torch.testing.assert_close(latents[:2], wanted.clone(), rtol=1e-4, atol=1e-4)
        lessons._append(latents, text_RLE, inputs, block)


def test_the_dense_model_has_nothing_to_teach_itself():
    dense = dense_model(torch.float32)
    assert streams(dense, dense).errors(5, seed=3) == [0.0] * 5
    assert min(streams(dense, student(dense)).errors(5, seed=3)) > 0.05


def test_a_stream_switches_its_prompts_and_ends_by_chance():
    dense = dense_model(torch.float32)
    lessons, generator = streams(dense, student(dense)), torch.Generator().manual_seed(1)
    drawn, texts = [], lessons._draw_rows
    lessons._draw_rows = lambda generator: drawn.append(texts(generator)) or drawn[-1]
    lengths = [len(list(lessons.graded_blocks(generator))) for _ in range(40)]
    assert 1.8 < sum(lengths) / 40 < 4.5 and 1 in lengths, "three blocks on average"
    assert 2 <= len(drawn) - 40 <= 30, "after a sixth of those that went on"


def test_the_third_phase_lowers_the_error_and_goes_on_where_it_was(tmp_path):
    dense = dense_model(torch.float32)
    before = {key: value.clone() for key, value in dense.state_dict().items()}

    def distiller(steps):
        model = student(dense)
        recipe = Conversion(local_steps=0, flow_steps=0, sampled_steps=steps, sampled_rate=5e-3, whole=True)
        rollout = PairedRollout(dense, PRESET, FRAMES)
        return Distiller(
            rollout, model, RandomClips(torch.float32), recipe, tmp_path, sampling=streams(dense, model)
        )

    made = distiller(40)
    at_start = made.evaluate(1)["sampled_error"]
    made.train()
    at_end = made.evaluate(1)["sampled_error"]
    assert sum(at_end) < 0.8 * sum(at_start)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    again = distiller(40)
    again.train()
    assert again.evaluate(1)["sampled_error"] == at_end
    none = distiller(0)  # what was learnt stays, whatever is asked for now
    none.train()
    assert none.evaluate(1)["sampled_error"] == at_end
    distiller(42).train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "sampled.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 20, 40] and torch.load(tmp_path / "sampled.pt", weights_only=True)["step"] == 42


def test_a_bfloat16_model_of_no_guidance_is_sampled(tmp_path):
    dense = dense_model(torch.bfloat16)
    config = replace(FEW, cfg=1.0, first_sigmas=())
    model = build_student(dense, SIZES, whole=False)
    lessons = streams(dense, model, config)
    recipe = Conversion(moment_rollouts=1, local_steps=2, flow_steps=1, sampled_steps=3, half=True)
    made = Distiller(
        PairedRollout(dense, PRESET, FRAMES),
        model,
        RandomClips(torch.bfloat16),
        recipe,
        tmp_path,
        sampling=lessons,
    )
    made.initialize()
    made.train()
    assert all(p.dtype == torch.float32 for p in model.blocks[0].self_attn.parameters())
    assert all(error < 2 for error in made.evaluate(1)["sampled_error"])


def test_minutes_are_shared_among_three_phases(tmp_path):
    dense = dense_model(torch.float32)
    model = student(dense)
    recipe = Conversion(local_steps=9, flow_steps=9, sampled_steps=9, minutes=1e-6)
    made = Distiller(
        PairedRollout(dense, PRESET, FRAMES),
        model,
        RandomClips(torch.float32),
        recipe,
        tmp_path,
        sampling=streams(dense, model),
    )
    made.train()
    for name in ("local", "flow", "sampled"):
        assert torch.load(tmp_path / f"{name}.pt", weights_only=True)["step"] <= 1


def test_the_plan_counts_all_batches_of_streams():
    job = Job(CONFIG, SIZES, PRESET, GEOMETRY, FRAMES, 2, 5, torch.float32, False, False)
    one, two = estimate(job), estimate(replace(job, contexts=2))
    assert two.inputs == 2 * one.inputs and two.device_bytes == one.device_bytes + one.inputs

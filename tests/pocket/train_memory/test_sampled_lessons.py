"""Lessons that keep the model what it is where its own sampler leads, with a memory and before it has one."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.model_caller import ModelCaller
from rivulet.model_patches.stream.step import init, step
from rivulet.model_patches.stream.switch import switch
from rivulet.pocket import text
from rivulet.pocket.replay import replay
from rivulet.pocket.train_memory import main, memory_rollout
from rivulet.pocket.train_memory.lessons import MEMORY, PLAIN, Lessons, Shares
from rivulet.pocket.train_memory.lora import Adapters
from rivulet.pocket.train_memory.memory_rollout import MemoryRollout
from rivulet.pocket.train_pocket.clips import PairedClips
from rivulet.pocket.train_pocket.dit import PocketTraining
from rivulet.tests.pocket.train_memory.tiny_memory import BLOCKS, FRAMES, ROWS, lesson_of, tiny

CONFIG = StreamConfig(
    Geometry(32, 32), MEMORY, FRAMES, (1.0, 0.5), cfg=2.0, first_sigmas=(1.0, 0.8, 0.4), fresh_noise=False
)


def sampled_lesson(block, positions=MEMORY):
    """Returns a lesson of two streams, with and without a prompt, graded in one block."""
    lesson = lesson_of(torch.float32, graded=((block, torch.ones(ROWS)),), positions=positions)
    clean = lesson.clean_RCTHW.repeat(2, 1, 1, 1, 1)
    texts = tuple(torch.cat([t, text.no_text().expand_as(t)]) for t in lesson.texts)
    return replace(lesson, clean_RCTHW=clean, context_RCTHW=clean, texts=texts, unchanged=PLAIN, sampled=True)


@pytest.mark.parametrize("block", [0, 2, 4, BLOCKS - 1])  # the memory is first written before block 4
def test_it_comes_to_what_the_engines_stream_makes(monkeypatch, block):
    dit, encoder = tiny()
    made, sample = [], memory_rollout.grade_sampling
    monkeypatch.setattr(
        memory_rollout, "grade_sampling", lambda *given: made.append(sample(*given)) or made[-1]
    )
    lesson = sampled_lesson(block)
    rollout = MemoryRollout(
        dit, encoder, FRAMES, unchanged=MemoryRollout(dit, encoder, FRAMES), sampler=CONFIG
    )
    generator = torch.Generator().manual_seed(2)
    rollout.grade_lesson(lesson, generator)
    seed = int(torch.randint(1 << 30, (), generator=generator.manual_seed(2)))
    words = [(t[:ROWS], t[ROWS:].contiguous()) for t in lesson.texts]
    config = replace(CONFIG, seed=seed)
    memory = LearnedMemory(encoder.requires_grad_(False), "tiny")
    caller = ModelCaller(dit)
    state = init(caller, words[0], config, memory=memory)
    for each in range(block + 1):
        state = switch(caller, state, words[each], "smooth")
        if each < block:
            state = replay(caller, state, lesson.clean_RCTHW[:ROWS, :, each * FRAMES : (each + 1) * FRAMES])
    wanted, _ = step(caller, state)
    torch.testing.assert_close(made[0], wanted.clone(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("block", [0, 2, BLOCKS - 1])
def test_no_change_is_no_error_and_a_change_is_taught(block, converted):
    dit, encoder = tiny()
    was = MemoryRollout(tiny()[0], encoder, FRAMES)
    # a converted model's stories are its teacher's; what keeps it what it was is not
    teacher = MemoryRollout(tiny(5)[0], encoder, FRAMES) if converted else None
    adapters = Adapters(dit, 2, 2.0)
    adapters.fold()
    rollout = MemoryRollout(dit, encoder, FRAMES, teacher, unchanged=was, sampler=CONFIG)
    lesson = sampled_lesson(block, PLAIN)
    ((at, error_R, _),) = rollout.grade_lesson(lesson, torch.Generator().manual_seed(2))
    assert at == block and float(error_R.detach().max()) < 1e-9
    for layer in adapters.layers:
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    adapters.fold()
    ((_, error_R, _),) = rollout.grade_lesson(lesson, torch.Generator().manual_seed(2))
    error_R.mean().backward()
    assert float(error_R.detach().mean()) > 1e-3
    assert all(matrix.grad is not None and matrix.grad.any() for matrix in adapters.parts())


def test_so_many_of_the_lessons_that_keep_the_model_are_sampled():
    clips, first = (
        PairedClips(
            torch.randn(20, 2, 16, FRAMES * n, 4, 4).half(), torch.randn(20, 2, 6, 64), torch.ones(20) > 0
        )
        for n in (BLOCKS, 1)
    )
    keeping = Shares(memory=0.0, sink_and_window=0.0, window=0.0, ordinary=0.5, beginnings=0.5, sampled=0.5)
    lessons = Lessons(None, None, clips, first, PocketTraining(size=32), keeping, 3)
    generator, seen = torch.Generator().manual_seed(3), []
    for _ in range(100):
        plan = lessons.plan(0.5, generator)
        lesson = lessons.lesson(plan, generator)
        seen.append((plan.kind, plan.sampled))
        assert lesson.sampled == plan.sampled and lesson.unchanged is PLAIN
        if plan.sampled:
            streams = {"ordinary": 3, "beginnings": 6}[plan.kind]
            assert len(lesson.clean_RCTHW) == len(lesson.texts[0]) == 2 * streams
            assert torch.equal(lesson.clean_RCTHW[:streams], lesson.clean_RCTHW[streams:])
            assert all((t[streams:] == text.no_text()).all() for t in lesson.texts)
            assert len(lesson.graded) == 1
    assert all(10 < seen.count((k, s)) < 40 for k in ("ordinary", "beginnings") for s in (False, True))


@pytest.mark.parametrize("beside", [0.0, 0.5, 1.0])
def test_so_many_of_the_ordinary_lessons_have_a_memory_beside(beside):
    clips = PairedClips(
        torch.randn(4, 2, 16, FRAMES * BLOCKS, 4, 4).half(), torch.randn(4, 2, 6, 64), torch.ones(4) > 0
    )
    keeping = Shares(memory=0.0, sink_and_window=0.0, window=0.0, ordinary=1.0, beside=beside)
    lessons, generator = (
        Lessons(None, None, clips, None, PocketTraining(size=32), keeping, 3),
        torch.Generator(),
    )
    seen = [lessons.plan(0.5, generator).positions for _ in range(60)]
    assert {*seen} <= {MEMORY, PLAIN} and abs(seen.count(MEMORY) / 60 - beside) < 0.25
    assert beside == 0.5 or len({*seen}) == 1


def test_a_share_that_cannot_be_is_refused(tmp_path, capsys):
    assert main(["--run", str(tmp_path), "--sampled", "1.5"]) == 2
    assert "--sampled 1.5: a share of the ordinary lessons" in capsys.readouterr().err

"""The memory's training runs as a stream does, learns, goes on where it was, and its file is the model."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import plan, preset
from rivulet.model_patches.checkpoints.checkpoint import open_checkpoint
from rivulet.model_patches.checkpoints.lora import Factors, Lora
from rivulet.model_patches.checkpoints.sealed import refuse_changed
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.learned import LearnedMemory
from rivulet.model_patches.memory.load import load_memory
from rivulet.model_patches.stream import model_caller
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.step import init
from rivulet.model_patches.stream.switch import switch
from rivulet.pocket import held_out, models
from rivulet.pocket.held_out import History
from rivulet.pocket.hiding import ENCODED, LIFTED, HidingClips
from rivulet.pocket.replay import replay
from rivulet.pocket.train_memory import main
from rivulet.pocket.train_memory.command import export_model
from rivulet.pocket.train_memory.export import export
from rivulet.pocket.train_memory.learners import load_attentions, shared_layers
from rivulet.pocket.train_memory.lessons import FULL, MEMORY, PLAIN, POSITIONS, LessonPlan, Lessons, Shares
from rivulet.pocket.train_memory.lora import Adapters
from rivulet.pocket.train_memory.memory_rollout import MemoryRollout, MemoryStates
from rivulet.pocket.train_memory.trainer import MemoryTraining, Trainer
from rivulet.pocket.train_pocket.clips import PairedClips
from rivulet.pocket.train_pocket.dit import PocketTraining
from rivulet.tests.pocket.train_memory.tiny_memory import (
    BLOCKS,
    FRAMES,
    GRID,
    HEADS,
    ROWS,
    TINY_CONFIG,
    lesson_of,
    noisy_calls,
    tiny,
)
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.mark.parametrize("positions", [MEMORY, POSITIONS["sink_and_window"], POSITIONS["window"], FULL])
def test_the_rollout_is_the_stream_call_by_call(monkeypatch, positions):
    # in float64 the rollout differs by its table of turns, which it rounds to float32
    dit, encoder = tiny(dtype=torch.float64)
    encoder.requires_grad_(False)
    lesson, rollout = lesson_of(torch.float64, positions=positions), MemoryRollout(dit, encoder, FRAMES)
    memory = {"memory": LearnedMemory(encoder, "tiny")} if positions.memory_frames else {}
    config = StreamConfig(Geometry(32, 32), positions, FRAMES, (1.0, 0.5), dtype=torch.float64)
    caller = model_caller.ModelCaller(dit)
    state = init(caller, (lesson.texts[0],), config, reserve_frames=FRAMES * BLOCKS, **memory)
    for block, inputs in enumerate(rollout.blocks(lesson, BLOCKS)):
        state = switch(caller, state, (lesson.texts[block],), "smooth")
        calls = noisy_calls(caller, state, monkeypatch)
        states = (inputs.states.before, inputs.states.after)
        for (noisy, wanted), sigma, shown in zip(calls, config.sigmas, states, strict=True):
            flow = rollout.flow(lesson, inputs, shown, noisy, torch.full((ROWS,), sigma))
            off = float((flow - wanted).abs().max() / wanted.abs().max())
            assert off < torch.finfo(torch.float32).eps, (block, sigma)
        state = replay(caller, state, lesson.clean_RCTHW[:, :, inputs.call.new])


def test_the_memory_is_read_and_written_in_the_published_order():
    """models.md's table for Echo-Infinity, three frames a block, with the pocket's ids."""
    dit, encoder = tiny()
    updates = []
    encoder.update, whole = lambda s, k, v, a: updates.append(k.shape[1]) or whole(s, k, v, a), encoder.update
    counts, seen = [], []
    for inputs in MemoryRollout(dit, encoder, FRAMES).blocks(lesson_of(torch.float32), BLOCKS):
        counts.append(len(updates))
        call, states = inputs.call, inputs.states
        shown = plan(MEMORY, call.new[0], FRAMES, memory_visible=True).memory
        seen.append((states.before is not None, states.after is not None, shown, call.query_ids))
    assert counts == [0, 0, 0, 0, 1, 2, 3], "one update as each block leaves, the sink never"
    assert set(updates) == {FRAMES * GRID * GRID}
    assert seen[4] == (False, True, (3, 4, 5), (12, 13, 14)), "none in the first call after the first update"
    assert seen[5] == seen[6] == (True, True, (3, 4, 5), (12, 13, 14))
    assert [each[:2] for each in seen[:4]] == [(False, False)] * 4


def test_a_graded_call_sees_the_state_of_its_noise():
    before, after = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    first = torch.tensor([True, False])
    assert MemoryStates(before, after).visible(first).flatten().tolist() == [0, 1]
    assert MemoryStates(None, after).visible(~(first | True)) is after
    assert MemoryStates(None, after).visible(first | True) is None and MemoryStates().visible(first) is None
    with pytest.raises(ValueError, match="some rows make their first call"):
        MemoryStates(None, after).visible(first)


def test_gradients_reach_the_whole_chain_of_updates_and_the_projections_of_the_past():
    dit, encoder = tiny()
    adapters = Adapters(dit, 2, 2.0)
    for layer in adapters.layers:
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    adapters.fold()
    sigma = torch.full((ROWS,), 0.9)
    lesson = lesson_of(torch.float32, graded=((BLOCKS - 1, sigma),))
    rollout = MemoryRollout(dit, encoder, FRAMES)
    ((block, error_R, _),) = rollout.grade_lesson(lesson, torch.Generator().manual_seed(2))
    error_R.sum().backward()
    assert block == BLOCKS - 1
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == [], "the initial state is reached through all three updates"
    assert all(matrix.grad is not None and matrix.grad.any() for matrix in adapters.parts()[:-2])


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    (dit, encoder), (other, _) = tiny(), tiny(seed=4)
    sigma = torch.tensor([1.0, 0.7])
    lesson = lesson_of(torch.float32, graded=((2, sigma), (BLOCKS - 1, sigma)))
    teacher = MemoryRollout(dit, encoder, FRAMES)
    for student, alike in ((dit, True), (other, False)):
        rollout = MemoryRollout(student, encoder, FRAMES, teacher)
        for _, error_R, _ in rollout.grade_lesson(lesson, torch.Generator().manual_seed(2)):
            assert bool((error_R < 1e-9).all()) == alike


def test_a_lesson_that_keeps_the_model_asks_for_its_flow_without_a_memory():
    """So a change of the model is graded there, whatever it remembers, and no change is no error."""
    (dit, encoder), (other, _) = tiny(), tiny(seed=4)
    sigma = torch.tensor([1.0, 0.7])
    graded = ((2, sigma), (BLOCKS - 1, sigma))
    was = MemoryRollout(dit, encoder, FRAMES)
    for student, positions, alike in ((dit, PLAIN, True), (other, PLAIN, False), (dit, MEMORY, False)):
        lesson = replace(lesson_of(torch.float32, graded=graded, positions=positions), unchanged=PLAIN)
        for rollout in (
            MemoryRollout(student, encoder, FRAMES, None, was),
            MemoryRollout(student, encoder, FRAMES, was, was),
        ):
            *_, (_, error_R, _) = rollout.grade_lesson(lesson, torch.Generator().manual_seed(2))
            assert bool((error_R < 1e-9).all()) == alike
    free = lesson_of(torch.float32, graded=graded, positions=PLAIN)
    *_, (_, error_R, _) = MemoryRollout(dit, encoder, FRAMES, None, was).grade_lesson(free, torch.Generator())
    assert bool((error_R > 1e-3).all()), "the clip's flow is wanted"


def test_the_ordinary_lessons_keep_the_model_and_no_others():
    shares = Shares().with_share("beginnings", 0.1)
    lessons = Lessons(None, *pools(), PocketTraining(size=32), shares, batch=2)
    generator = torch.Generator().manual_seed(5)
    places = [lessons.plan(0.9, generator) for _ in range(120)]
    graded = {(plan.kind, lessons.lesson(plan, generator).unchanged) for plan in places}
    keeping = {("ordinary", PLAIN), ("beginnings", PLAIN)}
    assert keeping < graded and {preset for _, preset in graded - keeping} == {None}
    assert Shares().with_share("ordinary", 0.5).ordinary == pytest.approx(0.65)
    with pytest.raises(ValueError, match=r"--ordinary 1\.0: a share"):
        Shares().with_share("ordinary", 1.0)


def test_lessons_that_keep_the_model_weigh_more(tmp_path):
    """The same lesson moves the model as much further as its weight says."""
    moved = []
    for unchanged in (None, PLAIN):
        made = trainer(tmp_path / str(unchanged), 1)
        made.recipe = made.recipe.with_options(1, None, 1.0, kept_weight=4.0)
        made.rollout.unchanged = None  # graded against the clip both times
        plan = LessonPlan("ordinary", PLAIN, None, (1,), False)
        made.lessons.plan = lambda done, generator, plan=plan: plan
        lesson = replace(made.lessons.lesson(plan, torch.Generator().manual_seed(1)), unchanged=unchanged)
        made.lessons.lesson = lambda plan, generator, lesson=lesson: lesson
        made.local = torch.Generator().manual_seed(6)
        made._update = lambda made=made: moved.append(
            torch.cat([p.grad.flatten() for p in made.adapters.parts() if p.grad is not None])
        )
        made.step(0.5)
    torch.testing.assert_close(moved[1], 4.0 * moved[0])
    assert moved[0].any()


def test_an_encoder_that_is_to_stay_is_not_trained(tmp_path):
    made = trainer(
        tmp_path, 1, memory=1.0, full=0.0, sink_and_window=0.0, window=0.0, ordinary=0.0, beginnings=0.0
    )
    dit, encoder = tiny()
    recipe = MemoryTraining(steps=1, more_every=10**6, half=False, model_rate=0.02, encoder=False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    adapters = Adapters(dit, 2, 2.0)
    rollout = MemoryRollout(dit, encoder, FRAMES)
    alone = Trainer(rollout, made.lessons, recipe, tmp_path / "alone", adapters)
    alone.train()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert [*alone.learner] == ["model"] and any(layer.lora_B.any() for layer in adapters.layers)


def test_a_student_learns_to_write_what_the_encoder_reads():
    (dit, encoder), (other, _) = tiny(), tiny(seed=4)
    encoder.requires_grad_(False)
    last = other.blocks[-1].self_attn.requires_grad_(True)
    teacher = MemoryRollout(dit, encoder, FRAMES)
    for rollout, learns in ((MemoryRollout(other, encoder, FRAMES, teacher), True), (teacher, False)):
        state = [inputs.states.after for inputs in rollout.blocks(lesson_of(torch.float32), BLOCKS)][-1]
        assert state.requires_grad == learns
        if learns:
            state.sum().backward()
            assert last.v.weight.grad.any() and last.k.weight.grad.any() and last.q.weight.grad is None


def test_adapters_stand_in_for_ten_layers_a_block_and_begin_with_no_change():
    dit, encoder = tiny()
    lesson = lesson_of(torch.float32, blocks=1)

    def flow():
        rollout = MemoryRollout(dit, encoder, FRAMES)
        (inputs,) = rollout.blocks(lesson, 1)
        return rollout.flow(lesson, inputs, None, lesson.clean_RCTHW[:, :, :3], torch.ones(ROWS))

    plain = flow()
    adapters = Adapters(dit, 2, 2.0)
    assert len(adapters.names) == 20 and len(adapters.peft()) == 40
    adapters.fold()
    assert torch.equal(flow(), plain)


def pools():
    """Returns four stories, four ordinary clips and first blocks, of noise."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    blocks = sum(ENCODED)
    with_options = HidingClips(
        normal(4, 16, 3 * blocks, 4, 4).half(), normal(4, 4, 6, 64), torch.zeros(4, 3, dtype=torch.int64)
    )
    dressed = PairedClips(
        normal(4, 2, 16, 15, 4, 4).half(), normal(4, 2, 6, 64), torch.ones(4, dtype=torch.bool)
    )
    first = PairedClips(dressed.latents_BVCTHW[:, :, :, :3], dressed.texts_BVLC, dressed.named_B)
    return with_options, dressed, first


def trainer(folder, steps, **shares):
    dit, encoder = tiny()
    adapters = Adapters(dit, 2, 2.0)
    rates = {"matrix_rate": 0.05, "encoder_rate": 0.02, "model_rate": 0.02}
    recipe = MemoryTraining(steps=steps, more_every=10**6, half=False, **rates)
    lessons = Lessons(None, *pools(), PocketTraining(size=32), replace(Shares(), **shares), batch=3)
    return Trainer(MemoryRollout(dit, encoder, FRAMES), lessons, recipe, folder, adapters)


def test_lessons_are_of_every_kind_and_waits_grow():
    shares = Shares().with_share("beginnings", 0.1).with_share("full", 0.4)
    lessons = Lessons(None, *pools(), PocketTraining(size=32), shares, batch=3)
    generator = torch.Generator().manual_seed(0)
    early, late = ([lessons.plan(done, generator) for _ in range(250)] for done in (0.0, 1.0))
    assert {chosen.kind for chosen in late} == {*POSITIONS, "ordinary", "beginnings"}
    assert 70 < sum(chosen.kind == "full" for chosen in late) < 130
    waits = [[p.hidden for p in places if p.kind in ("memory", "full")] for places in (early, late)]
    assert set(waits[0]) == {1, 2} and max(waits[1]) > 20
    for chosen in (*early[:20], *late[:20]):
        lesson = lessons.lesson(chosen, generator)
        assert len(lesson.texts) * FRAMES == lesson.clean_RCTHW.shape[2] > FRAMES * max(chosen.graded)
        assert len(lesson.clean_RCTHW) == (24 if chosen.kind == "beginnings" else 3)
        assert lesson.positions is POSITIONS.get(chosen.kind, chosen.positions)
        if chosen.story:
            assert chosen.graded[:2] == (chosen.lifted,) * 2 and chosen.story.parts[chosen.lifted] == LIFTED
        for block, sigma in lesson.graded:
            if block == 4:
                assert bool((sigma == 1).all()) or not bool((sigma == 1).any())


def test_a_training_lowers_its_loss(tmp_path):
    only = dict.fromkeys(("full", "sink_and_window", "window", "ordinary", "beginnings"), 0.0)
    made = trainer(tmp_path, 8, memory=1.0, most_hidden=2, **only)
    places = made.lessons.plan(0.0, torch.Generator().manual_seed(8))
    lesson = made.lessons.lesson(places, torch.Generator().manual_seed(8))

    def error():
        made.adapters.fold()
        with torch.no_grad():
            errors = made.rollout.grade_lesson(lesson, torch.Generator().manual_seed(9))
        return float(torch.stack([error_R.mean() for _, error_R, _ in errors]).mean())

    before = error()
    made.train()
    assert error() < 0.9 * before
    assert (tmp_path / "memory.jsonl").exists()


def test_a_training_goes_on_where_it_was(tmp_path):
    made = trainer(tmp_path, 3)
    for _ in range(2):
        made.step(0.5)
        made.average.update(made.learner, made.run.step)
        made.run.tick()
    made.run.save()
    again = trainer(tmp_path, 3)
    assert again.run.step == 2
    for name, value in made.learner.state_dict().items():
        assert torch.equal(value, again.learner.state_dict()[name]), name
    again.train()
    assert again.run.step == 3


def test_a_converted_model_is_trained_whole_and_its_encoder_is_left(tmp_path):
    dit, encoder = tiny()
    lessons = Lessons(None, *pools(), PocketTraining(size=32), Shares(), batch=2)
    recipe = MemoryTraining(steps=1, more_every=10**6, half=False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    own = [block.self_attn.v.weight.clone() for block in dit.blocks]
    made = Trainer(MemoryRollout(dit, encoder, FRAMES), lessons, recipe, tmp_path, None)
    made.step(0.0)
    for group in made.optimizers[0].param_groups:
        group["lr"] = 0.1
    made.step(0.0)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    changed = [block.self_attn.v.weight for block in dit.blocks]
    assert not any(torch.equal(new, old) for new, old in zip(changed, own, strict=True))


def test_an_exported_memory_is_the_trained_one(tmp_path):
    dit, encoder = tiny()
    plain, _ = tiny()
    adapters = Adapters(dit, 2, 3.0)
    for part in adapters.parts():
        torch.nn.init.normal_(part, std=0.1)
    for parameter in (*adapters.parts(), *encoder.parameters()):
        parameter.data = parameter.data.half().float()  # what the file can hold
    adapters.fold()
    path = export(encoder, adapters, tmp_path / "memory.safetensors", "pocket_memory", "once")
    assert refuse_changed("test", path, "")
    found = load_memory(path, plain, torch.float32)
    for name, value in encoder.state_dict().items():
        assert torch.equal(found.encoder.state_dict()[name], value), name
    merged = found.lora.merge(plain)
    for name, layer in zip(adapters.names, adapters.layers, strict=True):
        torch.testing.assert_close(merged.get_submodule(name).weight, layer.folded, rtol=0, atol=1e-6)
    again = Adapters.from_lora(tiny()[0], found.lora, found.lora.ranks[0])
    again.fold()
    for layer, other in zip(adapters.layers, again.layers, strict=True):
        assert again.alpha == 3.0 and torch.equal(layer.folded, other.folded)
    for part in again.parts():
        part.data += 1.0
    again.go_back(0.75)
    for part, begun in zip(again.parts(), adapters.parts(), strict=True):
        torch.testing.assert_close(part, begun + 0.25, rtol=0, atol=1e-6)
    assert found.metadata["preset"] == "pocket_memory" and found.metadata["trained"] == "once"
    assert preset(found.metadata["preset"]) is MEMORY
    shared = shared_layers(found.lora).layers
    assert len(shared) == 2 * 7 and "blocks.1.self_attn.o" in shared and "blocks.1.self_attn.q" not in shared


def test_more_rank_begins_with_no_change_and_can_be_learnt_and_gone_back_from():
    adapters = Adapters(tiny()[0], 2, 3.0)
    for part in adapters.parts():
        torch.nn.init.normal_(part, std=0.1)
    adapters.fold()
    lora = Lora(
        {
            name: Factors(layer.lora_A, layer.lora_B, 1.5)
            for name, layer in zip(adapters.names, adapters.layers, strict=True)
        }
    )
    wider = Adapters.from_lora(tiny()[0], lora, 5)
    wider.fold()
    assert wider.rank == 5 and wider.alpha == 7.5
    for layer, other in zip(wider.layers, adapters.layers, strict=True):
        torch.testing.assert_close(layer.folded, other.folded, rtol=0, atol=1e-6)
        assert layer.lora_A[2:].abs().min() > 0, "zero on both sides would have no gradient"
    begun = [part.detach().clone() for part in wider.parts()]
    for part in wider.parts():
        part.data += 1.0
    wider.go_back(1.0)
    assert all(torch.equal(part, was) for part, was in zip(wider.parts(), begun, strict=True))
    with pytest.raises(ValueError, match="--rank 1: the changes to go on from have rank 2"):
        Adapters.from_lora(tiny()[0], lora, 1)


def test_a_taught_model_names_its_memory_and_keeps_what_else_its_file_said(tmp_path):
    dit = tiny()[0]
    said = {"recipe": json.dumps({"trained": "before", "cfg": 2.0}), "config": TINY_CONFIG}
    save_file(dit.state_dict(), tmp_path / "model.safetensors", said)
    dit.blocks[0].self_attn.v.weight.mul_(2)
    path = export_model(tmp_path / "model.safetensors", dit, tmp_path / "out", "3 lessons", "abc", ())
    assert path == tmp_path / "out" / "model_memory.safetensors"
    with safe_open(path, framework="pt") as file:
        recipe, value = json.loads(file.metadata()["recipe"]), file.get_tensor("blocks.0.self_attn.v.weight")
        assert file.metadata()["config"] == TINY_CONFIG
    assert recipe == {"trained": "before; with a memory, 3 lessons", "cfg": 2.0, "taught": "abc"} | asdict(
        History(held_out.fingerprint(), "before")
    )
    assert torch.equal(value, dit.blocks[0].self_attn.v.weight.half())


def test_a_converted_model_goes_on_from_the_attentions_of_one_that_was_taught_the_same_memory():
    before = open_checkpoint(models.WEIGHTS / models.MLA_FILE).load(torch.float32).state_dict()
    begun = open_checkpoint(models.WEIGHTS / models.MLA_FILE).load(torch.float32)
    start = models.WEIGHTS / models.MLA_MEMORY_FILE
    taught = open_checkpoint(start).load(torch.float32).state_dict()
    fingerprint = load_memory(models.WEIGHTS / models.MEMORY_FILE, models.load_pocket().dit).fingerprint
    load_attentions(begun, start, fingerprint)
    for name, value in begun.state_dict().items():
        assert torch.equal(value, (taught if ".self_attn." in name else before)[name]), name
    with pytest.raises(ValueError, match="was not taught the memory of --encoder"):
        load_attentions(begun, start, "another")
    with pytest.raises(ValueError, match="was not taught the memory of --encoder"):
        load_attentions(begun, models.WEIGHTS / models.MLA_FILE, fingerprint)


def test_a_file_says_what_it_is(tmp_path):
    dit, encoder = tiny()
    path = export(encoder, Adapters(dit, 2, 2.0), tmp_path / "memory.safetensors", "pocket_memory", "never")
    with safe_open(path, framework="pt") as file:
        about, keys = json.loads(file.metadata()["memory"]), set(file.keys())
    assert about == {
        "frames": 3, "grid_height": GRID, "grid_width": GRID, "num_heads": HEADS, "alpha": 2.0, "rank": 2,
        "preset": "pocket_memory", "trained": "never", "sealed": True,
    }  # fmt: skip
    assert "generator_lora.base_model.model.blocks.0.self_attn.q.lora_A.weight" in keys
    assert {f"query_memory_encoder.{name}" for name in encoder.state_dict()} <= keys


def test_a_converted_model_without_a_memory_and_a_model_of_other_texts_are_refused(tmp_path, capsys):
    arguments = ["--run", str(tmp_path), "--dit", str(models.WEIGHTS / models.MLA_FILE)]
    assert main(arguments) == 2
    assert "learns to read a memory that is there" in capsys.readouterr().err
    other = WanModel(WanConfig(dim=24, ffn_dim=32, num_layers=1, num_heads=2, text_dim=8))
    save_file(other.state_dict(), tmp_path / "other.safetensors", {"config": TINY_CONFIG})
    assert main([*arguments[:3], str(tmp_path / "other.safetensors")]) == 2
    assert "reads texts 8 wide" in capsys.readouterr().err
    assert main([*arguments[:3], str(tmp_path / "absent.safetensors")]) == 2
    assert "absent.safetensors" in capsys.readouterr().err
    memory = str(models.WEIGHTS / models.MEMORY_FILE)
    for more, words in (
        (["--go-back", "0.5", "--dit", arguments[3], "--encoder", memory], "a converted one has none"),
        (["--go-back", "0.5"], "give its file as --encoder"),
        (["--keep-encoder"], "give its file as --encoder"),
        (["--go-back", "1", "--encoder", memory], "--go-back 1.0: a share of the way"),
        (["--ordinary", "1"], "--ordinary 1.0: a share"),
        (["--beginnings", "1"], "--beginnings 1.0: a share"),
        (["--kept-weight", "0"], "--kept-weight 0.0: more than 0"),
        (["--rate", "0"], "--rate 0.0: times the recipe's rates"),
        (["--full", "1"], "--full 1.0: a share"),
    ):
        assert main([*arguments[:2], *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "stories.pt").exists(), "nothing is drawn for a training that cannot be"

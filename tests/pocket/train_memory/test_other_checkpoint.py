"""A memory for another checkpoint: its clips, its lessons, its plan, and the command from file to file."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.attention.positions import preset
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder
from rivulet.model_patches.memory.load import load_memory
from rivulet.pocket.convert_mla.memory_estimate import Fused, bytes_for_backward
from rivulet.pocket.train_memory import main, memory_estimate
from rivulet.pocket.train_memory import other_checkpoint as checkpoint
from rivulet.pocket.train_memory.clip_lessons import ClipLessons, least_blocks, read_clips
from rivulet.pocket.train_memory.lora import Adapted, Adapters
from rivulet.pocket.train_memory.memory_estimate import Job, estimate, why_not
from rivulet.pocket.train_memory.memory_rollout import Lesson, MemoryRollout
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ECHO, FRAMES, WIDTH = preset("echo"), 3, 8
CONFIG = json.dumps({"transformer": {"num_heads": 2}})
BLOCKS = 7


def tiny(dtype=torch.float32, **sizes):
    """Returns a random model that reads texts of width 8."""
    torch.manual_seed(3)
    given = {"dim": 24, "ffn_dim": 32, "num_layers": 2, "num_heads": 2, "text_dim": WIDTH} | sizes
    dit = WanModel(WanConfig(**given))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return dit.to(dtype).requires_grad_(False)


def clips_of(count=3, blocks=BLOCKS):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(count, 16, FRAMES * blocks, 4, 6, generator=generator)
    return {"latents": latents.half(), "texts": torch.randn(count, 5, WIDTH, generator=generator)}


@pytest.fixture
def files(tmp_path):
    """Returns the paths of a checkpoint, of clips and of prompts."""
    dit, texts, clips = (tmp_path / f"{name}.safetensors" for name in ("dit", "texts", "clips"))
    save_file(tiny().state_dict(), dit, {"config": CONFIG})
    save_file(clips_of(), clips)
    save_file({"texts": torch.randn(2, 5, WIDTH)}, texts)
    return dit, clips, texts


def run(folder, dit, *more):
    return main(["--run", str(folder / "run"), "--dit", str(dit), "--rank", "2", *map(str, more)])


def test_a_memory_is_trained_along_encoded_videos_and_its_file_fits_the_model(files, tmp_path, capsys):
    dit, clips, _ = files
    assert run(tmp_path, dit, "--clips", clips, "--steps", "2", "--device", "cpu") == 0
    path = tmp_path / "run" / "export" / "memory.safetensors"
    assert str(path) in capsys.readouterr().out
    found = load_memory(path, tiny(), torch.float32)
    config = found.encoder.config
    assert (config.frames, config.grid_height, config.grid_width) == (3, 2, 3)
    assert found.metadata["preset"] == "echo" and found.lora.ranks == (2,)
    assert any(bool(each.up.any()) for each in found.lora.layers.values()), "it learned something"
    assert run(tmp_path, dit, "--clips", clips, "--steps", "3", "--device", "cpu", "--only", "train") == 0
    again = ("--clips", clips, "--encoder", path, "--device", "cpu", "--only", "export")
    assert run(tmp_path / "again", dit, *again) == 0
    same = load_file(tmp_path / "again" / "run" / "export" / "memory.safetensors")
    assert same.keys() == load_file(path).keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in load_file(path).items())
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["memory"])["trained"].startswith("2 lessons of 1")


def test_without_videos_it_goes_along_what_the_model_streams_itself(files, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "STREAMS", 2)
    dit, _, texts = files
    short = ("--blocks", "6", "--size", "48", "32", "--steps", "1", "--device", "cpu", "--only", "train")
    assert run(tmp_path, dit, "--texts", texts, *short) == 0
    drawn = load_file(tmp_path / "run" / "clips.safetensors")
    assert drawn["latents"].shape == (2, 16, 18, 4, 6) and drawn["texts"].shape == (2, 5, WIDTH)
    assert not torch.equal(drawn["latents"][0], drawn["latents"][1])
    assert not (tmp_path / "run" / "export").exists()


def test_lessons_grow_and_are_graded_where_the_memory_is_seen(files):
    clips = read_clips(files[1], tiny(), ECHO, FRAMES)
    sigmas = (1.0, 0.9, 0.8)
    lessons = ClipLessons(clips, ECHO, FRAMES, sigmas, 4, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for done, longest in ((0.0, least_blocks(ECHO, FRAMES)), (1.0, BLOCKS)):
        places = [lessons.plan(done, generator) for _ in range(60)]
        assert max(max(plan.graded) for plan in places) == longest - 1
        assert {plan.kind for plan in places} == {"memory", "sink_and_window"}
        for plan in places:
            assert sum(block >= 4 for block in plan.graded) >= 2
            assert (plan.positions.memory_frames == 3) == (plan.kind == "memory")
            lesson = lessons.lesson(plan, generator)
            assert lesson.clean_RCTHW.shape[2] == FRAMES * len(lesson.texts) == FRAMES * (plan.graded[-1] + 1)
            for block, sigma in lesson.graded:
                assert set(sigma.tolist()) <= set(torch.tensor(sigmas).tolist())
                if block == 4:
                    assert len({level == 1 for level in sigma.tolist()}) == 1


def rolled_out(dtype, recompute):
    """Returns errors and gradients of one lesson."""
    dit = tiny(dtype)
    torch.manual_seed(4)
    encoder = MemoryEncoder(EncoderConfig(24, 2, 3, 2, 3)).to(dtype)
    adapters = Adapters(dit, 2, 2.0)
    for layer in adapters.layers:
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    adapters.fold()
    tensors = clips_of(1)
    latents, text = tensors["latents"].to(dtype), tensors["texts"]
    sigma = torch.tensor([0.9])
    lesson = Lesson(latents, latents, (text,) * BLOCKS, ((5, sigma), (6, sigma)), ECHO)
    rollout = MemoryRollout(dit, encoder, FRAMES, recompute=recompute)
    errors = [error for _, error, _ in rollout.grade_lesson(lesson, torch.Generator().manual_seed(1))]
    torch.stack(errors).sum().backward()
    return errors, [p.grad for p in (*adapters.parts(), *encoder.parameters())]


def test_a_call_that_is_made_again_has_the_same_gradients():
    (errors, wanted), (same, made) = rolled_out(torch.float64, False), rolled_out(torch.float64, True)
    for one, other in zip((*errors, *wanted), (*same, *made), strict=True):
        assert one is other is None or torch.equal(one, other)


def test_changes_of_a_bfloat16_model_are_float32_and_its_weights_stay_small():
    adapters = Adapters(tiny(torch.bfloat16), 2, 2.0)
    adapters.fold()
    assert {part.dtype for part in adapters.parts()} == {torch.float32}
    assert {layer.folded.dtype for layer in adapters.layers} == {torch.bfloat16}


def job(dtype=torch.float32, **changes):
    given = Job(
        tiny().config,
        EncoderConfig(24, 2, 3, 2, 3),
        2,
        ECHO,
        Geometry(48, 32),
        FRAMES,
        1,
        5,
        dtype,
        BLOCKS,
        3,
    )
    return replace(given, **changes)


def test_the_plan_counts_what_a_call_and_an_update_keep():
    """Against a real rollout, with attention as fused kernels keep it."""
    needed, dit = estimate(job()), tiny()
    adapters = Adapters(dit, 2, 2.0)
    adapters.fold()
    encoder = MemoryEncoder(EncoderConfig(24, 2, 3, 2, 3))
    rollout = MemoryRollout(dit, encoder, FRAMES, attention=Fused.apply)
    latents, text = clips_of(1)["latents"].float(), clips_of(1)["texts"]
    lesson = Lesson(latents, latents, (text,) * BLOCKS, (), ECHO)
    inputs = list(rollout.blocks(lesson, BLOCKS))[-1]
    folded = [layer.folded for layer in dit.modules() if isinstance(layer, Adapted)]
    state, noisy = encoder.fresh(1), latents[:, :, -3:]
    real = bytes_for_backward(lambda: rollout.flow(lesson, inputs, state, noisy, torch.zeros(1)), folded)
    assert needed.call == real
    shapes = (1, FRAMES * 6, 2, 12)
    update = bytes_for_backward(
        lambda: encoder.update(state, torch.zeros(shapes), torch.zeros(shapes), Fused.apply)
    )
    assert needed.updates == (BLOCKS - 4) * update


def test_the_plan_grows_with_each_size_and_says_what_does_not_fit(monkeypatch):
    small = estimate(job())
    for changes in (
        {"batch": 2}, {"rank": 4}, {"blocks": 9}, {"graded": 5},
        {"geometry": Geometry(64, 32), "encoder": EncoderConfig(24, 2, 3, 2, 4)},
    ):  # fmt: skip
        assert estimate(job(**changes)).device_bytes > small.device_bytes, changes
    monkeypatch.setattr(memory_estimate, "free_ram_bytes", lambda: small.device_bytes - 1)
    said = why_not(small, torch.device("cpu"))
    assert "smaller --size" in said and "GB are free" in said
    monkeypatch.setattr(memory_estimate, "free_ram_bytes", lambda: small.device_bytes)
    assert why_not(small, torch.device("cpu")) is None


def test_a_plan_is_printed_and_nothing_is_drawn(files, tmp_path, capsys):
    assert run(tmp_path, files[0], "--plan", "--size", "48", "32", "--device", "cpu") == 0
    said = capsys.readouterr().err
    assert "in all on the device" in said and "it fits" in said
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latents": None}, "it must hold `latents`"),
        ({"latents": torch.zeros(3, 4, 21, 4, 6)}, r"must be \[clips, 16, frames"),
        ({"latents": torch.zeros(3, 16, 21, 4, 5)}, "height and width even"),
        ({"latents": torch.zeros(3, 16, 15, 4, 6)}, "left behind from 18 on .69 pictures"),
        ({"texts": torch.zeros(2, 5, WIDTH)}, r"must be \[3, tokens, 8\]"),
        ({"latents": torch.full((3, 16, 21, 4, 6), float("nan"))}, "`latents` holds NaN"),
    ],
)
def test_clips_that_cannot_be_learnt_from_are_refused(tmp_path, change, said):
    path = tmp_path / "clips.safetensors"
    save_file({name: tensor for name, tensor in (clips_of() | change).items() if tensor is not None}, path)
    with pytest.raises(ValueError, match=said):
        read_clips(path, tiny(), ECHO, FRAMES)


def test_arguments_that_do_not_go_together_are_refused(files, tmp_path, capsys):
    dit, clips, texts = files
    for more, said in (
        (("--clips", clips, "--texts", texts), "--clips or --texts"),
        (("--clips", clips, "--processes", 2), "by one process"),
        (("--clips", clips, "--keep-encoder"), "--keep-encoder is for the pocket model's lessons"),
        (("--clips", clips, "--ordinary", 0), "--ordinary is for the pocket model's lessons"),
        (("--clips", clips, "--sampled", 0.5), "--sampled is for the pocket model's lessons"),
        (("--clips", clips, "--size", 48, 32), "those of --clips have theirs"),
        (("--texts", texts, "--blocks", 5), "only from 6 on"),
        (("--texts", clips), "it must hold `texts` alone"),
    ):
        assert run(tmp_path, dit, *more) == 2, said
        assert said in capsys.readouterr().err
    assert main(["--run", str(tmp_path / "run"), "--clips", str(clips)]) == 2
    assert "give it as --dit" in capsys.readouterr().err

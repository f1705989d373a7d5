"""Training of the pocket models: what its tricks claim, and that it goes on where it stopped."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.sampler.schedule import sigmas
from rivulet.model_patches.vae.wan import LATENTS_STD, WanVAE
from rivulet.pocket.models import PocketRecipe, load_pocket, save_dit, save_vae
from rivulet.pocket.text import TEXT_DIM
from rivulet.pocket.train_pocket import distributed, latent_probe
from rivulet.pocket.train_pocket import dit as dit_training
from rivulet.pocket.train_pocket.checkpointing import Run, learning_rate
from rivulet.pocket.train_pocket.clips import draw_clips
from rivulet.pocket.train_pocket.command import recipe_changes
from rivulet.pocket.train_pocket.dit import Trainer, damage, draw_sigma
from rivulet.pocket.train_pocket.latent_probe import LatentProbe, train_probe
from rivulet.pocket.train_pocket.latent_scaling import (
    fold_map,
    look_scatters,
    sample_latents,
    separating_map,
    standardizing_map,
)
from rivulet.pocket.train_pocket.latent_separation import separate_latents
from rivulet.pocket.train_pocket.presets import PRESETS
from rivulet.pocket.train_pocket.single_frame import decode_first_frame, encode_frame
from rivulet.pocket.train_pocket.stages import export, load_averaged, load_or_train_vae, new_trainer
from rivulet.pocket.train_pocket.vae import restart_decoder
from rivulet.pocket.train_pocket.vae_batches import Phase, clip_batch
from rivulet.pocket.train_pocket.vae_streaming import polish_decoder, train_streaming

STEPS = (1000, 600, 300, 80)
TINY = dit_training.PocketTraining(
    size=32,
    blocks=5,
    batch=1,
    steps=4,
    long_from=0.5,
    first_clips=2,
    more_clips=2,
    more_every=2,
    most_clips=3,
)


def test_a_fresh_vae_treats_a_still_clip_as_pictures(vae):
    still = torch.rand(1, 3, 1, 32, 32).expand(-1, -1, 9, -1, -1)
    latents, _ = vae.encode(still)
    rebuilt, _ = vae.decode(latents)
    scale = rebuilt.abs().max().item()
    for moments in (latents, rebuilt):
        torch.testing.assert_close(moments, moments[:, :, :1].expand_as(moments), rtol=0, atol=1e-5 * scale)


def test_folding_a_map_changes_latents_and_no_picture(vae):
    pixels = clip_batch(2, 9, 32, torch.Generator().manual_seed(0)).pixels
    before, _ = vae.decode(vae.encode(pixels)[0])
    raw, _ = vae.encode(pixels)
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(16, generator=generator)
    matrix = torch.eye(16) + 0.2 * torch.randn(16, 16, generator=generator)
    fold_map(vae, offset, matrix)
    folded, _ = vae.encode(pixels)
    wanted = torch.einsum("dc,bcthw->bdthw", matrix, raw - offset.view(1, -1, 1, 1, 1))
    torch.testing.assert_close(folded, wanted, rtol=1e-4, atol=1e-4 * raw.abs().max().item())
    torch.testing.assert_close(vae.decode(folded)[0], before, rtol=0, atol=1e-4 * before.abs().max().item())


def test_the_standardizing_map_gives_each_channel_mean_0_and_spread_1(vae):
    latents = sample_latents(vae, 32, clips=4, frames=9)
    offset, matrix = standardizing_map(latents)
    folded = matrix.double() @ (latents - offset[:, None]).double()
    torch.testing.assert_close(folded.std(1), torch.ones(16).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(folded.mean(1), torch.zeros(16).double(), rtol=0, atol=1e-4)


def test_the_separating_map_gives_variance_to_what_distinguishes_looks():
    generator = torch.Generator().manual_seed(0)
    spreads = torch.tensor([2.0] * 3 + [1.0] * 8 + [0.3] * 5)
    turn, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator))
    latents = turn @ (spreads[:, None] * torch.randn(16, 4000, generator=generator))
    colour, shape = turn[:, 12].double(), turn[:, 4].double()  # the colour says itself in a faint direction
    scatters = torch.stack([0.09 * torch.outer(colour, colour), torch.outer(shape, shape)])
    offset, matrix = separating_map(latents, scatters)
    folded = matrix @ (latents - offset[:, None])
    torch.testing.assert_close(folded.std(1), torch.ones(16), rtol=1e-3, atol=0)
    metric = (matrix.T @ matrix).double()
    told = (scatters * metric).sum((1, 2))
    assert told[0] > 30 * 0.09 and told[1] > 3, told


def test_look_scatters_see_colours_and_shapes_alone(vae):
    scatters = look_scatters(vae, 32, scenes=3, frames=5)
    assert scatters.shape == (15 + 3, 16, 16)
    assert (torch.linalg.eigvalsh(scatters).amin(1) > -1e-6).all() and (scatters.diagonal(0, 1, 2) >= 0).all()


def test_a_run_goes_on_where_it_stopped(tmp_path):
    layer = torch.nn.Linear(2, 2)
    run = Run(tmp_path, "part", {"layer": layer})
    for _ in range(3):
        run.tick(every=1, loss=0.5)
    run.save()
    other = torch.nn.Linear(2, 2)
    again = Run(tmp_path, "part", {"layer": other})
    assert again.step == 3 and torch.equal(other.weight, layer.weight)
    assert len((tmp_path / "part.jsonl").read_text().splitlines()) == 3


def test_learning_rate_rises_then_falls():
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    peak = rates.index(max(rates))
    assert 2 <= peak <= 4 and rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True) and rates[-1] == pytest.approx(0.02)


def test_damage_leaves_some_clips_whole_and_hurts_the_others():
    clean = torch.randn(64, 4, 6, 2, 2)
    moved = (damage(clean, 3, torch.Generator().manual_seed(0)) - clean).flatten(1).abs().mean(1)
    assert 0.1 < (moved == 0).float().mean() < 0.5 and moved.max() > 0.1


def test_blocks_often_start_from_pure_noise():
    sigma = draw_sigma((4000,), TINY, torch.Generator().manual_seed(0))
    assert 0.13 < (sigma == 1).float().mean() < 0.21 and sigma.min() >= 0.02


# under autocast a norm's weight stays float32, which is slower and not wrong
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("predicted_context", [False, True], ids=["damaged", "predicted"])
def test_training_teaches_and_resumes(tmp_path, vae, predicted_context, monkeypatch):
    preset = replace(PRESETS["nano"], dit=WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM), recipe=TINY)
    torch.manual_seed(0)
    recipe = replace(TINY, predicted_context_from=0.0 if predicted_context else 1.0)
    dit = WanModel(preset.dit)
    untrained = {name: value.clone() for name, value in dit.state_dict().items()}
    Trainer(dit, vae, replace(recipe, steps=2), tmp_path).train()
    trainer = Trainer(WanModel(preset.dit), vae, recipe, tmp_path)
    assert trainer.run.step == 2
    for name, value in trainer.dit.state_dict().items():
        assert torch.equal(value, dit.state_dict()[name]), f"{name} was not read back"
    trainer.train()
    assert trainer.run.step == recipe.steps and len(trainer.pool("long")) == recipe.most_clips
    still = [n for n, value in trainer.dit.state_dict().items() if torch.equal(value, untrained[n])]
    assert not still, f"training never moved {still}"


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_beginnings_are_trained_beside_the_rest(tmp_path, vae):
    recipe = replace(TINY, steps=12, more_every=1, beginnings=0.5, predicted_context_from=0.0)
    dit = WanModel(WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM))
    trainer = Trainer(dit, vae, recipe, tmp_path)
    kinds = {trainer._kind(0.0) for _ in range(40)} | {trainer._kind(0.6) for _ in range(40)}
    assert kinds == {"first", "short", "long"}
    trainer.train()
    first = trainer.pool("first")
    assert first.latents_BVCTHW.shape[3] == recipe.block_frames and len(first) == recipe.most_clips
    shown, past = first.draw_looks(1, torch.Generator().manual_seed(0))
    assert shown.shape == past.shape == (len(first), 1)


def test_what_is_asked_of_a_tuning_reaches_its_recipe():
    asked = {"beginnings": 0.5, "rate": 0.5, "shift": 3.0, "steps": 7, "processes": 2, "sampled": 0.25}
    asked |= {"paced": 0.5, "speeds": [0.01, 0.02], "keep_attention": True}
    changes = recipe_changes(argparse.Namespace(**asked), TINY, STEPS)
    assert changes["matrix_rate"] == TINY.matrix_rate / 2 and changes["predicted_context_from"] == 0.0
    assert replace(TINY, **changes).shift == 3.0
    assert changes["sampled"] == 0.25 and changes["levels"] == sigmas(STEPS, TINY.shift)
    assert changes["paced"] == 0.5 and changes["speeds"] == (0.01, 0.02) and changes["keep_attention"]
    plain = dict.fromkeys(asked) | {"processes": 1, "keep_attention": False}
    assert replace(TINY, **recipe_changes(argparse.Namespace(**plain), TINY, STEPS)) == TINY
    wrongs = {"beginnings": 1.0, "rate": 0.0, "shift": -1.0, "sampled": 1.5, "paced": 1.0}
    for name, wrong in wrongs.items():
        with pytest.raises(SystemExit, match=f"--{name} {wrong}"):
            recipe_changes(argparse.Namespace(**{**asked, name: wrong}), TINY, STEPS)
    for wrong in ([0.02, 0.01], [0.0, 0.01], [0.01, 1.0]):
        with pytest.raises(SystemExit, match=f"--speeds {wrong[0]} {wrong[1]}: sides of the"):
            recipe_changes(argparse.Namespace(**{**asked, "speeds": wrong}), TINY, STEPS)


def test_a_tuning_graded_where_its_sampler_leads_changes_the_model(tmp_path, vae):
    levels = sigmas(STEPS, TINY.shift)
    recipe = replace(TINY, steps=2, long_from=1.0, sampled=1.0, levels=levels, predicted_context_from=0.0)
    dit = WanModel(WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM))
    torch.nn.init.normal_(dit.head.head.weight, std=0.2)  # a fresh one's sampler goes nowhere
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    Trainer(dit, vae, recipe, tmp_path).train()
    assert all(value.isfinite().all() for value in dit.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in dit.state_dict().items())


def test_exported_files_load_as_they_were_saved(tmp_path, vae):
    dit = WanModel(WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM))
    recipe = PocketRecipe(32, 16, "pocket", 3, (1000.0, 500.0), 3.0, 1.0, "a test")
    save_dit(dit, recipe, tmp_path)
    save_vae(vae, tmp_path)
    pocket = load_pocket(tmp_path)
    assert pocket.recipe == recipe and recipe.sigmas == (1.0, 0.75) and pocket.dit.num_heads == 2
    for before, after in ((dit, pocket.dit), (vae, pocket.vae)):
        for name, value in before.state_dict().items():
            assert torch.equal(value.half().float(), after.state_dict()[name])


def test_without_guidance_a_stream_begins_with_its_prompt_alone():
    pocket = load_pocket()
    for cfg in (1.0, 2.0):
        state = pocket.begin(pocket.encode("a red circle"), replace(pocket.config(), cfg=cfg))
        assert len(state.prompt) == state.cache.shape.rows == cfg


def test_a_file_without_recipe_is_refused(tmp_path):
    from safetensors.torch import save_file

    dit = WanModel(WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM))
    save_file(
        dit.state_dict(), tmp_path / "pocket_dit.safetensors", {"config": '{"transformer": {"num_heads": 2}}'}
    )
    with pytest.raises(ValueError, match="no `recipe` in its metadata"):
        load_pocket(tmp_path)


def test_average_is_what_is_exported(tmp_path, vae):
    preset = replace(PRESETS["nano"], dit=WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM), recipe=TINY)
    trainer = Trainer(WanModel(preset.dit), vae, replace(TINY, steps=1), tmp_path)
    trainer.train()
    dit, steps, clips = load_averaged(preset, tmp_path)
    assert (steps, clips) == (1, TINY.first_clips)
    for name, value in trainer.average.weights().items():
        assert torch.equal(dit.state_dict()[name], value)


def test_training_can_start_from_exported_files(tmp_path, vae):
    preset = replace(PRESETS["nano"], dit=WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM), recipe=TINY)
    dit = WanModel(preset.dit)
    save_dit(dit, PocketRecipe(32, 16, "pocket", 3, (1000.0, 500.0), 3.0, 1.0, "a test"), tmp_path)
    save_vae(vae, tmp_path)
    device = torch.device("cpu")
    taken = load_or_train_vae(preset, tmp_path / "run", device, tmp_path, train=False)
    trainer = new_trainer(preset, taken, tmp_path / "run", device, tmp_path, steps=1)
    for name, value in trainer.dit.state_dict().items():
        assert torch.equal(value, dit.state_dict()[name].half().float())
    trainer.train()
    assert not torch.equal(trainer.dit.head.head.weight, dit.head.head.weight.half().float())
    export(preset, "tiny", taken, tmp_path / "run", tmp_path / "out", tmp_path)
    assert load_pocket(tmp_path / "out").recipe.trained.startswith("a test, then 1 steps, ")


def moved(before: dict[str, torch.Tensor], vae: WanVAE) -> set[str]:
    return {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}


def whole(vae: WanVAE) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in vae.state_dict().items()}


def test_polishing_moves_the_decoder_alone(tmp_path, vae):
    before = whole(vae)
    polish_decoder(vae, tmp_path, Phase(17, 1, 3, 1e-3), 32, torch.device("cpu"))
    names = moved(before, vae)
    assert names and all(name.startswith("decoder.") for name in names)
    rows = [json.loads(line) for line in (tmp_path / "vae_polish.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


def test_a_new_decoder_leaves_the_encoder_and_goes_on_where_it_stopped(tmp_path, vae):
    before = whole(vae)
    restart_decoder(vae, tmp_path, Phase(1, 2, 3, 1e-3), 32, torch.device("cpu"))
    names = moved(before, vae)
    assert names and all(name.startswith("decoder.") for name in names)
    again = WanVAE(4)
    again.load_state_dict(before)
    restart_decoder(again, tmp_path, Phase(1, 2, 3, 1e-3), 32, torch.device("cpu"))
    assert not moved(whole(vae), again)


def test_training_piece_by_piece_moves_encoder_and_decoder(tmp_path, vae):
    vae.requires_grad_(True)
    before, probe = whole(vae), LatentProbe(16)
    train_streaming(vae, probe, tmp_path, Phase(9, 1, 4, 1e-3), 32, torch.device("cpu"))
    parts = {name.split(".")[0] for name in moved(before, vae)}
    assert parts == {"encoder", "decoder", "conv1", "conv2"}


def bfloat16_bound(vae) -> torch.Tensor:
    """Returns by how much a mean or a spread of `sample_latents` may differ before and after a map is folded.

    The convolution at the latents rounds its weights and its result in bfloat16, both times.
    """
    sizes = []
    hook = vae.conv1.register_forward_hook(
        lambda layer, inputs, out: sizes.append(inputs[0].float().abs().mean((0, 2, 3, 4)))
    )
    sample_latents(vae, 32)
    hook.remove()
    weight, bias = vae.conv1.weight[:16, :, 0, 0, 0].abs(), vae.conv1.bias[:16].abs()
    largest = weight @ torch.stack(sizes).mean(0) + bias
    return 4 * torch.finfo(torch.bfloat16).eps / 2 * largest / torch.tensor(LATENTS_STD)


def test_separating_latents_moves_the_encoder_alone_and_keeps_them_standardized(tmp_path, vae):
    torch.manual_seed(0)
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    before = whole(vae)
    separate_latents(vae, tmp_path, Phase(9, 2, 20, 1e-3), 32, torch.device("cpu"))
    assert {name.split(".")[0] for name in moved(before, vae)} == {"encoder", "conv1", "conv2"}
    rows = [json.loads(line) for line in (tmp_path / "vae_apart.jsonl").read_text().splitlines()]
    assert rows[0]["anchor"] < 1e-6, "it did not begin at the old latents"
    assert rows[-1]["step"] == 20 and rows[-1]["anchor"] > 0
    latents, bound = sample_latents(vae, 32), bfloat16_bound(vae)
    assert (latents.mean(1).abs() <= bound).all() and ((latents.std(1) - 1).abs() <= bound).all()


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_a_frame_is_encoded_as_a_stream_in_which_nothing_moves(vae, first):
    torch.manual_seed(0)
    for parameter in vae.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    picture = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    # each layer sees 2 frames back, deeper ones of 2 or 4 pixel frames: about 110 until all stand still
    stream, _ = vae.encode(picture.expand(-1, -1, 1 if first else 129, -1, -1))
    latents = encode_frame(vae, picture[:, :, 0], first)
    torch.testing.assert_close(latents, stream[:, :, -1:], rtol=0, atol=2e-5 * stream.abs().max().item())
    if first:
        pixels, _ = vae.decode(latents)
        torch.testing.assert_close(
            decode_first_frame(vae, latents), pixels, rtol=0, atol=2e-5 * pixels.abs().max().item()
        )


def test_a_probe_learns_to_read_latents_that_stay_standardized(tmp_path, vae):
    torch.manual_seed(0)
    vae.requires_grad_(True)
    probe = LatentProbe(16)
    train_probe(vae, probe, tmp_path, Phase(1, 16, 40, 3e-3), 32, torch.device("cpu"))
    rows = [json.loads(line) for line in (tmp_path / "vae_read.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40 and rows[-1]["kinds"] < 0.7 * rows[0]["kinds"]
    batch = clip_batch(8, 9, 32, torch.Generator().manual_seed(1))
    latents, _ = vae.encode(batch.pixels)
    assert 0.6 < latents[:, :, 1:].std() < 1.6
    kinds, _ = probe.losses(latents, batch.contents, torch.Generator().manual_seed(0))
    assert kinds < 0.7 * rows[0]["kinds"], "the probe was not mapped with the latents"


def test_a_probe_that_is_stopped_while_latents_are_measured_standardizes_them_next_time(
    tmp_path, vae, monkeypatch
):
    tick = Run.tick

    def saving(run, *given, **figures):
        tick(run, *given, **figures)
        run.save()

    def stop(*_):
        raise KeyboardInterrupt

    def measured(of, size):
        return sample_latents(of, size, clips=4, frames=9)

    monkeypatch.setattr(Run, "tick", saving)
    monkeypatch.setattr(latent_probe, "sample_latents", stop)
    phase, device = Phase(1, 4, 2, 1e-3), torch.device("cpu")
    with pytest.raises(KeyboardInterrupt):
        train_probe(vae.requires_grad_(True), LatentProbe(16), tmp_path, phase, 32, device)
    monkeypatch.setattr(latent_probe, "sample_latents", measured)
    again = WanVAE(4).requires_grad_(True)
    for _ in range(2):  # the second time there is nothing left to do
        train_probe(again, LatentProbe(16), tmp_path, phase, 32, device)
        spread = measured(again, 32).std(1)
        assert ((spread - 1).abs() < 0.2).all(), "before it is 0.4; measured in bfloat16"


def test_clips_show_what_their_text_says_in_either_look(vae):
    generator = torch.Generator().manual_seed(3)
    clips = draw_clips(vae, 40, 2, 3, 32, generator)
    assert clips.latents_BVCTHW.shape == (40, 2, 16, 6, 4, 4)
    shown, past = clips.draw_looks(6, generator)
    hidden = ~clips.named_B
    assert hidden.any() and torch.equal(shown[hidden], past[hidden])
    assert (shown[hidden] == shown[hidden][:, :1]).all(), "the look of a thing without a name changed"
    switched, other = (shown != shown[:, :1]).any(1), (shown != past).all(1)
    assert switched.any() and other.any() and not (switched & other).any()
    chosen = clips.with_looks(shown[:, :2], 3)
    for b in range(40):
        for n in range(2):
            frames = slice(3 * n, 3 * n + 3)
            wanted = clips.latents_BVCTHW[b, shown[b, n], :, frames].float()
            assert torch.equal(chosen[b, :, frames], wanted)


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import conftest, torch
from pathlib import Path
from rivulet.pocket.train_pocket import distributed
layer = torch.nn.Linear(1, 1)
with distributed.process_group():
    number = distributed.rank()
    layer.weight.grad, layer.bias.grad = torch.tensor([[1.0 + 2 * number]]), torch.tensor([10.0 * number])
    distributed.average_gradients(layer)
Path({folder!r}, str(number)).write_text(f"{{layer.weight.grad.item()}} {{layer.bias.grad.item()}}")
"""


def test_processes_share_the_mean_gradient(tmp_path):
    code = WORKER.format(tests=str(Path(__file__).parents[2]), folder=str(tmp_path))
    assert distributed.run_workers(2, [sys.executable, "-B", "-c", code]) == 0
    assert [(tmp_path / name).read_text() for name in "01"] == ["2.0 5.0", "2.0 5.0"]


def test_when_one_process_fails_the_others_are_stopped():
    code = (
        "import os, time; time.sleep(600 * (1 - int(os.environ['RIVULET_TRAIN_RANK']))); raise SystemExit(3)"
    )
    assert distributed.run_workers(2, [sys.executable, "-c", code]) == 3

"""The training's command, whole and on tiny models: what it records, goes on with and refuses."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig, WanModel
from rivulet.model_patches.vae.wan import WanVAE
from rivulet.pocket import held_out, models
from rivulet.pocket.choices import with_look
from rivulet.pocket.text import TEXT_DIM
from rivulet.pocket.train_pocket import latent_scaling, latent_separation, main, vae
from rivulet.pocket.train_pocket.checkpointing import Run
from rivulet.pocket.train_pocket.dit import PocketTraining
from rivulet.pocket.train_pocket.presets import PRESETS
from rivulet.pocket.train_pocket.record import RECORD_FILE
from rivulet.pocket.train_pocket.vae_batches import Phase

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
TINY = replace(
    PRESETS["nano"],
    size=32,
    vae_dim=4,
    vae_phases=(Phase(1, 2, 1, 1e-3),),
    vae_probing=Phase(1, 2, 1, 1e-3),
    vae_streaming=Phase(5, 1, 1, 1e-3),
    latent_separation=Phase(5, 1, 1, 1e-3),
    decoder_pictures=Phase(1, 2, 1, 1e-3),
    decoder_streaming=Phase(5, 1, 1, 1e-3),
    decoder_light=Phase(5, 1, 2, 1e-3),
    dit=WanConfig(24, 32, 1, num_heads=2, text_dim=TEXT_DIM),
    recipe=PocketTraining(
        size=32, blocks=5, batch=1, steps=3, long_from=0.9, first_clips=2, more_clips=2, more_every=2
    ),
)
FINE = tuple(f"upsamples.{layer}." for layer in range(7, 15))
RECIPE = models.PocketRecipe(32, 16, "pocket", 3, (1000.0, 500.0), 3.0, 2.0, "tiny: before")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A preset of seconds, and few scenes where latents are measured."""
    monkeypatch.setitem(PRESETS, "nano", TINY)
    few = lambda of, size: sample(of, size, clips=4, frames=5)  # noqa: E731
    sample, scatters = latent_scaling.sample_latents, latent_scaling.look_scatters
    for module in (
        vae,
        latent_separation,
        __import__("rivulet.pocket.train_pocket.latent_probe", fromlist="x"),
    ):
        monkeypatch.setattr(module, "sample_latents", few)
    monkeypatch.setattr(vae, "look_scatters", lambda of, size: scatters(of, size, scenes=12, frames=5))


def exported(folder, recipe=RECIPE, dit=TINY.dit, width=4):
    """Returns a folder of files as a training exports them."""
    torch.manual_seed(0)
    models.save_dit(WanModel(dit), recipe, folder)
    models.save_vae(WanVAE(width), folder)
    return folder


def test_a_training_records_what_it_never_drew(tmp_path, nothing_unseen):
    run = tmp_path / "run"
    assert main(["--run", str(run)]) == 0
    assert sum(nothing_unseen) > 60, "hundreds of scenes are drawn, and looked at"
    pocket = models.load_pocket(run / "export")
    assert str(pocket.recipe.history) == "never trained on"
    assert pocket.recipe.latents == models.fingerprint_of_latents(pocket.vae)
    record = json.loads((run / RECORD_FILE).read_text())
    assert record["held_out"] == held_out.fingerprint() and record["preset"] == "nano"
    assert (
        record["dit"]["lengths"] == [[0, {"steps": 3}]] and record["dit"]["latents"] == pocket.recipe.latents
    )
    # what is trained on from these has not seen them either
    assert main(["--run", str(tmp_path / "on"), "--start", str(run / "export"), "--only", "dit"]) == 0
    assert main(["--run", str(tmp_path / "on"), "--start", str(run / "export"), "--only", "export"]) == 0
    assert str(models.load_pocket(tmp_path / "on/export").recipe.history) == "never trained on"


@pytest.mark.parametrize(
    ("recipe", "history"),
    [
        (RECIPE, "held out since: tiny: before"),
        (
            replace(RECIPE, held_out=held_out.fingerprint(), held_out_after="the first"),
            "held out since: the first",
        ),
    ],
    ids=["from all combinations", "from some"],
)
def test_a_training_tells_what_was_trained_before_it(tmp_path, recipe, history):
    start, run = exported(tmp_path / "start", recipe), tmp_path / "run"
    for part in ("dit", "export"):
        assert main(["--run", str(run), "--start", str(start), "--only", part]) == 0
    pocket = models.load_pocket(run / "export")
    assert str(pocket.recipe.history) == history and pocket.recipe.trained.startswith("tiny: before, then 3")
    assert main(["--run", str(run), "--only", "export"]) == 2, "as if it had begun from nothing"


OTHERS = {
    "size": ({"recipe": replace(RECIPE, size=64)}, "pictures of 64 pixels, and pictures of 32 pixels are"),
    "block": ({"recipe": replace(RECIPE, block_frames=1)}, "blocks of 1 latent frames, and blocks of 3"),
    "positions": ({"recipe": replace(RECIPE, preset="echo")}, "positions echo, and positions pocket"),
    "transformer": ({"dit": replace(TINY.dit, num_layers=2)}, "a transformer of 2 layers, 24 and 32 chan"),
    "width": ({"width": 8}, "a VAE of width 8, and --preset nano trains 4"),
    "VAE": ({"recipe": replace(RECIPE, latents="0123")}, "makes latents of VAE 0123, and the VAE beside it"),
    "list": ({"recipe": replace(RECIPE, held_out="0123")}, "trained without the combinations of list 0123"),
}


@pytest.mark.parametrize(("changes", "said"), OTHERS.values(), ids=OTHERS)
def test_files_of_another_recipe_are_refused_before_anything_is_trained(tmp_path, capsys, changes, said):
    start, run = exported(tmp_path / "start", **changes), tmp_path / "run"
    for only in (["--only", "dit"], ["--only", "apart"], []):
        assert main(["--run", str(run), "--start", str(start), *only]) == 2
        assert said in capsys.readouterr().err
    assert not run.exists()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Returns the arguments of a training of the transformer that was interrupted after its first step."""
    start = exported(tmp_path / "start")
    arguments = ["--run", str(tmp_path / "run"), "--start", str(start), "--only", "dit"]
    tick = Run.tick

    def interrupted(run, *given, **figures):
        tick(run, *given, **figures)
        run.save()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "tick", interrupted)
        main(arguments)
    assert torch.load(tmp_path / "run/dit.pt", weights_only=True)["step"] == 1
    return arguments


def test_an_interrupted_training_goes_on(begun, tmp_path, capsys):
    assert main(begun) == 0
    log = [json.loads(line)["step"] for line in (tmp_path / "run/dit.jsonl").read_text().splitlines()]
    assert log == [1, 2] and torch.load(tmp_path / "run/dit.pt", weights_only=True)["step"] == 3
    assert "from step" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "0.5"], "matrix_rate 0.015, and now it is 0.0075"),
        (["--shift", "3"], "shift 8.0, and now it is 3.0"),
        (["--beginnings", "0.5"], "beginnings 0.0, and now it is 0.5"),
    ],
    ids=["rate", "shift", "beginnings"],
)
def test_a_training_does_not_go_on_with_other_options(begun, tmp_path, capsys, options, said):
    before = (tmp_path / "run/dit.pt").read_bytes()
    assert main([*begun, *options]) == 2
    refusal = capsys.readouterr().err
    assert "run, dit: begun with " in refusal and said in refusal
    assert (tmp_path / "run/dit.pt").read_bytes() == before


def test_another_length_is_recorded(begun, tmp_path, capsys):
    assert main([*begun, "--steps", "4"]) == 0
    assert "dit: from step 1 on {'steps': 4}, before {'steps': 3}" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / RECORD_FILE).read_text())
    assert record["dit"]["lengths"] == [[0, {"steps": 3}], [1, {"steps": 4}]]


def test_a_training_does_not_go_on_from_other_files(begun, tmp_path, capsys):
    other = tmp_path / "other"
    models.save_dit(WanModel(TINY.dit), RECIPE, other)
    models.save_vae(models.load_vae(tmp_path / "start" / models.VAE_FILE), other)
    assert main([*begun, "--start", str(other)]) == 2
    assert "run, dit: begun with start " in capsys.readouterr().err
    assert main(["--run", str(tmp_path / "run"), "--start", str(other), "--only", "export"]) == 2
    assert not (tmp_path / "run/export").exists()


def test_a_training_does_not_go_on_over_another_vae(begun, tmp_path, capsys):
    """Tuned in between, the encoder gives latents that neither the pools nor the transformer know."""
    assert main([*begun[:-1], "apart"]) == 0
    assert main(begun) == 2
    assert "run, dit: begun with latents " in capsys.readouterr().err


def test_a_training_of_another_preset_is_not_gone_on_with(begun, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", TINY)
    assert main([*begun, "--preset", "small"]) == 2
    assert 'begun with preset "nano", and now it is "small"' in capsys.readouterr().err


def test_a_damaged_record_is_refused(begun, tmp_path, capsys):
    (tmp_path / "run" / RECORD_FILE).write_text("{")
    assert main(begun) == 2
    assert "record.json cannot be read" in capsys.readouterr().err


def test_the_lit_decoder_is_trained_from_exported_files_and_goes_on(tmp_path, capsys, nothing_unseen):
    start, run, out = exported(tmp_path / "start"), tmp_path / "run", tmp_path / "start"
    begun = ["--run", str(run), "--start", str(start), "--only", "lit"]
    assert main([*begun, "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "pocket_lit.safetensors")
    assert sum(nothing_unseen) > 0
    pocket = models.load_pocket(start)
    lit = with_look(pocket, "lit", start)
    assert (
        lit.vae.upscale == 2 and lit.vae.encoder.state_dict().keys() == pocket.vae.encoder.state_dict().keys()
    )
    trained = torch.load(run / "vae_light.pt", weights_only=True)["decoder"]
    before = pocket.vae.decoder.state_dict()
    moved = {
        name for name, value in before.items() if name[:6] != "head.2" and not value.equal(trained[name])
    }
    assert moved and all(name.startswith(("head.", *FINE)) for name in moved), "the others stay as they are"
    assert main([*begun, "--steps", "3"]) == 0
    assert "vae_light: from step 2 on {'steps': 3}, before {'steps': 2}" in capsys.readouterr().err
    assert torch.load(run / "vae_light.pt", weights_only=True)["step"] == 3


def test_the_lit_decoder_does_not_go_on_from_another_vae(tmp_path, capsys):
    begun = ["--run", str(tmp_path / "run"), "--only", "lit"]
    assert main([*begun, "--start", str(exported(tmp_path / "start"))]) == 0
    other = models.load_vae(tmp_path / "start" / models.VAE_FILE)
    other.decoder.conv1.bias.add_(0.5)
    models.save_vae(other, exported(tmp_path / "other"))
    assert main([*begun, "--start", str(tmp_path / "other")]) == 2
    assert "run, vae_light: begun with vae " in capsys.readouterr().err

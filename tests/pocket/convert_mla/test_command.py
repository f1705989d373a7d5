"""The conversion's command: files in, rollouts of every kind, a file that streams, refusals."""

import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.arch.rotary import RopeLayout
from rivulet.model_patches.cache.mla import MlaFormat
from rivulet.model_patches.stream.step import step
from rivulet.model_patches.vae.load import load_vae
from rivulet.pocket import held_out, models
from rivulet.pocket.convert_mla import main
from rivulet.pocket.convert_mla.clip_sources import PocketClips
from rivulet.pocket.convert_mla.student_rollouts import StudentRollouts
from rivulet.pocket.train_pocket.clips import PairedClips, made_of
from rivulet.pocket.train_pocket.record import RECORD_FILE
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.fixture
def pool(tmp_path):
    """Returns a file with clips of noise, as a training of the pocket model stores them."""
    latents, texts = torch.randn(4, 2, 16, 12, 8, 8).half(), torch.randn(4, 2, 6, 64)
    clips = PairedClips(latents, texts, torch.ones(4, dtype=torch.bool))
    made = made_of(load_vae(models.WEIGHTS / models.VAE_FILE))
    clips.save(tmp_path / "clips.pt", made)
    (tmp_path / "run").mkdir()
    replace(clips, latents_BVCTHW=latents[:, :, :, :3]).save(tmp_path / "run/clips_first.pt", made)
    return tmp_path / "clips.pt"


def steps(pool, local, flow, sampled):
    """Returns the arguments of so many steps of each phase, one clip side by side."""
    counts = {"--local-steps": local, "--flow-steps": flow, "--sampled-steps": sampled, "--batch": 1}
    run = ["--run", str(pool.parent / "run"), "--clips", str(pool), "--device", "cpu"]
    return [*run, *(str(word) for each in counts.items() for word in each)]


def test_the_command_makes_a_file_that_the_pocket_loader_streams(pool, tmp_path, capsys):
    assert main(steps(pool, 1, 1, 2)) == 0
    assert "512 -> 36 numbers of a token and layer: 14.2 times fewer" in capsys.readouterr().err
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert len(figures["start"]["sampled_error"]) == len(figures["end"]["sampled_error"]) == 4
    folder = tmp_path / "run" / "export"
    (folder / models.VAE_FILE).symlink_to(models.WEIGHTS / models.VAE_FILE)
    pocket = models.load_pocket(folder, dit_file=models.MLA_FILE)
    assert pocket.dit.rope_layout == RopeLayout.truncated(128, 8)
    assert pocket.recipe.trained.endswith("converted to 36 numbers a token")
    # the dense model is one from before combinations were held out
    assert str(pocket.recipe.history) == f"held out since: {models.load_pocket().recipe.trained}"
    config = replace(pocket.config(), cfg=1.0)
    state = pocket.begin(
        pocket.encode("a red circle on a blue ground"), config, cache=MlaFormat.for_model(pocket.dit)
    )
    latents, _ = step(pocket.caller, state)
    assert latents.isfinite().all()


def test_the_command_goes_along_student_rollouts(pool, tmp_path, monkeypatch):
    drawn, draw = [], StudentRollouts.draw
    monkeypatch.setattr(StudentRollouts, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    assert main([*steps(pool, 1, 9, 0), "--own", "1", "--beginnings", "0"]) == 0
    assert len(drawn) == 1 and drawn[0].clean_RCTHW.shape == (1, 16, 12, 8, 8)  # from the third rollout on


def test_the_command_goes_along_first_blocks_of_its_folder(pool, tmp_path, monkeypatch):
    drawn, draw = [], PocketClips.draw
    monkeypatch.setattr(PocketClips, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    assert main([*steps(pool, 1, 2, 0), "--beginnings", "1", "--shift", "0.01"]) == 0
    assert min(float(c.sigmas[0].min()) for c in drawn) < 0.1, "nearly no noise, but where it is all"
    assert [c.clean_RCTHW.shape for c in drawn].count((8, 16, 3, 8, 8)) == 2  # eight times as many at once


def test_the_command_refuses_with_words(pool, tmp_path, capsys):
    run = ["--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*run, "--dense", str(tmp_path / "absent.pt")]) == 2
    assert "no file at" in capsys.readouterr().err
    assert main([*run, "--preset", "wan", "--latent", "64", "--query-latent", "64"]) == 2
    assert "give --texts, encoded prompts" in capsys.readouterr().err
    save_file({"texts": torch.zeros(1, 6, 3)}, tmp_path / "texts.safetensors")
    assert main([*run, "--texts", str(tmp_path / "texts.safetensors")]) == 2
    assert "texts are 3 wide, the model reads 64" in capsys.readouterr().err
    assert main([*run, "--clips", str(pool), "--own", "2"]) == 2
    assert "--own 2.0: a share of the rollouts, from 0 to 1" in capsys.readouterr().err
    assert main([*run, "--texts", str(tmp_path / "texts.safetensors"), "--shift", "3"]) == 2
    assert "--shift 3.0: more than 0, and for clips alone" in capsys.readouterr().err
    assert main([*run, "--clips", str(pool), "--beginnings", "-1"]) == 2
    assert "--beginnings -1.0: a share of the rollouts, from 0 to 1" in capsys.readouterr().err
    assert main([*run, "--clips", str(pool), "--latent", "300", "--local-steps", "1"]) == 2
    assert "latents of 300 and 128 channels are wider than the model's 256" in capsys.readouterr().err


def test_a_conversion_goes_on_as_it_was_begun(pool, tmp_path, capsys):
    assert main([*steps(pool, 1, 1, 0), "--beginnings", "0"]) == 0
    record = json.loads((tmp_path / "run" / RECORD_FILE).read_text())
    assert record["held_out"] == held_out.fingerprint() and record["flow"]["beginnings"] == 0.0
    before = (tmp_path / "run/flow.pt").read_bytes()
    for options, said in (
        (["--beginnings", "0.5"], "run, flow: begun with beginnings 0.0, and now it is 0.5"),
        (["--beginnings", "0", "--turned", "16"], "run, local: begun with turned 8, and now it is 16"),
        (["--beginnings", "0", "--shift", "3"], "run, local: begun with shift null, and now it is 3.0"),
    ):
        assert main([*steps(pool, 1, 1, 0), *options]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "run/flow.pt").read_bytes() == before


def test_files_of_another_list_or_recipe_are_refused(pool, tmp_path, capsys):
    dense = models.WEIGHTS / models.DIT_FILE
    with safe_open(dense, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata()
    for changes, said in (
        ({"held_out": "0123"}, "was trained without the combinations of list 0123"),
        ({"size": 128}, "pictures of 128 pixels, and pictures of 64 pixels are needed"),
        ({"block_frames": 1}, "blocks of 1 latent frames, and blocks of 3"),
        ({"preset": "echo"}, "positions echo, and positions pocket"),
        ({"latents": "0123"}, "makes latents of VAE 0123, and the VAE beside it is"),
    ):
        recipe = json.dumps(json.loads(metadata["recipe"]) | changes)
        save_file(tensors, tmp_path / "dense.safetensors", metadata | {"recipe": recipe})
        assert main([*steps(pool, 1, 1, 0), "--dense", str(tmp_path / "dense.safetensors")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run/local.pt").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"held_out": ""}, "clips.pt were drawn from all combinations"),
        ({"held_out": "0123"}, "clips.pt were drawn without list 0123"),
        ({"latents": "0123"}, "clips.pt are latents of VAE 0123"),
    ],
    ids=["all", "another list", "another VAE"],
)
def test_clips_that_are_not_to_be_trained_on_are_refused(pool, tmp_path, capsys, made, said):
    told = made_of(load_vae(models.WEIGHTS / models.VAE_FILE)) | made
    PairedClips.load(pool).save(pool, told)
    assert main(steps(pool, 1, 1, 0)) == 2
    assert said in capsys.readouterr().err

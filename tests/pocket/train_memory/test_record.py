"""What a memory's training records, goes on with and refuses, through its command."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from rivulet.model_patches.checkpoints.sealed import CHECKSUM, EMPTY, seal
from rivulet.pocket import choices, held_out, hiding, models
from rivulet.pocket.held_out import History
from rivulet.pocket.hiding import HidingClips
from rivulet.pocket.train_memory import command, main, own_clips, sparing
from rivulet.pocket.train_memory.lessons import Lessons, Shares
from rivulet.pocket.train_memory.lora import Adapters
from rivulet.pocket.train_pocket.clips import PairedClips, made_of
from rivulet.pocket.train_pocket.dit import PocketTraining
from rivulet.pocket.train_pocket.record import RECORD_FILE
from rivulet.tests.pocket.train_memory.tiny_memory import tiny
from safetensors import safe_open
from safetensors.torch import save_file

LIST = held_out.fingerprint()


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Returns a training of one lesson of one story, its length of one step last."""
    monkeypatch.setattr(command, "ORDINARY_CLIPS", 1)
    shares = ["--ordinary", "0", "--batch", "1", "--stories", "1", "--threads", "1"]
    return ["--run", str(tmp_path / "run"), *shares, "--steps", "1"]


def test_a_memory_says_what_it_never_drew_and_goes_on_as_it_was_begun(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(arguments) == 0
    path = run / "export" / models.MEMORY_FILE
    with safe_open(path, framework="pt") as file:
        assert History.of(json.loads(file.metadata()["memory"])) == History(LIST)
    record = json.loads((run / RECORD_FILE).read_text())
    assert record["held_out"] == LIST and record["memory"]["lengths"] == [[0, {"steps": 1, "minutes": None}]]
    before = (run / "memory.pt").read_bytes()
    for options, said in (
        (["--rate", "0.5"], "matrix_rate 0.01, and now it is 0.005"),
        (["--ordinary", "0.5"], '"ordinary": 0.0'),
        (["--encoder", str(path)], "encoder null, and now it is "),
    ):
        assert main([*arguments, *options]) == 2
        refusal = capsys.readouterr().err
        assert "run, memory: begun with " in refusal and said in refusal
    assert (run / "memory.pt").read_bytes() == before
    assert main([*arguments[:-1], "2"]) == 0
    assert torch.load(run / "memory.pt", weights_only=True)["step"] == 2


def test_stories_that_show_what_is_held_out_are_refused(arguments, tmp_path, capsys):
    pocket = models.load_pocket()
    stories = HidingClips(torch.zeros(1, 16, 24, 8, 8).half(), torch.zeros(1, 4, 6, 64), torch.zeros(1, 3))
    (tmp_path / "run").mkdir()
    stories.save(tmp_path / "run/stories.pt", {"held_out": ""})
    assert main(arguments) == 2
    assert "stories.pt were drawn from all combinations" in capsys.readouterr().err
    stories.save(tmp_path / "run/stories.pt", made_of(pocket.vae) | {"latents": "0123"})
    assert main(arguments) == 2
    assert "stories.pt are latents of VAE 0123" in capsys.readouterr().err


def test_stories_that_are_added_show_nothing_that_is_held_out(nothing_unseen, monkeypatch):
    monkeypatch.setattr(hiding, "encode_pictures", lambda _, shown: torch.zeros(len(shown), 16, 24, 8, 8))
    stories = HidingClips(torch.zeros(1, 16, 24, 8, 8).half(), torch.zeros(1, 4, 6, 64), torch.zeros(1, 3))
    clips = PairedClips(torch.zeros(1, 2, 16, 21, 8, 8), torch.zeros(1, 2, 6, 64), torch.ones(1) > 0)
    lessons = Lessons(None, stories, clips, None, PocketTraining(), Shares(), 1)
    lessons.refresh(60, 100, torch.Generator().manual_seed(1))
    assert len(lessons.stories) == 61 and sum(nothing_unseen) == 4 * 60


def test_streams_that_are_trained_on_are_of_prompts_that_are_seen(tmp_path, monkeypatch):
    pocket, begun = models.load_pocket(), []

    def stop(_, texts, *given, **options):
        begun.append(len(texts))
        raise KeyboardInterrupt

    own_clips.load_or_stream(tmp_path / "clips.pt", pocket, 200, 0)
    monkeypatch.setattr(models.Pocket, "begin", stop)
    monkeypatch.setattr(sparing, "STREAMS", 200)
    with pytest.raises(KeyboardInterrupt):
        sparing.watch_ordinary(pocket, None, Adapters(tiny()[0], 2, 2.0))
    assert begun == [200], "the fixture has looked at every prompt of these"


def another(path, folder, name, **changes):
    """Returns a copy of a file with other fields in its entry `name`."""
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in list(file.keys())}, dict(file.metadata())
    metadata[name] = json.dumps(json.loads(metadata[name]) | changes)
    sealed = CHECKSUM in metadata
    save_file(tensors, folder / path.name, metadata | ({CHECKSUM: EMPTY} if sealed else {}))
    if sealed:
        seal(folder / path.name)
    return folder / path.name


def test_files_of_another_list_or_recipe_are_refused(arguments, tmp_path, capsys):
    memory, mla = models.WEIGHTS / models.MEMORY_FILE, models.WEIGHTS / models.MLA_FILE
    others = {
        "another memory's list": ["--encoder", str(another(memory, tmp_path, "memory", held_out="0123"))],
        "list": ["--encoder", str(memory), "--dit", str(another(mla, tmp_path, "recipe", held_out="0123"))],
    }
    for options in others.values():
        assert main([*arguments, *options]) == 2
        assert "was trained without the combinations of list 0123" in capsys.readouterr().err
    for changes, said in (
        ({"size": 128}, "pictures of 128 pixels, and pictures of 64 pixels are needed"),
        ({"block_frames": 1}, "blocks of 1 latent frames, and blocks of 3"),
        ({"latents": "0123"}, "makes latents of VAE 0123, and the VAE beside it is"),
    ):
        dit = another(mla, tmp_path, "recipe", **changes)
        assert main([*arguments, "--encoder", str(memory), "--dit", str(dit)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run/stories.pt").exists()


def test_a_model_with_a_memory_has_seen_what_one_of_them_has(tmp_path):
    pocket = models.load_pocket()
    assert str(pocket.recipe.history) == "trained on all combinations"
    new = replace(pocket, recipe=replace(pocket.recipe, held_out=LIST))
    memory = models.WEIGHTS / models.MEMORY_FILE
    path = another(memory, tmp_path, "memory", held_out="", held_out_after="")
    told = choices.remembering(new, "learned", path)[0].recipe.history
    assert str(told) == "trained on all combinations"
    path = another(memory, tmp_path, "memory", held_out=LIST, held_out_after="before")
    told = choices.remembering(new, "learned", path)[0].recipe.history
    assert told == History(LIST, "before") and str(told) == "held out since: before"


def test_a_taught_model_has_seen_what_its_memory_and_its_attentions_have(tmp_path):
    dit, never = torch.nn.Linear(2, 2), History(held_out.fingerprint())
    said = {"recipe": json.dumps({"trained": "new", **asdict(never)}), "config": "{}"}
    save_file(dit.state_dict(), tmp_path / "model.safetensors", said)
    late = History(held_out.fingerprint(), "memory")
    for others, history in (
        ([never], never),
        ([late, never], late),
        ([never, History()], replace(never, held_out_after="new")),
    ):
        path = command.export_model(
            tmp_path / "model.safetensors", dit, tmp_path / "out", "3 lessons", "abc", others
        )
        with safe_open(path, framework="pt") as file:
            assert History.of(json.loads(file.metadata()["recipe"])) == history

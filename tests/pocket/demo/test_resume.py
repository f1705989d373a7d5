"""The demo goes on with its own takes, from their end or from an earlier second."""

import json
import os
from dataclasses import replace

import pytest
from rivulet.model_patches.takes.folder import TakeFolder
from rivulet.model_patches.takes.timeline_file import read
from rivulet.model_patches.writer.movie import frame_count
from rivulet.pocket.demo import main
from rivulet.pocket.demo import take as take_module
from rivulet.pocket.demo.files import find_take
from safetensors.torch import load_file

from .test_make import told_by

PROMPT, OTHER = "a red circle on a green ground", "a cyan square on a red ground"


@pytest.fixture
def demo(weights, tmp_path):
    """Returns what runs the demo in a folder of its own: its exit status."""

    def run(*more):
        return main(["--weights", str(weights), "--no-browser", "--out", str(tmp_path), *more])

    return run


@pytest.mark.parametrize("kept", [("int8", "off"), ("dense", "ema")], ids=lambda kept: "-".join(kept))
def test_a_take_is_made_longer_in_the_same_file_with_what_it_was_made_with(demo, tmp_path, kept, capsys):
    cache, memory = kept
    assert (
        demo("--seconds", "1", "--prompt", PROMPT, "--seed", "4", "--cache", cache, "--memory", memory) == 0
    )
    assert demo("--resume", "rivulet-0001", "--seconds", "2") == 0
    assert "33 frames, 2.1 s" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["rivulet-0001.mp4", "rivulet-0001.take"]
    assert frame_count(tmp_path / "rivulet-0001.mp4") == 33
    assert told_by(tmp_path / "rivulet-0001.mp4") == {
        "seed": 4,
        "prompts": [{"second": 0.0, "prompt": PROMPT}],
    }
    whole = tmp_path / "whole.mp4"
    settings = ["--prompt", PROMPT, "--seed", "4", "--cache", cache, "--memory", memory]
    assert demo("--out", str(whole), "--seconds", "2", *settings) == 0
    folders = [TakeFolder(path) for path in (whole, tmp_path / "rivulet-0001.mp4")]
    first, second = (folder.snapshots()[-1] for folder in folders)
    assert first.order == second.order == (3, 33)
    held, again = (load_file(each.path) for each in (first, second))
    assert held.keys() == again.keys()
    assert all(held[name].equal(again[name]) for name in held), "the same state, bit for bit"


def test_a_video_of_another_cache_and_memory_is_gone_on_with_as_it_was_made(tmp_path, capsys):
    """As one was made before the built-in model ran with both."""
    run = ["--no-browser", "--out", str(tmp_path)]
    assert main([*run, "--seconds", "0.5", "--cache", "dense", "--memory", "off"]) == 0
    assert main([*run, "--resume", "rivulet-0001", "--seconds", "1"]) == 0
    assert capsys.readouterr().err.count("cache dense, memory off") == 2
    assert main([*run, "--resume", "rivulet-0001", "--seconds", "2", "--memory", "learned"]) == 2
    assert "memory off, not learned. Set the memory to off. Give it the same" in capsys.readouterr().err
    assert main([*run, "--seconds", "0.5"]) == 0
    assert "cache latent, memory learned" in capsys.readouterr().err


def test_a_video_is_gone_on_with_in_the_look_it_was_made_in(tmp_path, capsys):
    """As one was made before the built-in model was shown in soft light."""
    run = ["--no-browser", "--out", str(tmp_path), "--cache", "dense", "--memory", "off"]
    sizes = {}
    for look, other in (("plain", "lit"), ("lit", "plain")):
        video = tmp_path / f"{look}.mp4"
        asked = [] if look == "lit" else ["--look", look]
        assert main([*run, "--out", str(video), "--seconds", "0.5", *asked]) == 0
        assert main([*run, "--resume", look, "--seconds", "1"]) == 0
        assert capsys.readouterr().err.count(f"look {look}") == 2
        about = TakeFolder(video).read_about()
        sizes[look] = (about.width, about.height)
        before = video.read_bytes()
        assert main([*run, "--resume", look, "--seconds", "2", "--look", other]) == 2
        said = capsys.readouterr().err
        assert f"made with --look {look}, not {other}" in said and "Leave --look out" in said
        assert video.read_bytes() == before
    assert sizes == {"plain": (64, 64), "lit": (128, 128)}
    flat, lit = (load_file(TakeFolder(tmp_path / f"{look}.mp4").snapshots()[-1].path) for look in sizes)
    assert flat["tail"].equal(lit["tail"]), "the same latents, bit for bit"


@pytest.mark.parametrize("named", ["{name}", "{name}.mp4", "{name}.take", "{folder}/{name}.mp4"])
def test_a_take_is_redone_from_a_second_and_the_tail_stays(demo, tmp_path, named):
    assert demo("--seconds", "2", "--prompt", PROMPT) == 0
    named = named.format(folder=tmp_path, name="rivulet-0001")
    assert demo("--resume", named, "--from", "1", "--prompt", OTHER, "--seed", "9", "--seconds", "3") == 0
    assert sorted(os.listdir(tmp_path)) == [
        "rivulet-0001.mp4", "rivulet-0001.take", "rivulet-0001_tail1.mp4", "rivulet-0001_tail1.take",
    ]  # fmt: skip
    events = [
        (each.frame, each.prompt, each.seed)
        for each in read(TakeFolder(tmp_path / "rivulet-0001.mp4").timeline)
    ]
    assert events[-1] == (9, OTHER, 9)
    assert frame_count(tmp_path / "rivulet-0001.mp4") == 57
    assert [each["prompt"] for each in told_by(tmp_path / "rivulet-0001.mp4")["prompts"]] == [PROMPT, OTHER]
    assert frame_count(tmp_path / "rivulet-0001_tail1.mp4") == 33


def test_a_name_that_is_none_lists_the_takes(demo, tmp_path, capsys):
    assert demo("--resume", "holiday") == 2
    assert "there are none" in capsys.readouterr().err
    assert demo("--seconds", "1") == 0
    assert demo("--resume", "holiday") == 2
    assert "there are rivulet-0001.mp4 (1.3 s, whole)" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["rivulet-0001.mp4", "rivulet-0001.take"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "9"], "has 21 pictures, and none of them is number 144"),
        (["--seconds", "1"], "has 1.3 s up to there already, and is to have 1.0 s"),
        (["--prompt", "a purple dog", "--seconds", "4"], "does not know 'purple', 'dog'"),
        (["--cache", "int8", "--seconds", "4"], "int8"),
        (["--size", "32", "--seconds", "4"], "32"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_gone_on_with_is_told_and_changes_nothing(demo, tmp_path, capsys, options, words):
    assert demo("--seconds", "1") == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert demo("--resume", "rivulet-0001", *options) == 2
    assert words in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_was_cut_off_after_its_last_block_is_finished_and_told_of(demo, tmp_path, capsys):
    """As a run does that is killed while its parts are joined."""
    assert demo("--seconds", "1") == 0
    folder = TakeFolder(tmp_path / "rivulet-0001.mp4")
    folder.write_about(replace(folder.read_about(), ended=None))
    capsys.readouterr()
    assert demo("--resume", "rivulet-0001", "--seconds", "1") == 0
    said = capsys.readouterr()
    assert "no block was finished, so the video is as long as it was" in said.err
    assert said.out == f"video: 21 frames, 1.3 s, {folder.video}\n"


def test_the_speed_is_that_of_what_was_made(demo, monkeypatch, capsys):
    """And not of the video, of which a part was there before."""
    told = []
    monkeypatch.setattr(take_module, "report", lambda live, meter: told.append((live.writer, meter.frames)))
    assert demo("--seconds", "1") == 0 and demo("--resume", "rivulet-0001", "--seconds", "2") == 0
    assert [(writer.frames_written, made) for writer, made in told] == [(21, 21), (33, 12)]


def test_without_snapshots_the_video_is_all_there_is(demo, tmp_path):
    assert demo("--seconds", "1", "--no-snapshots") == 0
    assert os.listdir(tmp_path) == ["rivulet-0001.mp4"]


def test_a_second_without_a_take_is_refused(demo, capsys):
    with pytest.raises(SystemExit):
        demo("--from", "3")
    assert "name the video with --resume" in capsys.readouterr().err


def test_a_new_take_gets_a_name_that_no_leftover_has(demo, tmp_path):
    TakeFolder(tmp_path / "rivulet-0001.mp4").path.mkdir()
    (tmp_path / "rivulet-0002.lock").write_text(json.dumps({}))
    assert demo("--seconds", "0.5") == 0
    assert (tmp_path / "rivulet-0003.mp4").is_file()


@pytest.mark.parametrize("named", ["", "."])
def test_a_folder_is_named_as_no_take(named, tmp_path):
    with pytest.raises(ValueError, match=r"no take .* there are none"):
        find_take(named, tmp_path)

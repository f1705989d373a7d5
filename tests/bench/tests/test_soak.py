"""The soak: a short healthy stream passes, and each way of going wrong is seen."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.cache.formats import find_format
from rivulet.model_patches.cache.shapes import Exact
from rivulet.model_patches.memory.policies import find_policy
from rivulet.pocket.lit_weights import enlarged
from rivulet.tests.bench import soak, soak_full
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.subject import random_subject


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """A process of some blocks has not found its size yet: growth is given, not measured, in these tests."""
    monkeypatch.setattr(soak, "resident_bytes", lambda: 300 << 20)


@pytest.fixture
def given():
    return random_subject(dim=128, layers=1, size=32, vae_dim=4)


def made(given, path, blocks=4, **options):
    """Returns what one short soak saw, and its rows."""
    watch, rows = soak.Watch(), Rows("soak", True, io.StringIO())
    soak.soak(given, blocks, path, watch, rows, **options)
    return watch, rows


def sparse(given, path, blocks, every, **options):
    """Returns what a soak saw that looks at every Nth block, its rows, and what it kept."""
    watch, rows = soak.Watch(), Rows("soak", True, io.StringIO())
    end = options.pop("end", float("inf"))
    return watch, rows, soak.sparse_soak(given, blocks, path, watch, rows, end, every, **options)


def printed(rows):
    return [json.loads(line) for line in rows.out.getvalue().splitlines()]


def result_of(given, path, watch, rows):
    """Returns the names of the checks that failed, and the result's row."""
    ok = soak.verdict(given, watch, path, 1.0, rows)
    row = printed(rows)[-1]
    assert row["row"] == "result" and row["ok"] is ok
    return {name for name, value in row.items() if value is False}, row


def test_a_short_stream_passes_and_its_file_has_every_frame(given, tmp_path):
    path = tmp_path / "soak.mp4"
    watch, rows = made(given, path)
    assert [sample["at_blocks"] for sample in printed(rows)] == [1, 2, 3, 4]
    failed, row = result_of(given, path, watch, rows)
    assert failed == set()
    assert row["frames"] == row["file_frames"] == 9 + 12 * 3
    assert row["highest_id"] == 11 and row["weights"] == "random" and "last_tenth_seen_share" not in row


def test_a_decoder_that_draws_twice_the_size_passes_on_a_card_that_is_full_now_and_then(
    given, tmp_path, monkeypatch
):
    monkeypatch.setattr(soak_full, "CALM_OPERATIONS", 1000)
    monkeypatch.setattr(soak_full, "SPREAD_OPERATIONS", 200)
    path, faults = tmp_path / "soak.mp4", soak_full.Faults()
    twice = replace(given, vae=enlarged(given.vae))
    watch, rows = made(twice, path, faults=faults)
    assert watch.last_HWC.shape == (64, 64, 3)
    assert faults.figures()["is_undisturbed"] is True
    assert result_of(twice, path, watch, rows)[0] == set()


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"resident": [i * soak.NOISE_BYTES for i in range(4)]}, "is_flat"),
        ({"highest_id": 12}, "is_bounded"),
        ({"most_latents": 13}, "is_bounded"),
        ({"fault": "Stream: block 3 came out with NaN"}, "is_faultless"),
        ({"frames": 44}, "is_playable"),
        ({"last_HWC": None}, "is_playable"),
        ({"seen": [1.0] * 15 + [0.4] * 5}, "is_prompt_seen"),
    ],
    ids=["leak", "ids", "cache", "nan", "lost frame", "other picture", "prompt forgotten"],
)
def test_what_goes_wrong_is_named(given, tmp_path, changes, check):
    path = tmp_path / "soak.mp4"
    watch, rows = made(given, path)
    for name, value in changes.items():
        setattr(watch, name, 255 - watch.last_HWC if name == "last_HWC" else value)
    failed, _ = result_of(given, path, watch, rows)
    assert failed == {check, "ok"}


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (KeyboardInterrupt(), set()),
        (RuntimeError("Stream: block 2 came out with NaN"), {"is_faultless", "ok"}),
    ],
    ids=["interrupted", "fault"],
)
def test_whatever_ends_it_leaves_a_file_that_plays(given, tmp_path, monkeypatch, error, failed):
    take = soak.Watch.take

    def broken(watch, given, chunk):
        take(watch, given, chunk)
        if watch.blocks == 2:
            raise error

    monkeypatch.setattr(soak.Watch, "take", broken)
    watch, rows = made(given, tmp_path / "soak.mp4")
    found, row = result_of(given, tmp_path / "soak.mp4", watch, rows)
    assert found == failed and (row["blocks"], row["file_frames"]) == (2, 21)


def test_growth_leaves_the_warm_up_out():
    watch = soak.Watch(at_blocks=list(range(0, 1001, 100)))
    watch.resident = [0, 10**9, *[2 * 10**9 + 64 * at for at in watch.at_blocks[2:]]]
    per_block, growth = watch.growth()
    assert per_block == pytest.approx(64) and growth == pytest.approx(64 * 800)


def test_shares_are_those_of_the_first_and_the_last_tenth():
    watch = soak.Watch(seen=[1.0, 0.5] + [0.0] * 16 + [0.25, 0.75])
    assert watch.seen_shares() == (0.75, 0.5)
    assert soak.Watch(seen=[0.5]).seen_shares() == (0.5, 0.5)


def test_trained_weights_are_asked_for_the_prompt(given, monkeypatch):
    asked = []
    monkeypatch.setattr(soak, "adherence", lambda pixels_FHWC, prompt: asked.append(prompt) or 0.5)
    watch = soak.Watch()
    watch.sample(given, torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert asked == []
    watch.sample(replace(given, weights="nano"), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert asked == [given.prompt] and watch.seen == [0.5]


def test_the_clock_stops_a_soak_with_a_whole_file(given, tmp_path):
    watch, rows = made(given, tmp_path / "soak.mp4", blocks=1000, end=0.0)
    watch.sample(given, watch.last_HWC[None])
    failed, row = result_of(given, tmp_path / "soak.mp4", watch, rows)
    assert row["blocks"] == 2 and failed == set()


def test_every_nth_block_is_shown_after_the_one_before_it(given, tmp_path, monkeypatch):
    looked = []
    sample = soak.Watch.sample

    def looking(watch, given, pixels_FHWC):
        sample(watch, given, pixels_FHWC)
        looked.append(pixels_FHWC)

    monkeypatch.setattr(soak.Watch, "sample", looking)
    watch, rows = sparse(given, tmp_path / "soak.mp4", blocks=7, every=3)[:2]
    assert watch.blocks == 7 and [row["at_blocks"] for row in printed(rows)] == [3, 6]
    state, latents = given.start(), []
    for _ in range(6):
        block_BCTHW, state = soak.step(given.caller, state)
        latents.append(block_BCTHW)
    wanted, _ = soak.decode_stream(given.vae, torch.cat(latents[4:], 2))
    assert torch.equal(looked[1], wanted[-12:]) and watch.frames == 24
    failed, row = result_of(given, tmp_path / "soak.mp4", watch, rows)
    assert failed == set() and row["file_frames"] == 24 and row["video_seconds"] == (1 + 4 * 20) / given.fps


@pytest.mark.parametrize("every", [0, 11])
def test_a_spacing_that_leaves_less_than_two_looks_is_refused(every, capsys):
    with pytest.raises(SystemExit):
        soak.main(["--blocks", "20", "--decode-every", str(every)])
    assert "1 to 10" in capsys.readouterr().err


def test_a_soak_in_goes_is_the_same_stream_and_counts_them_all(given, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "KEEP_BLOCKS", 4)
    whole, _, _ = sparse(given, tmp_path / "whole.mp4", 12, 2)
    folder = tmp_path / "kept"
    steps, step = [], soak.step

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 11:
            raise SystemError("killed")
        return step(*arguments)

    monkeypatch.setattr(soak, "step", killed)
    with pytest.raises(SystemError):
        sparse(given, tmp_path / "first.mp4", 12, 2, folder=folder)
    assert [path.name for path in folder.glob("*.safetensors")] == ["8-stream.safetensors"]
    monkeypatch.setattr(soak, "step", step)
    watch, rows, kept = sparse(given, tmp_path / "second.mp4", 12, 2, folder=folder)
    assert torch.equal(watch.last_HWC, whole.last_HWC), "bit for bit as if it had never ended"
    assert (watch.blocks, watch.frames) == (12, 24) and kept.earlier[0].frames == 48
    failed = soak.verdict(given, watch, tmp_path / "second.mp4", 1.0, rows, kept)
    row = printed(rows)[-1]
    assert failed and row["goes_samples"] == 2 and row["video_seconds"] == (1 + 4 * 35) / given.fps
    kept.earlier[0].growth_bytes = 2 * soak.NOISE_BYTES
    (tmp_path / "first.mp4").unlink(missing_ok=True)
    for part in tmp_path.glob("first*"):
        part.unlink()
    assert not soak.verdict(given, watch, tmp_path / "second.mp4", 1.0, rows, kept)
    row = printed(rows)[-1]
    assert row["is_flat"] is row["is_playable"] is False and row["growth_bytes"] == 2 * soak.NOISE_BYTES


def test_a_soak_is_gone_on_with_by_the_cache_and_the_memory_it_was_made_with(given, tmp_path, monkeypatch):
    made = {"cache": find_format("int8").build(given.dit, Exact(sink=given.preset.sink_frames))}
    made["memory"] = find_policy("ema").build(given.config, torch.device("cpu"), None, {})
    folder, path, asked = tmp_path / "kept", tmp_path / "soak.mp4", []
    sparse(replace(given, **made), path, 4, 2, folder=folder)
    monkeypatch.setattr(soak, "subject", lambda *names: asked.append(names[1:]) or given)
    options = ["--decode-every", "2", "--keep", str(folder)]
    soak.subject_of(soak.read(options))
    soak.subject_of(soak.read([*options, "--memory", "off"]))
    soak.subject_of(soak.read(["--quick"]))
    assert asked == [("int8", "ema"), ("int8", "off"), (None, None)]
    with pytest.raises(SystemExit, match=r"soak: Resume: .* cache int8, not dense; memory ema, not off"):
        sparse(given, path, 6, 2, folder=folder)
    watch = sparse(replace(given, **made), tmp_path / "again.mp4", 6, 2, folder=folder)[0]
    assert watch.blocks == 6


def test_a_soak_with_a_cache_that_is_none_is_refused_in_a_sentence():
    with pytest.raises(SystemExit, match=r"soak: .*there is no format 'fp8'; choose one of"):
        soak.main(["--quick", "--cache", "fp8"])


def test_a_soak_that_is_decoded_whole_cannot_be_kept(tmp_path, capsys):
    with pytest.raises(SystemExit):
        soak.main(["--quick", "--keep", str(tmp_path)])
    assert "--decode-every 2 and more" in capsys.readouterr().err


def test_a_card_that_is_full_now_and_then_changes_no_picture(given, tmp_path, monkeypatch):
    """And a picture that is another is seen."""
    monkeypatch.setattr(soak_full, "CALM_OPERATIONS", 1200)
    monkeypatch.setattr(soak_full, "SPREAD_OPERATIONS", 300)
    faults = soak_full.Faults()
    watch, _ = made(given, tmp_path / "soak.mp4", faults=faults)
    row = faults.figures()
    assert watch.fault == "" and watch.blocks == 4 and row["is_undisturbed"] is True
    assert row["full_trials"] >= 2 and row["compared_blocks"] == 4 and 1 <= row["measures_steps"] <= 4
    faults.digests[2] = b"another"
    faults.compare(given)
    assert faults.figures()["is_undisturbed"] is False and faults.blocks_other == 1

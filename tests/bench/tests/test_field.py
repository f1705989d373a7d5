"""Methods are compared stream by stream and story by story, and the docs show what the file holds."""

import argparse
import io
import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from rivulet.model_patches.cache.formats import FORMATS
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.pocket import choices, world
from rivulet.pocket.models import WEIGHTS, load_pocket
from rivulet.tests.bench import field, field_parts
from rivulet.tests.bench.field_kept import Line, add, read
from rivulet.tests.bench.field_methods import BASELINE, find_method, listed
from rivulet.tests.bench.field_parts import PARTS, Found, Part, Sizes
from rivulet.tests.bench.field_table import Compared, paired, paired_ratio, table
from rivulet.tests.bench.quality_figures import Span, judge, speed_figures
from rivulet.tests.bench.quality_truth import rendered, scene_speeds
from rivulet.tests.bench.recall import contestants, measure
from rivulet.tests.bench.records import Rows

SIZES = Sizes(seed=100, streams=3, seconds=2, trials=2, lengths=(3,), rounds=4)


def line(part, method, values=None, **about):
    """Returns a line with what a test does not say filled in."""
    given = {"setting": "seed 100", "weights": "w", "needs": "nothing"} | about
    return Line(part, method, **given, values=values or {})


def shown(values):
    """Returns values of a quality line whose verdicts and speeds are these."""
    names = ("adherence_share", "strict_share", "speed_sides_per_picture", "truth_sides_per_picture")
    return dict(zip(names, (values, values, values, [0.5] * len(values)), strict=True))


def test_a_difference_is_of_pairs_and_so_is_its_error():
    mine, plain = [0.9, 0.4, None, 0.7], [0.8, 0.1, 0.5, None]
    found = paired(mine, plain)
    assert found.mean == pytest.approx(fmean([0.9, 0.4, 0.7])) and found.count == 3
    assert found.difference == pytest.approx(0.2)  # of 0.1 and 0.3
    assert found.error == pytest.approx(stdev([0.1, 0.3]) / 2**0.5)
    assert paired([0.9, 0.4], [None, 0.4]) == Compared(0.65, 2, 0.0, None)
    assert paired([0.5], []) == Compared(0.5, 1)
    assert paired([None], [0.5]) is None
    assert found.cell() == "66.7 (+20.0 ± 10.0)"


def test_a_ratio_of_speeds_is_of_means_and_beside_nothing_its_error_is_that_of_the_figures():
    speeds, truth = [0.004, 0.008, None, 0.011], [0.01, 0.012, 0.01, 0.009]
    known = speed_figures(speeds, truth)
    found = paired_ratio(speeds, [0.0] * 4, truth)
    assert found.mean == found.difference == pytest.approx(known["speed_ratio"])
    assert found.error == pytest.approx(known["speed_standard_error_ratio"])
    beside = paired_ratio(speeds, speeds, truth)
    assert (beside.difference, beside.error) == (0, 0)
    assert paired_ratio([None], [0.1], [0.1]) is None


def test_only_streams_of_one_setting_and_of_the_newest_weights_are_paired():
    lines = [
        line("quality", "ema", shown([0.1, 0.1]), span="10 seconds", setting="seed 101"),
        line("quality", "ema", shown([0.5, 0.7]), span="10 seconds"),
        line("quality", BASELINE, shown([0.4, 0.4]), span="10 seconds"),
        line("quality", "learned", shown([0.0, 0.0]), span="10 seconds", weights="old", setting="seed 101"),
        line("quality", "learned", shown([0.6, 0.6]), span="10 seconds", weights="new"),
        line("recall", "learned", {"recall": [1, 0], "strict_recall": [1, 0]}, span="4"),
    ]
    rows = table(lines).splitlines()
    assert rows[2].startswith("| `plain` | nothing | - | - | - | 40.0 | 40.0 | 80.0 |")
    # 101 has no baseline: its streams count for the mean alone
    assert "| 35.0 (+20.0 ± 10.0) |" in rows[3] and rows[3].startswith("| `ema` |")
    assert "| 60.0 (+20.0 ± 0.0) |" in rows[4]
    assert "| `learned` | 50.0 | 50.0 |" in rows
    assert rows[-1] == "Streams: seed 101; seed 100. Stories: seed 100."


def test_every_cache_and_memory_of_the_tables_is_listed_and_others_are_refused():
    names = listed()
    assert names[0] == BASELINE and set(POLICIES) | set(FORMATS) <= {*names, "off", "dense"}
    assert find_method("int8").needs == "nothing"
    with pytest.raises(SystemExit, match=r"no method is called 'dnse'; there are plain, .*cache\+memory"):
        find_method("dnse")
    with pytest.raises(SystemExit, match=r"no method is called 'latent\+oo'"):
        find_method("latent+oo")


def test_lines_are_kept_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "field.jsonl"
    assert read(path) == []
    lines = [line("cost", "plain"), line("quality", "plain", shown([0.5, None]), span="10 seconds")]
    add(path, lines[:1])
    add(path, lines[1:])
    assert read(path) == lines
    path.write_text(path.read_text() + '{"part": "cost"}\n')
    with pytest.raises(SystemExit, match=r"line 3 of .*field.jsonl is no line of this bench"):
        read(path)


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def counted(choice, sizes):
        asked.append(sizes.streams)
        yield Found("10 seconds", {"attended_frames": 12}, shown([0.5, 0.7]))

    monkeypatch.setitem(PARTS, "cost", Part(counted, lambda sizes: f"{sizes.streams} streams"))
    out, kept = io.StringIO(), tmp_path / "field.jsonl"
    for sizes in (SIZES, SIZES, replace(SIZES, streams=4)):
        field.measure(find_method("ema"), "cost", sizes, kept, Rows("field", False, out))
    assert asked == [3, 4] and len(read(kept)) == 2
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    assert len(rows) == 3 and rows[0] == rows[1]
    assert rows[0]["adherence_share"] == 0.6 and rows[0]["method"] == "ema"


def test_a_memory_that_the_cache_cannot_hold_is_refused_in_words(tmp_path):
    refused = r"bench field: int8\+ema cannot be: Memory ema: each step changes the sink a little"
    with pytest.raises(SystemExit, match=refused):
        field.measure(find_method("int8+ema"), "cost", SIZES, tmp_path / "x", Rows("field", False))


@pytest.mark.parametrize("name", ["plain", "latent+learned"])
def test_costs_are_those_of_the_published_sizes(name):
    (found,) = PARTS["cost"].measure(find_method(name).made(), SIZES)
    token = found.figures["bytes_per_token_layer"]
    assert (token, found.figures["attended_frames"]) == (6144, 12) if name == "plain" else (token < 900, 15)


def test_streams_are_judged_as_bench_quality_judges_them(monkeypatch):
    fps, frames = 16, 20
    scenes = world.sample_scenes(3, torch.Generator().manual_seed(1_000_100), band_share=0.0)
    pixels = rendered(scenes, frames, 64)
    pixels[0, 5:] = 128  # nothing to be seen
    asked = {}

    def spans(pocket, prompts, seconds, seed, cache, memory):
        asked.update(prompts=prompts, seconds=seconds, seed=seed)
        yield "2_seconds", Span(pixels, (4, 16))

    monkeypatch.setattr(field_parts, "spans", spans)
    (found,) = PARTS["quality"].measure(find_method("plain").made(), SIZES)
    assert found.span == "2 seconds"
    assert asked == {"prompts": scenes.prompts(), "seconds": 2, "seed": 100}
    figures, shares = judge(Span(pixels, ()), scenes.prompts(), fps, scene_speeds(scenes, 10 * fps, fps))
    assert found.values["adherence_share"] == pytest.approx(shares) and shares[0] == 0.25
    assert fmean(found.values["strict_share"]) == pytest.approx(figures["strict_share"], abs=1e-5)
    speeds = found.values["speed_sides_per_picture"]
    ratio = paired_ratio(speeds, (), found.values["truth_sides_per_picture"]).mean
    assert ratio == pytest.approx(figures["speed_ratio"], rel=1e-3)


def test_stories_are_those_of_bench_recall(capsys):
    stage = field_parts.staged(SIZES)
    (found,) = PARTS["recall"].measure(find_method("learned").taught(), SIZES)
    there = measure(stage, [contestants(load_pocket(), WEIGHTS)["learned"]()])["learned"][3]
    assert found.span == "1"
    assert {name: fmean(values) for name, values in found.values.items()} == {
        name: there[name] for name in ("recall", "strict_recall")
    }


def test_stories_are_told_on_taught_weights_whatever_the_memory():
    learned = choices.choose("dense", "learned")
    off, ema = find_method("plain").taught(), find_method("ema").taught()
    for one in (off, ema):
        assert one.pocket.config().positions.name == load_pocket().recipe.preset
        weights = zip(one.pocket.dit.parameters(), learned.pocket.dit.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)
    assert (off.memory.name, ema.memory.name) == ("off", "ema")


@pytest.mark.parametrize("name", ["streams", "seconds", "trials"])
def test_less_than_one_is_refused(name):
    given = {"streams": None, "seconds": None, "trials": None} | {name: 0}
    with pytest.raises(SystemExit, match=f"--{name} is 0; give 1 or more"):
        field.sizes(argparse.Namespace(quick=False, **given))


def test_the_tables_of_the_docs_are_what_the_command_prints(root):
    out = io.StringIO()
    field.run(argparse.Namespace(table=True, kept=root / "docs" / "field.jsonl"), Rows("field", False, out))
    assert out.getvalue() in (root / "docs" / "field.md").read_text(encoding="utf-8")

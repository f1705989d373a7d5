"""The judge gives truth full marks, wrong prompts none, and finds a jump where blocks begin."""

import argparse
import io
import json
from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.cache.dense import DENSE
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream.step import prefill, step
from rivulet.model_patches.vae.decoder import decode_stream, encode_stream
from rivulet.model_patches.vae.wan import TIME_STRIDE
from rivulet.pocket import choices, models, world
from rivulet.pocket.verdict import FASTEST
from rivulet.tests.bench import quality, quality_bounds, quality_from_truth, quality_plot
from rivulet.tests.bench.quality import SPAN_LATENTS, WARM_LATENTS, spans
from rivulet.tests.bench.quality_bounds import Bound
from rivulet.tests.bench.quality_figures import Span, between, judge, judged_streams, pace, speed_figures
from rivulet.tests.bench.quality_from_truth import GIVEN_FRAMES, GIVEN_LATENTS, go_on, stretch
from rivulet.tests.bench.quality_plot import draw, read
from rivulet.tests.bench.quality_sheets import RIGHT, WRONG, sheet, sheets
from rivulet.tests.bench.quality_truth import rendered, scene_speeds
from rivulet.tests.bench.quality_turns import FLIGHTS, flights, speeds_by_flight
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket, write_memory

FPS = 16


def truth(frames: int = 9):
    scenes = world.sample_scenes(4, torch.Generator().manual_seed(0), band_share=0.0)
    return scenes.prompts(), world.render(scenes, world.simulate(scenes, frames), 64)


def test_truth_gets_full_marks_and_another_prompt_none():
    prompts, pixels = truth()
    figures, shares = judge(Span(pixels, ()), prompts, FPS)
    assert figures["adherence_share"] == 1 and shares == [1.0] * 4
    figures, shares = judge(Span(pixels, ()), prompts[1:] + prompts[:1], FPS)
    assert figures["adherence_share"] == 0 and figures["worst_stream_share"] == 0


def test_a_half_right_stream_counts_half():
    prompts, pixels = truth(8)
    pixels[0, 4:] = 0
    figures, shares = judge(Span(pixels, ()), prompts, FPS)
    assert shares[0] == 0.5 and figures["adherence_share"] == 0.875
    # one of four is 0.5, the others 1: a spread of 0.25, of a mean of four half of it
    assert figures["adherence_standard_error_share"] == pytest.approx(0.125)
    alone, _ = judge(Span(pixels[:1], (4,)), prompts[:1], FPS)
    assert "adherence_standard_error_share" not in alone and alone["first_stretch_share"] == 1


def test_both_verdicts_stand_side_by_side():
    """A stranger is seen by the stricter one alone; the part that fails is told."""
    prompts, pixels = truth(12)
    pixels[0, :, -8:, :8] = 120
    figures, _ = judge(Span(pixels, (6,)), prompts, FPS)
    assert figures["adherence_share"] == 1 and figures["worst_stream_strict_share"] == 0
    assert figures["strict_share"] == 0.75 == figures["first_stretch_strict_share"]
    assert figures["strict_standard_error_share"] == pytest.approx(0.25)
    assert figures["clean_fails_share"] == 0.25 == figures["clean_alone_fails_share"]
    assert figures["adheres_fails_share"] == 0


def test_a_frozen_stream_moves_nowhere():
    prompts, pixels = truth(12)
    moving, _ = judge(Span(pixels, ()), prompts, FPS, [0.012] * 4)
    still, _ = judge(Span(pixels[:, :1].expand(-1, 12, -1, -1, -1), ()), prompts, FPS, [0.012] * 4)
    assert moving["strict_share"] == 1 and moving["still_share"] == 0
    assert 0.008 < moving["speed_sides_per_picture"] < 0.016
    assert moving["speed_ratio"] == pytest.approx(moving["speed_sides_per_picture"] / 0.012)
    assert still["adherence_share"] == 1 and still["strict_share"] == 0 == still["speed_ratio"]
    assert still["moves_alone_fails_share"] == 1 == still["still_share"]


def test_a_ratio_of_speeds_is_of_streams_that_show_something():
    figures = speed_figures([0.004, 0.008, None], [0.01, 0.01, 0.02])
    assert figures["speed_ratio"] == pytest.approx(0.6)
    # ratios of 0.4 and 0.8: a spread of sqrt(2) * 0.2, of a mean of two 1 / sqrt(2) of it
    assert figures["speed_standard_error_ratio"] == pytest.approx(0.2)
    assert figures["found_streams"] == 2
    assert speed_figures([None], [0.01]) == {}


def test_objects_that_only_jump_are_told():
    prompts, pixels = truth(12)
    streams = judged_streams(Span(pixels, ()), prompts, FPS)
    jumping = [replace(one, speed_EN=one.speed_EN + 2 * FASTEST) for one in streams]
    assert pace(jumping, [0.012] * 4) == {"jumps_share": 1.0}
    nowhere = [replace(one, speed_EN=one.speed_EN * torch.nan) for one in streams]
    assert pace(nowhere, [0.012] * 4) == {}


def test_the_truths_speed_is_that_of_its_pictures():
    scenes = world.sample_scenes(6, torch.Generator().manual_seed(3), band_share=0.0)
    figures, _ = judge(
        Span(rendered(scenes, 32, 64), ()), scenes.prompts(), FPS, scene_speeds(scenes, 32, FPS)
    )
    assert figures["speed_ratio"] == pytest.approx(1, abs=0.02)


def test_a_quarter_second_belongs_where_its_middle_is():
    speeds = torch.arange(12.0)[:, None]  # the middle of the first is after an eighth of a second
    assert between(speeds, FPS, 0.0, 0.25).flatten().tolist() == [0, 1]
    assert between(speeds, FPS, 0.25, 9.0).flatten().tolist() == list(range(2, 12))


def test_no_quarter_second_has_pictures_of_the_past_and_of_what_was_made():
    frames = torch.arange(float(GIVEN_FRAMES + 16 - 4))[:, None]
    past, made = stretch(frames, FPS, -3.0, 0.0), stretch(frames, FPS, 0.0, 9.0)
    assert past.max() + 4 == GIVEN_FRAMES - 1 and made.min() == GIVEN_FRAMES
    assert len(past) + len(made) == len(frames) - 4


def test_what_follows_a_true_past_is_what_the_stream_makes_of_it():
    pocket, some = small_pocket(), world.sample_scenes(2, torch.Generator().manual_seed(0), band_share=0.0)
    past = rendered(some, GIVEN_FRAMES, pocket.recipe.size)
    pixels = go_on(choices.Choice(pocket, DENSE, OFF), some.prompts(), past, 1, 5)
    given = torch.cat([encode_stream(pocket.vae, clip)[0] for clip in past])
    state = pocket.begin(torch.cat([pocket.encode(p) for p in some.prompts()]), pocket.config(5))
    made, _ = step(pocket.caller, prefill(pocket.caller, state, given))
    assert given.shape[2] == GIVEN_LATENTS and pixels.shape[1] == GIVEN_FRAMES + FPS
    shown = decode_stream(pocket.vae, torch.cat([given, made], 2)[1:])[0][: GIVEN_FRAMES + FPS]
    assert torch.equal(pixels[1, : len(shown)], shown)


def test_a_jump_where_a_block_begins_shows():
    prompts, pixels = truth()
    smooth, _ = judge(Span(pixels, (5,)), prompts, FPS)
    pixels[:, 5:] = pixels[:, 5:].roll(16, 3)
    jumping, _ = judge(Span(pixels, (5,)), prompts, FPS)
    assert jumping["discontinuity_ratio"] > 3 * smooth["discontinuity_ratio"]
    elsewhere, _ = judge(Span(pixels, (3,)), prompts, FPS)
    assert elsewhere["discontinuity_ratio"] < 1


def test_a_sheet_has_a_row_a_stream(tmp_path):
    from PIL import Image

    _, pixels = truth()
    sheet(list(pixels), tmp_path / "new" / "sheet.png", columns=3, scale=1)
    assert Image.open(tmp_path / "new" / "sheet.png").size == (3 * 64, 4 * 64)


def test_sheets_show_the_worst_and_the_middle_and_what_is_wrong(tmp_path, capsys):
    from PIL import Image

    prompts, pixels = truth(12)
    pixels[2, :, -8:, :8] = 120
    span = Span(pixels, ())
    sheets(tmp_path, "some", span, prompts, judged_streams(span, prompts, FPS))
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["sheet"] for each in told] == ["worst_some", "median_some", "best_some"]
    assert told[0]["streams"][0] == [prompts[2], 0.0] and told[2]["streams"][-1][1] == 1.0
    picture = Image.open(tmp_path / "worst_some.png")
    assert picture.size == (8 * 64 * 2, 4 * 67 * 2)
    # the first row is the stream with the stranger: of the bar's five pieces the fourth is red
    bar = [picture.getpixel((2 * (6 + 12 * piece), 2 * 66)) for piece in range(5)]
    assert bar == [RIGHT, RIGHT, RIGHT, WRONG, RIGHT]


def test_speed_is_drawn_over_time(tmp_path):
    from PIL import Image

    rows = [
        {
            "row": "speed",
            "case": "x",
            "format": "dense",
            "memory": "off",
            "from_seconds": s,
            "to_seconds": s + 1,
        }
        | {"speed_ratio": 0.5 + s / 10}
        for s in range(3)
    ]
    rows += [{**rows[0], "case": "true_past", "speed_ratio": 9.0}, {"row": "quality", "case": "x"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(["no row", *map(json.dumps, rows)]))
    shown = read([file])
    assert [row["speed_ratio"] for row in shown] == [0.5, 0.6, 0.7], "the past that is given is no curve"
    draw(shown, tmp_path / "new" / "speed.png")
    draw([{**row, "speed_ratio": 1.0} for row in shown], tmp_path / "fast.png")
    slow, fast = (Image.open(tmp_path / name).tobytes() for name in ("new/speed.png", "fast.png"))
    assert slow != fast
    new = [{**row, "combinations": "unseen", "speed_ratio": 0.2} for row in shown]
    draw([*shown, *new], tmp_path / "both.png")
    alone, both = (
        {colour for _, colour in Image.open(tmp_path / name).getcolors(1 << 20)}
        for name in ("new/speed.png", "both.png")
    )
    assert quality_plot.COLOURS[1] in both - alone, "what is drawn of other combinations is another curve"
    with pytest.raises(ValueError, match="no row of speed"):
        draw([], tmp_path / "none.png")


def test_bounds_are_told_with_what_they_hold(monkeypatch):
    """Values beyond a bound are counted on its own side; how much passes is told of other truth too."""
    floor = Bound("x", "share", 0.25, True, torch.tensor([0.1, 0.2, 0.3, 0.4, torch.nan]))
    ceiling = Bound("x", "share", 0.35, False, floor.values)
    assert floor.figures()["beyond_share"] == 0.5 and ceiling.figures()["beyond_share"] == 0.25
    assert floor.figures()["one_in_100_share"] < 0.11 and ceiling.figures()["one_in_100_share"] > 0.39
    monkeypatch.setattr(choices, "load_pocket", lambda folder, dtype, dit_file: small_pocket())
    monkeypatch.setattr(quality_bounds, "through_vae", lambda pocket, pixels: pixels)
    rows = printed(["--bounds"])
    assert {row["case"] for row in rows if row["row"] == "bound"} >= {
        "smallest_radius",
        "strangers",
        "slowest",
    }
    assert all(row["beyond_share"] == 0 for row in rows if row["row"] == "bound")
    assert [(row["case"], row["strict_share"]) for row in rows[-2:]] == [("drawn_from", 1.0), ("others", 1.0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--streams", "0"], "--streams is 0; give 1 or more"),
        (["--seconds", "-3"], "--seconds is -3; give 1 or more"),
        (["--from-truth", "--pictures", "x"], "leave out --from-truth"),
        (["--rows", "nowhere.jsonl", "--plot", "x.png"], "no plot: .*nowhere.jsonl"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options, said, monkeypatch):
    monkeypatch.setattr(choices, "load_pocket", lambda folder, dtype, dit_file: small_pocket())
    with pytest.raises(SystemExit, match=said):
        printed(options)


def test_a_span_is_of_the_seconds_it_says():
    """All of the first ones, beginning with the stream's first picture; two before each mark, with a past."""
    pocket = small_pocket()
    prompts = world.sample_scenes(1, torch.Generator().manual_seed(0), band_share=0.0).prompts()
    found = dict(spans(pocket, prompts, 60, seed=3))
    state, made = pocket.begin(pocket.encode(prompts[0]), pocket.config(3)), []
    while state.start_frame < 60 * pocket.recipe.fps // TIME_STRIDE:
        latents, state = step(pocket.caller, state)
        made.append(latents.half().float())
    whole = torch.cat(made, 2)
    early = -(-40 // pocket.recipe.block_frames) * pocket.recipe.block_frames
    frames = pixels_of(pocket, whole[:, :, :early])
    assert len(frames) == 1 + TIME_STRIDE * (early - 1)
    assert torch.equal(found["10_seconds"].pixels_BFHWC[0], frames)
    late = pixels_of(pocket, whole[:, :, -SPAN_LATENTS - WARM_LATENTS :])[-TIME_STRIDE * SPAN_LATENTS :]
    assert torch.equal(found["60_seconds"].pixels_BFHWC[0], late)


def pixels_of(pocket, latents_BCTHW):
    """Pictures [F, H, W, 3] in levels."""
    with torch.inference_mode():
        pixels = pocket.vae.decode(latents_BCTHW)[0][0]
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)


@pytest.mark.parametrize("memory", ["off", "learned"])
def test_streams_are_judged_with_each_memory(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "load_pocket", lambda folder, dtype, dit_file: small_pocket())
    begun, begin = [], quality.Pocket.begin

    def watched(self, *given, **options):
        begun.append((self.recipe.preset, options["memory"].name))
        return begin(self, *given, **options)

    monkeypatch.setattr(quality.Pocket, "begin", watched)
    file = write_memory(tmp_path / "memory.safetensors")
    row = judged_row(["--streams=1", "--seconds=5", f"--memory={memory}", f"--memory-file={file}"])
    assert (row["case"], row["memory"]) == ("5_seconds", memory) and "adherence_share" in row
    assert begun == [("pocket_memory" if memory == "learned" else "pocket", memory)]


@pytest.mark.parametrize("cache", ["mla", "mla-int8"])
def test_the_converted_model_is_judged_from_its_own_latents(cache, monkeypatch):
    begun, begin = [], quality.Pocket.begin

    def watched(self, *given, **options):
        begun.append((type(self.dit).__name__, options["cache"].name))
        return begin(self, *given, **options)

    monkeypatch.setattr(quality.Pocket, "begin", watched)
    row = judged_row(["--streams=1", "--seconds=2", f"--cache={cache}"])
    assert (row["format"], row["memory"]) == (cache, "off") and begun == [("MlaModel", cache)]


def test_a_true_past_has_its_rows(monkeypatch):
    monkeypatch.setattr(choices, "load_pocket", lambda folder, dtype, dit_file: small_pocket())
    monkeypatch.setattr(quality_from_truth, "go_on", frozen)
    rows = printed(["--streams=1", "--seconds=2", "--from-truth", "--streams-only", "--combinations=unseen"])
    flown = [row for row in rows if row["case"].startswith("from_truth_")]
    assert flown and all(row["row"] == "speed" and row["speed_ratio"] == 0 for row in flown)
    assert {row["case"].removeprefix("from_truth_") for row in flown} <= set(FLIGHTS)
    rows = [row for row in rows if row not in flown]
    assert [(row["row"], row["case"]) for row in rows] == [
        ("speed", "true_past"),
        ("speed", "from_truth"),
        ("speed", "from_truth"),
        ("quality", "from_truth"),
    ]
    assert rows[0]["speed_ratio"] == pytest.approx(1, abs=0.03)
    assert [row["speed_ratio"] for row in rows[1:3]] == [0, 0]
    assert rows[3]["adherence_share"] == 1 and rows[3]["strict_share"] < 0.2
    assert all(row["combinations"] == "unseen" for row in rows)
    assert all(row["held_out"] == str(models.load_pocket().recipe.history) for row in rows)
    assert [(row["from_seconds"], row["to_seconds"]) for row in rows[:3]] == [(-3, 0), (0, 1.5), (1.5, 2)]


def test_a_flight_is_free_until_it_turns():
    """A turn between frames 20 and 21: quarter seconds that meet it, and those after it."""
    way = torch.cat([torch.arange(21.0), 20 - torch.arange(1.0, 20)])[:, None, None] * torch.tensor(
        [0.01, 0.0]
    )
    of = {name: there_EN[:, 0].nonzero()[:, 0].tolist() for name, there_EN in flights(way, 16, 9).items()}
    assert of["turning"] == list(range(16, 22)), (
        "frames 16 to 20 are the first quarter second that reaches it"
    )
    assert of["free"] == list(range(16)) and of["turned"] == list(range(22, 36))
    assert not flights(way, 16, 30)["turned"].any(), "a turn before the stream began counts"


def test_speeds_by_flight_are_those_of_the_world_for_the_worlds_own_pictures():
    scenes = world.sample_scenes(4, torch.Generator().manual_seed(3), band_share=0.0)
    pixels = world.render(scenes, world.simulate(scenes, GIVEN_FRAMES + 48), 64)
    streams = judged_streams(quality.Span(pixels, ()), scenes.prompts(), 16)
    rows = speeds_by_flight(scenes, streams, GIVEN_FRAMES, 16)
    assert [row["case"] for row in rows] == [f"from_truth_{flight}" for flight in FLIGHTS]
    assert all(row["speed_ratio"] == pytest.approx(1, abs=0.05) for row in rows)


def frozen(asked, prompts, past_BFHWC, seconds, seed):
    """The past, and its last picture for as long as a stream should be made."""
    last = past_BFHWC[:, -1:].expand(-1, seconds * asked.pocket.recipe.fps, -1, -1, -1)
    return torch.cat([past_BFHWC, last], 1)


def judged_row(asked):
    """The last row of verdicts."""
    return [row for row in printed(asked) if row["row"] == "quality"][-1]


def printed(asked):
    """The rows of a quick run with these options."""
    parser, out = argparse.ArgumentParser(), io.StringIO()
    quality.add_arguments(parser)
    chosen = argparse.Namespace(quick=True, **vars(parser.parse_args(asked)))
    assert quality.run(chosen, Rows("quality", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]

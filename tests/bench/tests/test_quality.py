"""The judge gives truth full marks, wrong prompts none, and finds a jump where blocks begin."""

import argparse
import io
import json

import pytest
import torch
from rivulet.model_patches.stream.step import step
from rivulet.model_patches.vae.wan import TIME_STRIDE
from rivulet.pocket import choices, world
from rivulet.tests.bench import quality
from rivulet.tests.bench.quality import SPAN_LATENTS, WARM_LATENTS, Span, judge, sheet, spans
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket, write_memory


def truth(frames: int = 9):
    scenes = world.sample_scenes(4, torch.Generator().manual_seed(0), band_share=0.0)
    return scenes.prompts(), world.render(scenes, world.simulate(scenes, frames), 64)


def test_truth_gets_full_marks_and_another_prompt_none():
    prompts, pixels = truth()
    figures, shares = judge(Span(pixels, ()), prompts)
    assert figures["adherence_share"] == 1 and shares == [1.0] * 4
    figures, shares = judge(Span(pixels, ()), prompts[1:] + prompts[:1])
    assert figures["adherence_share"] == 0 and figures["worst_stream_share"] == 0


def test_a_half_right_stream_counts_half():
    prompts, pixels = truth(8)
    pixels[0, 4:] = 0
    figures, shares = judge(Span(pixels, ()), prompts)
    assert shares[0] == 0.5 and figures["adherence_share"] == 0.875
    # one of four is 0.5, the others 1: a spread of 0.25, of a mean of four half of it
    assert figures["adherence_standard_error_share"] == pytest.approx(0.125)
    alone, _ = judge(Span(pixels[:1], (4,)), prompts[:1])
    assert "adherence_standard_error_share" not in alone and alone["first_stretch_share"] == 1


def test_a_jump_where_a_block_begins_shows():
    prompts, pixels = truth()
    smooth, _ = judge(Span(pixels, (5,)), prompts)
    pixels[:, 5:] = pixels[:, 5:].roll(16, 3)
    jumping, _ = judge(Span(pixels, (5,)), prompts)
    assert jumping["discontinuity_ratio"] > 3 * smooth["discontinuity_ratio"]
    elsewhere, _ = judge(Span(pixels, (3,)), prompts)
    assert elsewhere["discontinuity_ratio"] < 1


def test_a_sheet_has_a_row_a_stream(tmp_path):
    from PIL import Image

    _, pixels = truth()
    sheet(list(pixels), tmp_path / "new" / "sheet.png", columns=3, scale=1)
    assert Image.open(tmp_path / "new" / "sheet.png").size == (3 * 64, 4 * 64)


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
    parser, out = argparse.ArgumentParser(), io.StringIO()
    quality.add_arguments(parser)
    file = write_memory(tmp_path / "memory.safetensors")
    asked = ["--streams=1", "--seconds=5", f"--memory={memory}", f"--memory-file={file}"]
    chosen = argparse.Namespace(quick=True, **vars(parser.parse_args(asked)))
    assert quality.run(chosen, Rows("quality", True, out)) == 0
    *_, row = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (row["case"], row["memory"]) == ("5_seconds", memory) and "adherence_share" in row
    assert begun == [("pocket_memory" if memory == "learned" else "pocket", memory)]


@pytest.mark.parametrize("cache", ["mla", "mla-int8"])
def test_the_converted_model_is_judged_from_its_own_latents(cache, monkeypatch):
    begun, begin = [], quality.Pocket.begin

    def watched(self, *given, **options):
        begun.append((type(self.dit).__name__, options["cache"].name))
        return begin(self, *given, **options)

    monkeypatch.setattr(quality.Pocket, "begin", watched)
    parser, out = argparse.ArgumentParser(), io.StringIO()
    quality.add_arguments(parser)
    asked = ["--streams=1", "--seconds=2", f"--cache={cache}"]
    chosen = argparse.Namespace(quick=True, **vars(parser.parse_args(asked)))
    assert quality.run(chosen, Rows("quality", True, out)) == 0
    *_, row = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (row["format"], row["memory"]) == (cache, "off") and begun == [("MlaModel", cache)]

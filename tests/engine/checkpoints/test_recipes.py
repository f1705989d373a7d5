"""One record per published model: numbers that a stream can run with, and the record a file gets."""

import pytest
import torch
from rivulet.model_patches.arch.wan import WanConfig
from rivulet.model_patches.attention.positions import PRESETS, plan, why_not
from rivulet.model_patches.checkpoints._families import DENSE, VIDEO_MLA, Structure
from rivulet.model_patches.checkpoints.published import RECIPES
from rivulet.model_patches.checkpoints.recipes import caution, choose, find_recipe, recipes_in_name
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.timeline import MODES

WAN = {"1.3B": WanConfig(1536, 8960, 30), "14B": WanConfig(5120, 13824, 40), "small": WanConfig(128, 64, 1)}


def structure(size="1.3B", kind=DENSE, memory=False):
    return Structure(kind, WAN[size], memory, False)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_record_can_be_streamed_without_an_end(recipe):
    config = StreamConfig(
        Geometry(832, 480),
        recipe.preset,
        recipe.block_frames,
        recipe.sigmas,
        recipe.cfg,
        first_sigmas=recipe.first_sigmas,
        sampler=recipe.sampler,
    )
    assert why_not(config.positions, recipe.block_frames) is None
    assert recipe.positions in PRESETS and recipe.switch in MODES
    assert recipe.memory in ("off", "ema", "learned") and recipe.copy in ("generator", "generator_ema")
    assert recipe.source and recipe.file and find_recipe(recipe.name) is recipe


def test_the_published_numbers():
    """Steps after the shift (models' released configurations); sink and window as their caches count them."""
    shifted = (1.0, 0.9375, 5 / 6, 0.625)
    others = {
        "causvid": (1.0, 0.757, 0.522),
        "streamdiffusion_v2": (1.0, 0.75, 0.5, 0.25),
        "rolling_forcing": (1.0, 20 / 21, 15 / 17, 10 / 13, 5 / 9),
        "causal_forcing_2step": (1.0, 5 / 6),
        "causal_forcing_1step": (1.0,),
    }
    for recipe in RECIPES:
        assert recipe.sigmas == pytest.approx(others.get(recipe.name, shifted), abs=1e-12), recipe.name
        first = shifted if recipe.name in ("causal_forcing_2step", "causal_forcing_1step") else ()
        assert recipe.first_sigmas == pytest.approx(first, abs=1e-12), recipe.name
    capacities = {
        recipe.name: (recipe.window.sink_frames, recipe.window.capacity_frames) for recipe in RECIPES
    }
    assert capacities["longlive"] == capacities["echo_infinity"] == (3, 12)
    assert capacities["reward_forcing"] == (3, 9) and capacities["videomla"] == (1, 7)
    assert capacities["infinity_rope"] == capacities["self_forcing"] == (1, 6)
    assert capacities["rolling_forcing"] == capacities["causal_forcing_longvideo"] == (3, 24)
    together = [recipe.name for recipe in RECIPES if recipe.sampler != "block"]
    assert together == ["rolling_forcing", "causal_forcing_longvideo"]
    assert capacities["self_gradient_forcing"] == (3, 12)
    assert capacities["self_gradient_forcing_framewise"] == (4, 21)
    assert [recipe.name for recipe in RECIPES if recipe.block_frames != 3] == [
        "causal_forcing_framewise",
        "causal_forcing_2step",
        "causal_forcing_1step",
        "self_gradient_forcing_framewise",
    ]
    memories = {recipe.name: recipe.memory for recipe in RECIPES if recipe.memory != "off"}
    assert memories == {"reward_forcing": "ema", "echo_infinity": "learned"}


@pytest.mark.parametrize(
    ("preset", "block", "start", "window"),
    [
        ("self_gradient", 3, 0, ()),
        ("self_gradient", 3, 9, range(3, 12)),
        ("self_gradient", 3, 15, range(9, 18)),
        ("self_gradient", 3, 18, range(12, 21)),
        ("self_gradient", 3, 900, range(12, 21)),
        ("self_gradient_framewise", 1, 2, ()),
        ("self_gradient_framewise", 1, 20, range(4, 21)),
        ("self_gradient_framewise", 1, 900, range(4, 21)),
    ],
)
def test_ids_of_self_gradient_forcing(preset, block, start, window):
    """Self Gradient Forcing pins its window to the top of 21 trained frames and its sink to 0 (top_aligned in
    its causal_model.py)."""
    positions = plan(PRESETS[preset], start, block)
    assert positions.window == tuple(window)
    assert positions.sink == tuple(range(min(PRESETS[preset].sink_frames, start + block)))
    last = window[-1] if window else start + block - 1
    assert positions.query == tuple(range(last + 1 - block, last + 1))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("self_forcing_dmd.pt", "self_forcing"),
        ("Wan2.1-Self-Forcing/model.safetensors", "self_forcing"),
        ("chunkwise/causal_forcing.pt", "causal_forcing"),
        ("Causal-Forcing/framewise/causal_forcing.pt", "causal_forcing_framewise"),
        ("causal-forcing++/framewise-2step.pt", "causal_forcing_2step"),
        ("causal-forcing++/framewise-1step.pt", "causal_forcing_1step"),
        ("causal_forcing_framewise_2_steps_bf16.safetensors", "causal_forcing_2step"),
        ("Causal-Forcing-pp one-step.pt", "causal_forcing_1step"),
        ("framewise/wan2.1_step_1000.pt", "causal_forcing_framewise"),
        ("causal_forcing_framewise_12step.pt", "causal_forcing_framewise"),
        ("Causal-Forcing/chunkwise/longvideo.pt", "causal_forcing_longvideo"),
        ("longvideo.pt", "causal_forcing_longvideo"),
        ("checkpoints/rolling_forcing_dmd.pt", "rolling_forcing"),
        ("longlive_for_long_video.pt", "longlive"),
        ("Self_Gradient_Forcing/chunkwise/ar/model.pt", "self_gradient_forcing"),
        ("framewise/ar/model.pt", "self_gradient_forcing_framewise"),
        ("sgf_framewise.safetensors", "self_gradient_forcing_framewise"),
        ("chunkwise/ar_diffusion.pt", "causal_forcing"),
        ("wan_causal_dmd_v2v/model.pt", "streamdiffusion_v2"),
        ("StreamDiffusionV2-1.3B.safetensors", "streamdiffusion_v2"),
        ("LongLive-1.3B/models/longlive_base.pt", "longlive"),
        ("infinity_rope_on_self_forcing.pt", "infinity_rope"),
        ("Reward-Forcing-T2V-1.3B/rewardforcing.pt", "reward_forcing"),
        ("CausVid/autoregressive_checkpoint/model.pt", "causvid"),
        ("wan_causvid_1.3b.safetensors", "causvid"),
    ],
)
def test_the_name_breaks_ties_and_says_so(file, name):
    choice = choose(structure(), file)
    assert choice.recipe.name == name and choice.by_name
    first = "Causal-Forcing; Causal" if name == "self_forcing" else "Self-Forcing; Causal-Forcing; Causal"
    assert choice.why.startswith(
        f"The file's name says so. Its keys and shapes alone would also be those of: {first}"
    )


def test_a_report_tells_the_levels_of_a_first_block_where_they_are_others():
    two, four = (str(find_recipe(f"causal_forcing_{name}")) for name in ("2step", "framewise"))
    levels = "2 steps (first block 4) at 1000, 833.33 (a scene's first block: 1000, 937.5, 833.33, 625); cfg"
    assert levels in two and "first block" not in four


def test_a_name_never_stands_against_keys_and_shapes():
    for found, wanted in (
        (structure("14B"), "krea_realtime"),  # a guess, as no name of a 14B is in it
        (structure(kind=VIDEO_MLA), "videomla"),
        (structure(memory=True), "echo_infinity"),
    ):
        choice = choose(found, "longlive_base.pt")
        assert choice.recipe.name == wanted and not choice.by_name
    assert choose(structure(), "krea-videomla-longlive.pt").recipe.name == "longlive"


def test_a_name_that_says_nothing_is_told_to_be_a_guess():
    for size in ("1.3B", "small"):
        choice = choose(structure(size), "model.pt")
        assert choice.recipe.name == "self_forcing" and choice.why.startswith("A guess")
        assert "CausVid" in choice.why and "choose its recipe" in choice.why
        others = choice.why.split(": ")[-1].rstrip(".").split("; ")
        assert len(others) == len(set(others)) and "Self-Forcing" not in others  # which is what was guessed


def test_a_14b_is_krea_realtime_only_by_name():
    named, guess = (choose(structure("14B"), f"{name}-14b.safetensors") for name in ("krea", "lightx2v"))
    assert named.by_name and named.why.endswith("would also be those of: Wan 2.1 itself.")
    assert guess.recipe is named.recipe and guess.why.startswith("A guess")


def test_echo_infinity_without_its_encoder_is_told():
    choice = choose(structure(), "checkpoints/echo_infinity.pt")
    assert choice.recipe.name == "echo_infinity" and "no memory encoder in it" in choice.why


def test_videomla_of_six_frames_names_the_other_count():
    """The lineage's configuration counts the sink inside the local attention, the paper beside it."""
    found = structure(kind=VIDEO_MLA)
    for file in ("VideoMLA/stage3_la6_sink1/model.pt", "stage3_LA6.safetensors"):
        assert "preset videomla_6 is the alternative" in choose(found, file).why
    assert "videomla_6" not in choose(found, "stage3/model.pt").why
    assert find_recipe("videomla").copy == "generator_ema"


def test_echo_infinity_is_where_its_team_publishes_it():
    assert find_recipe("echo_infinity").file == "Echo-Team/Echo-Infinity: checkpoints/echo_infinity.pt"


def test_a_size_that_nobody_published_is_refused():
    with pytest.raises(ValueError, match=r"14B.*VideoMLA's attention, and no model of that kind and size"):
        choose(structure("14B", VIDEO_MLA), "model.pt")
    with pytest.raises(ValueError, match=r"no record is called 'x'; there are self_forcing, causal_forcing"):
        find_recipe("x")


def test_records_are_found_by_the_longest_words():
    assert [recipe.name for recipe in recipes_in_name("echo_infinity_on_longlive.pt")] == [
        "echo_infinity",
        "longlive",
    ]
    assert recipes_in_name("wan2.1_t2v_1.3B_bf16.safetensors") == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "expert of Wan 2.2 14B"),
        ("chunkwise/ar_diffusion.pt", "before distillation"),
        ("checkpoints/ode_init.pt", "middle of their distillation"),
        ("framewise/causal_cd.pt", "middle of their distillation"),
        ("init/chunkwise/causal_ode.safetensors", "middle of their distillation"),
        ("bidirectional_checkpoint2/model.pt", "bidirectional model"),
        ("wan2.1_t2v_1.3B_bf16.safetensors", "Wan 2.1 itself"),
        ("stage1/model.pt", "before distillation"),
    ],
)
def test_names_of_weights_that_are_no_streams_are_cautioned(file, words):
    assert words in caution(file)
    assert caution("self_forcing_dmd.pt") == caution("Wan2.1-T2V-14B/krea.safetensors") == ""


def test_the_page_of_models_tells_of_every_record(root):
    rows = {
        row.split(" | ")[0].removeprefix("| "): row
        for row in (root / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
        if row.startswith("| ")
    }
    for recipe in RECIPES:
        window = f"{recipe.window.sink_frames} + {recipe.window.window_frames}"
        steps = f"{recipe.block_frames}, {recipe.steps}, {window}"
        for words in (
            recipe.file,
            f"| {round(recipe.gigabytes, 2):g} |",
            f"| {steps} |",
            f"| {recipe.memory} |",
        ):
            assert words in rows[recipe.title], (recipe.name, words)


def test_a_record_tells_its_numbers():
    told = str(find_recipe("self_forcing"))
    for words in (
        "4 steps at 1000, 937.5, 833.33, 625",
        "positions infinity_rope (published: self_forcing, for 21 frames)",
        "blocks of 3 latent frames",
        "arXiv 2506.08009",
    ):
        assert words in told
    assert torch.tensor(find_recipe("causvid").sigmas).diff().max() < 0

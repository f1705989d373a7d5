"""Which memory goes with which positions and weights: every combination of the two trainings."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.memory.coupling import LONG, SHORT, training_of, why_not
from rivulet.model_patches.memory.encoder import EncoderConfig, MemoryEncoder

CONFIG = EncoderConfig(8, 2, 3, 2, 2)
RIGHT = {("echo_std", True, False), ("echo", False, True)}  # preset, keys normed, LoRA
WORDS = {
    ("echo_std", True, True): "belongs to the base weights alone, but a LoRA for long videos is on the model",
    (
        "echo_std",
        False,
        False,
    ): "trained on long videos with bounded positions, preset echo_std has growing",
    (
        "echo_std",
        False,
        True,
    ): "take preset echo or pocket_memory, or for clips of 5 seconds the memory in the base",
    ("echo", True, False): "growing positions, preset echo has bounded ones; take preset echo_std, or for",
    ("echo", True, True): "trained on clips of 5 seconds",
    (
        "echo",
        False,
        False,
    ): "trained together with a LoRA, which is not on the model; load the file that holds",
}


def encoder(normed, **sizes):
    with torch.device("meta"):
        return MemoryEncoder(replace(CONFIG, normalize_keys=normed, **sizes))


@pytest.mark.parametrize(
    ("preset", "normed", "lora"), list(product(("echo_std", "echo"), (True, False), (True, False)))
)
def test_every_mixture_of_the_two_trainings_is_refused_in_words(preset, normed, lora):
    sentence = why_not(encoder(normed), PRESETS[preset], lora)
    if (preset, normed, lora) in RIGHT:
        assert sentence is None
    else:
        assert sentence.startswith("Memory: ") and WORDS[preset, normed, lora] in sentence


def test_positions_without_a_memory_name_those_that_have_one():
    assert "preset pocket has no ids for a memory; take preset echo or pocket_memory." in why_not(
        encoder(False), PRESETS["pocket"], True
    )
    assert "take preset echo_std." in why_not(encoder(True), PRESETS["infinity_rope"], False)
    five = why_not(encoder(False, frames=5), PRESETS["pocket"], True)
    assert "take preset with ids for 5 latent frames of memory." in five


def test_a_memory_of_other_frames_than_the_preset_has_places_for_is_refused():
    sentence = why_not(encoder(False, frames=5), PRESETS["echo"], True)
    assert "stands for 5 latent frames, preset echo has ids for 3" in sentence


def test_positions_of_ones_own_are_judged_by_what_they_do():
    own = replace(PRESETS["pocket"], name="own", memory_frames=3, last_id=14, trained_frames=15)
    assert why_not(encoder(False), own, True) is None
    assert "preset own has bounded ones" in why_not(encoder(True), own, False)


def test_what_else_goes_with_a_training_is_told_from_the_encoder():
    """The published presets: keys of the short one are cached after RoPE, and it never begins again."""
    assert training_of(encoder(True).config) is SHORT and SHORT.rotated_keys and not SHORT.recache
    assert training_of(encoder(False).config) is LONG and not LONG.rotated_keys and LONG.recache

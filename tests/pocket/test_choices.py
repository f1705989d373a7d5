"""What a pocket stream keeps and remembers with: as told, and what holds where nothing is told."""

import shutil

import pytest
import torch
from rivulet.model_patches.arch.fingerprint import sketch
from rivulet.model_patches.cache.formats import FORMATS
from rivulet.model_patches.memory.policies import POLICIES
from rivulet.pocket.choices import choose
from rivulet.pocket.defaults import DEFAULT, PLAIN
from rivulet.pocket.models import BASIS_FILE, DIT_FILE, MEMORY_FILE, VAE_FILE, WEIGHTS


@pytest.fixture
def folder(tmp_path):
    """Returns what makes a folder of weights: with the model alone, and the files that are named."""

    def copy(*files):
        for file in (DIT_FILE, VAE_FILE, *files):
            shutil.copy(WEIGHTS / file, tmp_path / file)
        return tmp_path

    return copy


def test_the_built_in_model_runs_with_the_small_cache_and_the_memory():
    chosen = choose()
    assert chosen.names == DEFAULT == ("latent", "learned")
    assert chosen.pocket.recipe.preset == "pocket_memory" and chosen.memory.cost.tokens
    plain = choose(*PLAIN).pocket
    assert not torch.equal(chosen.pocket.dit.blocks[0].ffn[0].weight, plain.dit.blocks[0].ffn[0].weight)


def test_the_built_in_cache_is_of_the_model_with_the_memory():
    """As ComfyUI's nodes check it, where the memory's LoRA is an adapter like any other: no warning."""
    chosen = choose()
    width = chosen.pocket.dit.head.modulation.shape[-1]
    weights = sketch(chosen.pocket.dit, width, torch.float32, torch.device("cpu"))
    assert chosen.cache.check_weights(weights, width, adapted=True) == ""


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ((), PLAIN),
        ((BASIS_FILE,), (DEFAULT.cache, PLAIN.memory)),
        ((MEMORY_FILE,), (PLAIN.cache, DEFAULT.memory)),
        ((BASIS_FILE, MEMORY_FILE), DEFAULT),
    ],
)
def test_weights_that_lack_a_file_run_plain_in_its_place(folder, files, names):
    assert choose(folder=folder(*files)).names == names


def test_one_that_is_told_leaves_the_other_as_it_is():
    assert choose(cache="int8").names == ("int8", DEFAULT.memory)
    assert choose(memory="off").names == (DEFAULT.cache, "off")
    assert choose(cache="mla").names == ("mla", DEFAULT.memory)


def test_a_memory_that_the_small_cache_would_blur_has_the_plain_one():
    """It changes the sink by a thousandth at a time."""
    assert choose(memory="ema").names == (PLAIN.cache, "ema")
    assert choose(cache="latent", memory="ema").names == ("latent", "ema"), "refused where the stream begins"


def test_what_is_told_and_cannot_be_is_refused(folder):
    path = folder()
    with pytest.raises(FileNotFoundError, match=BASIS_FILE):
        choose(cache=DEFAULT.cache, folder=path)
    with pytest.raises(ValueError, match=f"none at .*{MEMORY_FILE}"):
        choose(memory=DEFAULT.memory, folder=path)


def test_the_names_are_in_the_tables():
    assert {DEFAULT.cache, PLAIN.cache} <= set(FORMATS) and {DEFAULT.memory, PLAIN.memory} <= set(POLICIES)

"""What a take cannot go on with is told in the units of whoever set it."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream.config import StreamConfig
from rivulet.model_patches.stream.differences import contract_differences

MADE = StreamConfig(Geometry(832, 480), "pocket", 3, seed=5)


@pytest.mark.parametrize("may", [{"seed": 6}, {"sigmas": (1.0, 0.5)}, {"first_sigmas": (1.0,)}], ids=str)
def test_what_may_differ_is_no_difference(may):
    assert contract_differences(MADE, replace(MADE, **may)) == []
    guided = replace(MADE, cfg=3.0)
    assert contract_differences(guided, replace(guided, cfg=5.0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"geometry": Geometry(640, 480)}, "832x480 pixels, not 640x480 pixels"),
        ({"geometry": Geometry(832, 480, latent_channels=48)}, "16 latent channels, not 48 latent channels"),
        ({"preset": "infinity_rope"}, "preset pocket, not preset infinity_rope"),
        ({"block_frames": 1}, "3 latent frames a block, not 1 latent frames a block"),
        ({"cfg": 3.5}, "no guidance (cfg 1), not guidance (cfg 3.5)"),
        (
            {"dtype": torch.bfloat16},
            "a model that computes in float32, not a model that computes in bfloat16",
        ),
        ({"geometry": Geometry(832, 480, patch=4)}, "a model of another kind"),
        ({"fresh_noise": False}, "a model of another kind"),
    ],
    ids=["size", "channels", "preset", "block", "guidance", "dtype", "patch", "noise"],
)
def test_a_difference_is_told_without_a_word_of_python(change, words):
    (said,) = contract_differences(MADE, replace(MADE, **change))
    assert said.startswith(words) and not set(said) & set("_={}[]<>'") - {"_"} and "Geometry" not in said


def test_every_difference_is_told():
    said = contract_differences(MADE, replace(MADE, geometry=Geometry(64, 48), block_frames=1))
    assert len(said) == 2

"""A basis that cannot be used says why."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.cache.basis import Basis, LayerBasis, LayerPlan


def layer(width=12, rank=8):
    torch.manual_seed(rank)
    return LayerBasis(torch.randn(width), torch.randn(width, rank), torch.randn(rank, width))


def basis(**changes):
    return replace(Basis((layer(), None), (LayerPlan("latent", 8, 4), LayerPlan("int8")), group=4), **changes)


def test_the_fingerprint_changes_with_every_part():
    one = layer()
    first = basis(layers=(one, None))
    assert first.fingerprint == basis(layers=(replace(one, mu_C=one.mu_C.clone()), None)).fingerprint
    others = (
        basis(layers=(replace(one, mu_C=one.mu_C + 1e-6), None)),
        basis(layers=(replace(one, up_RC=one.up_RC.flip(0)), None)),
        basis(layers=(one, None), plan=(LayerPlan("latent", 8, 8), LayerPlan("int8"))),
        basis(layers=(one, None), plan=(LayerPlan("latent", 8, 4), LayerPlan("dense"))),
        basis(layers=(one, None), group=2),
    )
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    # where it came from is not what it is
    assert basis(layers=(one, None), provenance={"prompts": 8}).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"plan": (LayerPlan("int8"),)},
            r"2 layers have a basis and 1 a plan; both need one record per layer",
        ),
        ({"group": 3}, "even number of coordinates, got 3"),
        ({"layers": (None, None)}, "layer 0 is planned as latents of rank 8 and has no basis; calibrate it"),
        (
            {"plan": (LayerPlan("latent", 16, 4), LayerPlan("int8"))},
            "planned with rank 16, its basis has 8 directions of a width of 12; take rank 8 or less",
        ),
        (
            {"plan": (LayerPlan("latent", 6, 3), LayerPlan("int8"))},
            "rank 6 with 3 wide, both must be multiples of the group, 4; nearest is rank 8 with 4 wide",
        ),
        ({"layers": (replace(layer(), mu_C=torch.zeros(5)), None)}, r"needs mu \[C\], down \[C, R\]"),
        ({"layers": (replace(layer(), mu_C=torch.full((12,), torch.nan)), None)}, "layer 0 holds NaN"),
    ],
)
def test_a_basis_that_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        basis(**changes)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("int5",), "there is no kind 'int5'; choose one of latent, int8, dense"),
        (("latent", 0, 0), "a rank of at least 1"),
        (("latent", 8, 9), "got rank 8, wide 9"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        LayerPlan(*given)

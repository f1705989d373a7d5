"""Blocks that are denoised together, call by call beside the released code that denoises them so."""

import functools

import pytest
import torch
from rivulet.tests.peers.families import DTYPES, SHRINK, apart
from rivulet.tests.peers.rolling import PEERS, levels_of, made_by, mine, theirs


@pytest.fixture(scope="module")
def pair(checkout, tmp_path_factory):
    """Returns a function that gives (theirs, ours) of a peer by dtype."""

    @functools.cache
    def of(peer):
        folder = tmp_path_factory.mktemp("rolling")
        made = {dtype: made_by(peer, checkout(peer.name), folder / str(dtype), dtype) for dtype in DTYPES}
        levels = levels_of(made[torch.float64], peer.calls_of(0))
        return (
            {dtype: theirs(made[dtype], peer.calls_of(0)) for dtype in DTYPES},
            {dtype: mine(peer, folder, dtype, levels) for dtype in DTYPES},
            levels,
        )

    return of


def worst(side, exact, what):
    got, true = getattr(side, what), getattr(exact, what)
    if what == "blocks":
        return apart(got, true)
    assert [x.shape for x in got] == [x.shape for x in true]
    return max(apart(x, y) for x, y in zip(got, true, strict=True))


@pytest.mark.parametrize("peer", PEERS, ids=lambda each: each.name)
@pytest.mark.parametrize("what", ["inputs", "flows", "blocks"])
def test_every_joint_call_is_that_of_the_released_code(pair, peer, what):
    their, our, _ = pair(peer)
    exact = their[torch.float64]
    found = {
        dtype: (worst(our[dtype], exact, what), worst(their[dtype], exact, what))
        for dtype in (torch.float32, torch.bfloat16)
    }
    found[torch.float64] = worst(our[torch.float64], exact, what)
    assert found[torch.float64] <= 8 * SHRINK * found[torch.float32][1]
    for dtype in (torch.float32, torch.bfloat16):
        assert found[dtype][0] <= 2 * found[dtype][1], dtype

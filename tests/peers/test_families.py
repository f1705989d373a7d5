"""Every call of the engine beside the same call of a family's released inference code, block after block."""

import pytest
import torch
from rivulet.tests.peers import ours, peer
from rivulet.tests.peers.peer import Peer

PEERS = (
    Peer("self_forcing", "self_forcing", 7, positions="self_forcing"),
)
SHRINK = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


def levels_of(recipe):
    return ours.Levels(recipe.sigmas, tuple(1000 * sigma for sigma in recipe.sigmas))


@pytest.fixture(scope="module", params=PEERS, ids=lambda each: f"{each.name}, {each.preset}")
def runs(request, checkout, tmp_path_factory):
    """Returns the peer, and by dtype (what the released code made, what the engine made)."""
    each, made = request.param, {}
    for dtype in (torch.float64, torch.float32):
        folder = tmp_path_factory.mktemp(each.name)
        levels = levels_of(each.recipe)
        theirs = peer.run(each, checkout(each.name), folder / "theirs", dtype, len(levels.sigmas))
        made[dtype] = theirs, ours.run(each, folder, dtype, levels, each.preset)
    return each, made


def pairs(theirs, made):
    """(what, theirs, ours) of every call that makes a block and of every block."""
    calls = len(made.x) // len(made.blocks)
    making = [index for index in range(len(theirs["x"])) if index % (calls + 1) < calls]
    yield "latents", theirs["x"][making], made.x
    yield "flow", theirs["flow"][making], made.flow
    yield "block", theirs["x0"][making][calls - 1 :: calls], torch.stack(made.blocks)


def test_every_call_is_that_of_the_released_code(runs):
    each, made = runs
    exact = made[torch.float64]
    for (what, theirs64, ours64), (_, theirs32, ours32) in zip(
        pairs(*exact), pairs(*made[torch.float32]), strict=True
    ):
        assert theirs64.dtype == ours64.dtype == torch.float64 and theirs32.dtype == ours32.dtype == torch.float32
        assert theirs64.std() > 0.5, what
        own = (theirs32 - theirs64).abs().max()
        print(each.name, what, "f64", (ours64 - theirs64).abs().max().item(), "ours32", (ours32 - theirs64).abs().max().item(), "theirs32", own.item(), "max", theirs64.abs().max().item())
        # the same arithmetic: what is left is rounding, and shrinks with it
        assert (ours64 - theirs64).abs().max() <= 8 * SHRINK * own, what
        assert (ours32 - theirs64).abs().max() <= 2 * own, what

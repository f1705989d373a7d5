"""Every call of the engine beside the same call of a family's released inference code, block after block."""

import functools

import pytest
import torch
from rivulet.tests.peers import ours
from rivulet.tests.peers.families import DTYPES, PEERS, ROUNDING, SHRINK, apart, compared
from rivulet.tests.peers.peer import GEOMETRY, SIZES

BOUNDED = [
    peer for peer in PEERS if peer.positions and not (peer.switch_block or peer.memory)
]  # by their recipe, but not by their code


def options_of(peer):
    """Returns what tells it from the others with its recipe."""
    return f"{peer.recipe_name}, {dict(peer.memory_options)}"


each_peer = pytest.mark.parametrize(
    "peer",
    PEERS,
    ids=lambda each: f"{each.recipe_name}, {each.preset}, {len(each.words)}{dict(each.memory_options) or ''}",
)


@pytest.fixture(scope="module")
def pair(checkout, tmp_path_factory):
    """Returns a function that runs a peer and the engine, once: what both made."""

    @functools.cache
    def of(peer):
        return compared(peer, checkout(peer.name), tmp_path_factory.mktemp(peer.name))

    return of


@each_peer
def test_every_call_is_that_of_the_released_code(pair, peer):
    both = pair(peer)
    for what in ("latents", "flow", "block"):
        assert getattr(both.theirs[torch.float64], what).std() > 0.5
        errors = {dtype: both.errors(what, dtype) for dtype in DTYPES}
        # the same arithmetic: what is left is rounding, and shrinks with it
        assert errors[torch.float64][0] <= 8 * SHRINK * errors[torch.float32][1], what
        for dtype in (torch.float32, torch.bfloat16):
            mine, theirs = errors[dtype]
            assert mine <= 2 * theirs, f"{what} in {dtype}"


@each_peer
def test_the_recipes_levels_are_those_of_the_released_scheduler(pair, peer):
    recipe, released = ours.recipes_levels(peer.recipe), pair(peer).released
    if not peer.own_levels:
        assert (released.first is None) == (recipe.first is None) == (not peer.recipe.first_sigmas)
        pairs = [(released, recipe), *([(released.first, recipe.first)] if recipe.first else [])]
        for theirs, ours_ in pairs:
            assert theirs.timesteps == pytest.approx(ours_.timesteps, rel=4 * ROUNDING)
            assert theirs.sigmas == pytest.approx(ours_.sigmas, rel=4 * ROUNDING)


def test_causvids_scheduler_rounds_the_recipes_levels(pair):
    (peer,) = (each for each in PEERS if each.name == "causvid")
    recipe, released = ours.recipes_levels(peer.recipe), pair(peer).released
    assert released.timesteps == pytest.approx(recipe.timesteps, rel=4 * ROUNDING)
    assert released.sigmas == pytest.approx((1, 28 / 37, 12 / 23), rel=4 * ROUNDING)
    assert recipe.sigmas == pytest.approx(released.sigmas, abs=3e-4)


def test_kreas_server_makes_one_call_more_than_the_recipe(pair):
    (peer,) = (each for each in PEERS if each.name == "krea")
    recipe, released = ours.recipes_levels(peer.recipe), pair(peer).released
    assert released.timesteps == pytest.approx((*recipe.timesteps, 0), rel=4 * ROUNDING)
    assert released.sigmas == pytest.approx((*recipe.sigmas, 5 / 1004), rel=4 * ROUNDING)


def test_a_sink_that_takes_in_what_leaves_is_the_released_codes(pair):
    """Keys before RoPE and values of every layer; theirs takes in when a block begins, ours when one ends."""
    (peer,) = (each for each in PEERS if each.policy == "ema")
    both, tokens = pair(peer), peer.recipe.window.sink_frames * GEOMETRY.frame_tokens
    theirs64, theirs32 = (both.cache[dtype][:, :, :, :tokens] for dtype in (torch.float64, torch.float32))
    mine = both.runs[torch.float64].sink
    assert mine.shape == theirs64.shape == (SIZES.num_layers, 2, 1, tokens, SIZES.num_heads, 128)
    assert apart(mine, theirs64) <= 8 * SHRINK * apart(theirs32, theirs64)


@pytest.mark.parametrize("peer", [each for each in PEERS if each.policy == "memrope"], ids=options_of)
def test_averages_of_what_left_are_the_released_codes(pair, peer):
    """Of every layer, before the last block: theirs lie between the sink and the newest frames."""
    both, tokens = pair(peer), slice(3 * GEOMETRY.frame_tokens, 5 * GEOMETRY.frame_tokens)
    theirs64, theirs32 = (both.cache[dtype][:, :, :, tokens] for dtype in (torch.float64, torch.float32))
    mine = both.runs[torch.float64].memory
    assert mine.shape == theirs64.shape and theirs64.std() > 0.05
    assert apart(mine, theirs64) <= 8 * SHRINK * apart(theirs32, theirs64)


@pytest.mark.parametrize(
    "peer", [each for each in PEERS if each.positions and not each.memory], ids=lambda each: each.recipe_name
)
def test_a_recipe_without_an_end_is_the_released_code_until_its_window_is_full(pair, tmp_path, peer):
    """Positions and window that bound a stream differ from there on, as they must."""
    both, block_frames = pair(peer), peer.recipe.block_frames
    made = ours.run(peer, tmp_path, torch.float64, _levels(both), peer.recipe.preset).blocks
    theirs = both.theirs[torch.float64].block
    same = peer.recipe.window.capacity_frames // block_frames
    assert 0 < same < peer.blocks
    assert (
        apart(torch.stack(made[:same]), theirs[:same]) <= 8 * SHRINK * both.errors("block", torch.float32)[1]
    )
    assert apart(made[same], theirs[same]) > 1e-3


def _levels(both):
    return both.released if both.peer.own_levels else ours.recipes_levels(both.peer.recipe)

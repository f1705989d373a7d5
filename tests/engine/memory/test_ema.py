"""The sink that takes in what leaves the window."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.attention.positions import PRESETS
from rivulet.model_patches.cache.int8 import Int8Format
from rivulet.model_patches.cache.shapes import Exact
from rivulet.model_patches.memory.ema import EmaSink
from rivulet.model_patches.stream.step import init, step

from ..formats import GROUP, LOSSY
from .memories import EMA


@pytest.fixture
def rewarded(config):
    """Returns a contract with Reward Forcing's positions."""
    return replace(config, preset=PRESETS["reward_forcing"])


def watched(caller, state, blocks):
    """(sink, what each block's frames were) of all layers, after every block."""
    sinks, own = [], []
    for block in range(blocks):
        _, state = step(caller, state)
        frames = tuple(range(3 * block, 3 * block + 3))
        sinks.append([torch.stack(state.cache.keys_values(i, (0, 1, 2))) for i in range(3)])
        own.append([torch.stack(state.cache.keys_values(i, frames)) for i in range(3)])
    return sinks, own, state


def test_evicted_frames_are_folded_into_the_sink(caller, make_text, rewarded):
    sinks, own, _ = watched(caller, init(caller, (make_text(),), rewarded, memory=EMA), 6)
    for layer in range(3):
        expected = own[0][layer].double()
        for block in range(6):
            if block >= 2:  # block 2 (frames 6..8) leaves no room for 3..5
                expected = 0.9 * expected + 0.1 * own[block - 1][layer].double()
            # a lerp rounds three times a step
            limit = 4 * block * torch.finfo(torch.float32).eps * expected.abs().max()
            assert (sinks[block][layer] - expected).abs().max() <= limit


def test_the_rest_of_the_stream_sees_it(caller, make_text, rewarded):
    plain, folded = (
        init(caller, (make_text(),), rewarded),
        init(caller, (make_text(),), rewarded, memory=EMA),
    )
    same = []
    for _ in range(5):
        a, plain = step(caller, plain)
        b, folded = step(caller, folded)
        same.append(torch.equal(a, b))
    assert same == [True, True, True, False, False]


def test_single_frames_go_round_the_sink(caller, make_text, rewarded):
    config = replace(rewarded, block_frames=1)
    state = init(caller, (make_text(),), config, memory=EMA)
    before = None
    for start in range(12):
        if start >= 9:
            before = [torch.stack(state.cache.keys_values(1, (f,))) for f in range(3)]
            left = torch.stack(state.cache.keys_values(1, (start - 5,)))
        _, state = step(caller, state)
        if before is not None:
            after = [torch.stack(state.cache.keys_values(1, (f,))) for f in range(3)]
            taken = (start - 5) % 3
            assert [not torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [
                f == taken for f in range(3)
            ]
            torch.testing.assert_close(after[taken], 0.9 * before[taken] + 0.1 * left)


@pytest.mark.parametrize("name", LOSSY)
def test_a_rounded_sink_is_refused_before_the_first_block(caller, make_text, rewarded, name):
    with pytest.raises(ValueError, match=r"of its 3 frames rounded; keep 3 sink frames exact"):
        init(caller, (make_text(),), rewarded, memory=EMA, cache=LOSSY[name])


def test_an_exact_sink_in_a_rounded_cache_is_folded_alike(caller, make_text, rewarded):
    made = Int8Format(GROUP, Exact(sink=3))
    sinks, own, _ = watched(caller, init(caller, (make_text(),), rewarded, memory=EMA, cache=made), 5)
    for block in range(2, 5):
        expected = torch.stack(
            [0.9 * a + 0.1 * b for a, b in zip(sinks[block - 1], own[block - 1], strict=True)]
        )
        # the evicted frames were read exactly when they were new, rounded when they left
        step_size = expected.abs().max() / 127
        assert (torch.stack(sinks[block]) - expected).abs().max() <= 0.1 * step_size + 1e-6


@pytest.mark.parametrize("keep", [0.0, 1.0, -1, float("nan"), 2])
def test_a_share_is_between_nothing_and_all(keep):
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        EmaSink(keep=keep)


def test_positions_without_such_a_sink_are_refused(caller, make_text, config):
    with pytest.raises(ValueError, match="infinity_rope has 1 and a window"):
        init(caller, (make_text(),), config, memory=EMA)

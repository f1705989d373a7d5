"""Frames of the first window, forwards and backwards, in the places of those that left."""

from dataclasses import replace

import pytest
import torch
from rivulet.model_patches.attention.positions import Positions, plan
from rivulet.model_patches.stream.snapshot import load, save
from rivulet.model_patches.stream.step import init, step
from rivulet.tests.bench.field_methods import find_method
from rivulet.tests.bench.rolling_sink import RollingSink, positions, turned
from rivulet.tests.bench.small_pocket import small_pocket


@pytest.fixture
def stream():
    """Returns (caller, prompt, contract, memory) of a small pocket in a window of 12."""
    pocket = small_pocket()
    config = replace(pocket.config(), preset=positions(12))
    policy = RollingSink(6, config.geometry.frame_tokens)
    return pocket.caller, pocket.prompt(pocket.no_text(), config), config, policy


def test_places_run_through_the_frames_forwards_and_backwards():
    assert [turned(place, 3) for place in range(8)] == [0, 1, 2, 2, 1, 0, 0, 1]


def test_two_blocks_of_the_window_are_the_streams_own_once_it_is_full():
    def ids(first, last):
        return tuple(range(first, last + 1))

    assert plan(positions(21), 18, 3, True) == Positions((), (), ids(0, 20), ids(18, 20))
    later = Positions((), ids(0, 14), ids(15, 20), ids(18, 20))
    assert plan(positions(21), 21, 3, True) == plan(positions(21), 3000, 3, True) == later


def test_what_is_seen_is_of_the_first_window_for_ever(stream):
    caller, prompt, config, policy = stream
    state, own = init(caller, prompt, config, memory=policy), {}
    for block in range(9):
        before = state.cache.frames
        _, state = step(caller, state)
        if block < 3:
            own |= {f: state.cache.keys_values(1, (f,)) for f in range(3 * block, 3 * block + 3)}
        seen, _ = policy.read(state.memory)
        assert (seen is None) == (block < 3), before
        if seen is not None:
            after = 3 * block + 3 - 3  # the block's own three are the window's
            wanted = [turned(place, 9) for place in range(after - 6, after)]
            for side in (0, 1):
                assert torch.equal(seen(1)[side], torch.cat([own[f][side] for f in wanted], 1))
    assert wanted == [0, 1, 2, 3, 4, 5]


def test_it_goes_on_from_a_file_bit_for_bit(stream, tmp_path):
    caller, prompt, config, policy = stream
    state = init(caller, prompt, config, memory=policy)
    for _ in range(6):
        _, state = step(caller, state)
    save(caller, state, tmp_path / "stream.safetensors")
    back = load(tmp_path / "stream.safetensors", caller, config, memory=policy)
    assert torch.equal(step(caller, state)[0], step(caller, back)[0])


def test_other_positions_are_refused(stream):
    caller, prompt, config, policy = stream
    with pytest.raises(ValueError, match="fills 6 frames of a window, not those of pocket"):
        init(caller, prompt, replace(config, preset="pocket"), memory=policy)


def test_the_bench_runs_it_in_the_pockets_own_window():
    method = find_method("rolling_sink")
    for chosen in (method.made(), method.taught()):
        config = chosen.pocket.config()
        assert config.positions == positions(12) and chosen.memory.given_frames == 6
        assert chosen.pocket.recipe.config(3).seed == 3 and chosen.names == ("dense", "rolling_sink")

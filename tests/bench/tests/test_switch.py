"""`bench switch`: its arithmetic on pictures that are known, and its rows on a model of random weights."""

import argparse
import io
import json
from pathlib import Path

import pytest
import torch
from rivulet.model_patches.memory.policy import OFF
from rivulet.model_patches.stream.timeline import MODES
from rivulet.pocket import detector, world
from rivulet.tests.bench import switch
from rivulet.tests.bench.records import Rows
from rivulet.tests.bench.small_pocket import small_pocket, write_memory
from rivulet.tests.bench.switch import Start, first, judged, jumps, prompts, shows


def rows_of(**options):
    out = io.StringIO()
    usual = {"streams": 2, "blocks": 2, "modes": list(MODES), "memories": ["off"], "seed": 0, "weights": None}
    given = argparse.Namespace(quick=True, **(usual | {"memory_file": None} | options))
    assert switch.run(given, Rows("switch", True, out)) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(switch, "load_pocket", lambda folder: small_pocket())
    monkeypatch.setattr(switch, "BEFORE_BLOCKS", 6)


def test_every_kind_of_switch_has_a_row_with_each_memory(small, tmp_path):
    file = write_memory(tmp_path / "memory.safetensors")
    rows = rows_of(memories=["off", "learned"], memory_file=file)
    assert [(row["memory"], row["mode"]) for row in rows] == [
        (memory, mode) for memory in ("off", "learned") for mode in MODES
    ]
    for row in rows:
        assert (row["streams"], row["watched_blocks"]) == (2, 2)
        assert 0 <= row["reached"] <= 1 and row["jump"] >= 0 and row["jump_inside"] > 0
        # random weights show no prompt
        assert ("blocks_to_prompt" in row) == (row["reached"] > 0)
    # all begin with the same pictures, and no two kinds are the same afterwards
    assert len({(row["jump"], row["jump_inside"]) for row in rows}) == len(rows)


def test_a_cut_is_decoded_as_another_scene(small, tmp_path):
    pocket = small_pocket()
    old, new = prompts(2, 0)
    start = switch.begun(pocket, OFF, old, 0, tmp_path / "state.safetensors")
    assert [block.shape[1] for block in start.blocks_BFHWC] == [9, 12, 12]
    assert [block.shape[1] for block in switch.switched(start, new, "cut", 2)] == [9, 12]
    assert [block.shape[1] for block in switch.switched(start, new, "smooth", 2)] == [12, 12]


def test_pairs_of_prompts_always_differ_and_are_the_same_for_a_seed():
    old, new = prompts(300, 0)
    assert len(old) == len(new) == 300
    assert all(
        detector.parse_prompt(one) != detector.parse_prompt(other)
        for one, other in zip(old, new, strict=True)
    )
    assert (old, new) == prompts(300, 0) != prompts(300, 1)


def truth(frames: int):
    """Pictures and prompts of two scenes before and after they are dressed anew."""
    generator = torch.Generator().manual_seed(3)
    scenes = world.sample_scenes(2, generator, band_share=0.0)
    dressed = world.change_looks(scenes, generator)
    flown = world.simulate(scenes, frames)
    return [(each.prompts(), world.render(each, flown, 64)) for each in (scenes, dressed)]


def test_the_blocks_until_a_prompt_shows_are_counted():
    (old, before), (new, after) = truth(4)
    start = Start(small_pocket(), OFF, Path("none"), (), (before,))
    late = torch.stack([before[0], after[1]])  # the second stream shows its prompt at once
    figures = judged(start, [late, late, after], new)
    assert (figures["reached"], figures["blocks_to_prompt"], figures["last_block_prompt_share"]) == (1, 2, 1)
    never = judged(start, [late, late], new)
    assert (never["reached"], never["blocks_to_prompt"]) == (0.5, 1)
    none = judged(start, [before], new)
    assert none["reached"] == 0 and "blocks_to_prompt" not in none
    assert shows(before, old) == [True, True] and shows(before, new) == [False, False]


def test_most_pictures_are_more_than_half():
    (_, before), (new, after) = truth(4)
    half = torch.cat([before[:, :2], after[:, 2:]], 1)
    assert shows(half, new) == [False, False]
    assert shows(torch.cat([before[:, :1], after[:, 1:]], 1), new) == [True, True]


def test_first_counts_from_one():
    assert [first(seen) for seen in ([True], [False, True, False], [False, False], [])] == [1, 2, None, None]


def test_jumps_are_levels_at_the_switch_inside_and_at_other_borders():
    def block(*levels):
        return torch.tensor(levels, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, 8, 8, 3)

    # steps of 1 inside, 3 at ordinary borders, 100 at the switch; levels may fall as well
    before, after = (block(10, 11), block(14, 15)), (block(115, 116), block(119, 118))
    at_switch, inside, border = jumps(before, after)
    assert (at_switch.tolist(), inside, border) == ([100], 1, 3)
    assert jumps(before[:1], after[:1])[2] is None


def test_no_streams_are_refused(small):
    with pytest.raises(SystemExit, match="0 blocks; give 1 or more"):
        switch.run(
            argparse.Namespace(
                quick=True, streams=2, blocks=0, modes=[], memories=[], seed=0, weights=None, memory_file=None
            ),
            Rows("switch", True, io.StringIO()),
        )


def test_a_memory_without_its_file_is_refused_before_anything_is_made(small, tmp_path, monkeypatch):
    monkeypatch.setattr(switch, "begun", lambda *given: pytest.fail("a stream was made"))
    with pytest.raises(SystemExit, match="there is none at"):
        rows_of(memories=["off", "learned"], memory_file=tmp_path / "none.safetensors")

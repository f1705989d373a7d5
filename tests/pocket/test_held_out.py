"""The combinations that training never draws: the list itself, and that scenes are drawn by it."""

from collections import Counter

import pytest
import torch
from rivulet.pocket import held_out, hiding, world


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def combination(scenes: world.Scenes, b: int) -> held_out.Combination:
    """Of scene b, worked out apart from the table that the drawing uses."""
    things = zip(scenes.colour_BN[b].tolist(), scenes.shape_BN[b].tolist(), strict=True)
    return held_out.Combination(tuple(sorted(t for t in things if t[0] >= 0)), int(scenes.ground_B[b]))


def test_a_tenth_is_held_out_and_the_list_is_the_one_that_weights_name():
    one, two = held_out.kinds()
    assert (len(one), len(two)) == (90, 540) and len(set(one + two)) == 630
    chosen = held_out.unseen()
    assert set(chosen) <= set(one + two)
    assert [len(each.objects) for each in chosen] == [1] * 9 + [2] * 54 and len(set(chosen)) == 63
    # weights in the world name it: another list needs another training
    assert held_out.fingerprint() == "5ff53d11a4af54bc"


def test_the_list_is_even():
    def spread(counts: Counter, of: int) -> tuple[int, int]:
        assert len(counts) == of
        return min(counts.values()), max(counts.values())

    alone = [c for c in held_out.unseen() if len(c.objects) == 1]
    pairs = [c for c in held_out.unseen() if len(c.objects) == 2]
    assert spread(Counter(c.objects[0][0] for c in alone), 6) == (1, 2)
    assert spread(Counter(c.objects[0][1] for c in alone), 3) == (3, 3)
    assert spread(Counter(c.ground for c in alone), 6) == (1, 2)
    assert spread(Counter(colour for c in pairs for colour, _ in c.objects), 6) == (18, 18)
    assert spread(Counter(shape for c in pairs for _, shape in c.objects), 3) == (36, 36)
    assert spread(Counter(thing for c in pairs for thing in c.objects), 18) == (6, 6)
    assert spread(Counter(c.ground for c in pairs), 6) == (9, 9)


DRAWS = {
    "scenes": lambda count, g, which: world.sample_scenes(count, g, combinations=which),
    "other looks": lambda count, g, which: world.change_looks(world.sample_scenes(count, g), g, which),
    "hiding": hiding.sample,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("which", ["seen", "unseen"])
def test_scenes_are_drawn_from_the_combinations_asked_for(draw, which):
    scenes = draw(4000, generator(1), which)
    drawn = [combination(scenes, b) for b in range(len(scenes))]
    unseen = set(held_out.unseen())
    assert all((each in unseen) == (which == "unseen") for each in drawn)
    assert (scenes.unseen_B() == (which == "unseen")).all()
    again = draw(4000, generator(1), which)
    for name in scenes.__dataclass_fields__:
        assert torch.equal(getattr(scenes, name), getattr(again, name))
    sizes = Counter(len(each.objects) for each in drawn)
    for size, count in sizes.items():  # each of a kind as often as the others: chi squared, 5 of its spreads
        kind = [c for c in held_out.kinds()[size - 1] if (c in unseen) == (which == "unseen")]
        often, mean, free = Counter(drawn), count / len(kind), len(kind) - 1
        assert abs(sum((often[c] - mean) ** 2 for c in kind) / mean - free) < 5 * (2 * free) ** 0.5
    assert set(sizes) == ({1} if draw is hiding.sample else {1, 2})


def test_two_objects_are_one_combination_in_either_order():
    pairs = [c for c in held_out.unseen() if len(c.objects) == 2]
    for order in (1, -1):
        colours, shapes = torch.tensor([c.objects[::order] for c in pairs]).unbind(-1)
        assert held_out.is_unseen(colours, shapes, torch.tensor([c.ground for c in pairs])).all()


def test_all_combinations_are_drawn_as_ever():
    """Pinned: streams of benches and their figures are made of these scenes."""
    scenes = world.sample_scenes(6, generator(3))
    assert scenes.colour_BN.tolist() == [[0, 3], [4, -1], [2, -1], [5, 3], [5, 4], [3, 4]]
    torch.testing.assert_close(scenes.place_BN2.sum(), torch.tensor(11.303516387939453), rtol=0, atol=0)
    fresh = world.change_looks(scenes, generator(4))
    assert fresh.ground_B.tolist() == [2, 2, 3, 3, 3, 4]


def test_weights_that_tell_nothing_are_not_taken_for_new_ones():
    after = held_out.History().trained_on("--start x", "")
    assert str(after) == f"held out since: {held_out.UNTOLD}"
    assert str(held_out.History(held_out.fingerprint())) == "never trained on"


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="all, seen, unseen; got 'new'"):
        world.sample_scenes(2, generator(), combinations="new")

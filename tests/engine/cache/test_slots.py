import pytest
from rivulet.model_patches.cache.slots import FREE, Slots, runs


def test_a_table_changes_by_making_another():
    empty = Slots.empty(4)
    table = empty.put((0, 2), (7, 5), claim=3)
    assert empty.frames == (FREE,) * 4
    assert table.frames == (7, FREE, 5, FREE) and table.claims == (3, 0, 3, 0)
    assert table.free == (1, 3) and table.sorted_frames == (5, 7)
    assert table.retain([5, 9]).frames == (FREE, FREE, 5, FREE)
    assert table.retain([5]).claims == table.claims
    assert table.grow(6).frames == (7, FREE, 5, FREE, FREE, FREE) and table.grow(2) == table


def test_frames_and_slots_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        Slots.empty(4).put((0, 1), (7,), claim=1)


@pytest.mark.parametrize(
    "slots, expected",
    [
        ((), []),
        ((4,), [(4, 5, 0)]),
        ((0, 1, 2), [(0, 3, 0)]),
        ((1, 4, 5), [(1, 2, 0), (4, 6, 1)]),
        ((0, 2, 4), [(0, 1, 0), (2, 3, 1), (4, 5, 2)]),
        ((5, 4), [(5, 6, 0), (4, 5, 1)]),
    ],
)
def test_runs_are_the_unbroken_stretches(slots, expected):
    assert list(runs(slots)) == expected

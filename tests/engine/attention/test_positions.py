import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.attention.positions import (
    PRESETS,
    PositionPreset,
    Positions,
    cached_frames,
    joint,
    plan,
    preset,
    why_no_memory,
    why_not,
)


def ids(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


# Start of the block, window, query and memory as Echo-Infinity's code assigns them.
ECHO = [
    (0, (), ids(0, 2), ()),
    (3, ids(3, 5), ids(3, 5), ()),
    (6, ids(3, 8), ids(6, 8), ()),
    (9, ids(3, 11), ids(9, 11), ()),
    (12, ids(6, 14), ids(12, 14), ids(3, 5)),
    (15, ids(9, 17), ids(15, 17), ids(6, 8)),
    (18, ids(12, 20), ids(18, 20), ids(9, 11)),
    (21, ids(12, 20), ids(18, 20), ids(9, 11)),
    (345_600, ids(12, 20), ids(18, 20), ids(9, 11)),
]


@pytest.mark.parametrize(("start", "window", "query", "memory"), ECHO, ids=[f"block at {r[0]}" for r in ECHO])
def test_echo_row_by_row(start, window, query, memory):
    got = plan(PRESETS["echo"], start, 3, memory_visible=True)
    assert got == Positions(ids(0, 2), memory, window, query)


def test_echo_memory_appears_with_the_second_call_of_the_first_evicting_block():
    first_call = plan(PRESETS["echo"], 12, 3, memory_visible=False)
    assert first_call == Positions(ids(0, 2), (), ids(6, 14), ids(12, 14))
    assert plan(PRESETS["echo"], 12, 3, memory_visible=True).memory == ids(3, 5)


@pytest.mark.parametrize("start", [0, 3, 9, 12, 15, 18])
def test_echo_on_short_clips_is_the_same_until_ids_end_and_counts_on_from_there(start):
    """The base file's clips have 21 frames; the memory lies 3 frames before the oldest recent one."""
    short, long = (plan(PRESETS[name], start, 3, memory_visible=True) for name in ("echo_std", "echo"))
    assert short == long
    later = plan(PRESETS["echo_std"], 21, 3, memory_visible=True)
    assert later == Positions(ids(0, 2), ids(12, 14), ids(15, 23), ids(21, 23))
    assert "at most 21 latent frames" in why_not(PRESETS["echo_std"], 3, 24)


def test_echo_ids_stay_below_21_in_every_block_to_10000_and_every_997th_to_a_million():
    """A million blocks of 12 pictures are 208 hours at 16 a second; the longest published run has 115,201."""
    blocks = (*range(10_000), *range(10_000, 1_000_000, 997), 999_999)
    for block in blocks:
        got = plan(PRESETS["echo"], 3 * block, 3, memory_visible=True)
        every = (*got.sink, *got.memory, *got.window)
        assert min(every) >= 0 and max(every) <= 20 and len(set(every)) == len(every), block
        assert set(got.query) <= {*got.sink, *got.window}, block
        if block >= 6:
            assert got == Positions(ids(0, 2), ids(9, 11), ids(12, 20), ids(18, 20)), block


def test_echo_recache_runs_the_whole_window_at_its_own_ids_without_memory():
    assert plan(PRESETS["echo"], 21, 9) == Positions(ids(0, 2), (), ids(12, 20), ids(12, 20))
    assert cached_frames(PRESETS["echo"], 21, 9) == (ids(0, 2), ())


def test_echo_frame_by_frame_waits_until_the_memory_has_room():
    rows = {start: plan(PRESETS["echo"], start, 1, memory_visible=True) for start in (11, 12, 13, 14, 20)}
    assert [rows[start].memory for start in (11, 12, 13)] == [(), (), ()]
    assert rows[13].window == ids(5, 13)
    assert rows[14] == Positions(ids(0, 2), ids(3, 5), ids(6, 14), (14,))
    assert rows[20] == Positions(ids(0, 2), ids(9, 11), ids(12, 20), (20,))


# Preset, block, start, then sink, window and query ids.
OTHERS = [
    ("self_forcing", 3, 0, (), ids(0, 2), ids(0, 2)),
    ("self_forcing", 3, 18, (), ids(0, 20), ids(18, 20)),
    ("self_forcing", 1, 20, (), ids(0, 20), (20,)),
    ("longlive", 3, 0, ids(0, 2), (), ids(0, 2)),
    ("longlive", 3, 9, ids(0, 2), ids(3, 11), ids(9, 11)),
    ("longlive", 3, 12, ids(0, 2), ids(6, 14), ids(12, 14)),
    ("longlive", 3, 237, ids(0, 2), ids(231, 239), ids(237, 239)),
    ("longlive_infinity", 3, 9, ids(0, 2), ids(3, 11), ids(9, 11)),
    ("longlive_infinity", 3, 12, ids(0, 2), ids(3, 11), ids(9, 11)),
    ("infinity_rope", 3, 0, (0,), ids(1, 2), ids(0, 2)),
    ("infinity_rope", 3, 3, (0,), ids(1, 5), ids(3, 5)),
    ("infinity_rope", 3, 6, (0,), ids(1, 5), ids(3, 5)),
    ("infinity_rope", 1, 4, (0,), ids(1, 4), (4,)),
    ("infinity_rope", 1, 900, (0,), ids(1, 5), (5,)),
    ("reward_forcing", 3, 0, ids(0, 2), (), ids(0, 2)),
    ("reward_forcing", 3, 6, ids(0, 2), ids(3, 8), ids(6, 8)),
    ("reward_forcing", 3, 9, ids(0, 2), ids(3, 8), ids(6, 8)),
    ("videomla_6", 3, 0, (0,), ids(1, 2), ids(0, 2)),
    ("videomla_6", 3, 6, (0,), ids(1, 5), ids(3, 5)),
    ("videomla_7", 3, 0, (0,), ids(1, 2), ids(0, 2)),
    ("videomla_7", 3, 3, (0,), ids(1, 5), ids(3, 5)),
    ("videomla_7", 3, 6, (0,), ids(1, 6), ids(4, 6)),
    ("videomla_7", 1, 5, (0,), ids(1, 5), (5,)),
    ("pocket", 3, 0, ids(0, 2), (), ids(0, 2)),
    ("pocket", 3, 6, ids(0, 2), ids(3, 8), ids(6, 8)),
    ("pocket", 3, 30, ids(0, 2), ids(3, 11), ids(9, 11)),
    ("pocket", 1, 1, ids(0, 1), (), (1,)),
    ("pocket", 1, 30, ids(0, 2), ids(3, 11), (11,)),
]


@pytest.mark.parametrize(
    ("name", "block", "start", "sink", "window", "query"),
    OTHERS,
    ids=[f"{r[0]}-{r[1]}x{r[2]}" for r in OTHERS],
)
def test_other_presets_row_by_row(name, block, start, sink, window, query):
    assert plan(PRESETS[name], start, block, memory_visible=True) == Positions(sink, (), window, query)


# Start of the block, then window, query and memory as MemRoPE's code assigns them, in blocks of three.
MEMROPE = [
    (0, (), ids(0, 2), ()),
    (9, ids(3, 11), ids(9, 11), ()),
    (12, ids(5, 11), ids(9, 11), ids(3, 4)),
    (15, ids(5, 11), ids(9, 11), ids(3, 4)),
    (345_600, ids(5, 11), ids(9, 11), ids(3, 4)),
]


@pytest.mark.parametrize(("start", "window", "query", "memory"), MEMROPE, ids=lambda v: str(v)[:9])
def test_memrope_row_by_row(start, window, query, memory):
    assert plan(PRESETS["memrope"], start, 3, True) == Positions(ids(0, 2), memory, window, query)
    hidden = plan(PRESETS["memrope"], start, 3)
    assert hidden == Positions(ids(0, 2), (), window, query)


def test_memrope_recaches_a_full_window_at_its_own_ids():
    assert plan(PRESETS["memrope"], 12, 9) == Positions(ids(0, 2), (), ids(3, 11), ids(3, 11))


# Preset, block, start, then the frames of the stream that must be in the cache.
KEPT = [
    ("self_forcing", 3, 18, (), ids(0, 17)),
    ("longlive", 3, 12, ids(0, 2), ids(6, 11)),
    ("infinity_rope", 3, 3, (0,), ids(1, 2)),
    ("infinity_rope", 3, 6, (0,), ids(4, 5)),
    ("infinity_rope", 1, 100, (0,), ids(96, 99)),
    ("echo", 3, 0, (), ()),
    ("echo", 3, 12, ids(0, 2), ids(6, 11)),
    ("memrope", 3, 9, ids(0, 2), ids(3, 8)),
    ("memrope", 3, 12, ids(0, 2), ids(8, 11)),
    ("memrope", 1, 12, ids(0, 2), ids(6, 11)),
    ("pocket", 1, 2, ids(0, 1), ()),
    ("pocket", 3, 2, ids(0, 1), ()),
    ("pocket", 3, 1000, ids(0, 2), ids(994, 999)),
]


@pytest.mark.parametrize(
    ("name", "block", "start", "sink", "window"), KEPT, ids=[f"{r[0]}-{r[1]}x{r[2]}" for r in KEPT]
)
def test_kept_frames_by_hand(name, block, start, sink, window):
    assert cached_frames(PRESETS[name], start, block) == (sink, window)


BOUNDED = [p for p in PRESETS.values() if p.last_id is not None]
starts, blocks = st.integers(0, 3_000_000), st.integers(1, 5)


@given(st.sampled_from(BOUNDED), starts, blocks, st.booleans())
def test_ids_of_bounded_presets_never_leave_the_trained_ones(chosen, start, block, visible):
    got = plan(chosen, start, block, visible, strict=True)
    used = [*got.sink, *got.memory, *got.window]
    assert max([*used, *got.query]) <= chosen.last_id < chosen.trained_frames
    assert used == sorted(set(used)) and used[0] == 0


@pytest.mark.parametrize("chosen", BOUNDED, ids=lambda p: p.name)
def test_a_million_blocks_end_as_they_went_on(chosen):
    steady = plan(chosen, 60, 3, True)
    assert plan(chosen, 3_000_000, 3, True) == steady
    given_way = chosen.memory_frames if chosen.memory_in_window else 0
    unseen = chosen.sink_frames if chosen.sink_within else 0
    assert len(steady.sink) + len(steady.window) == chosen.capacity_frames - given_way - unseen


@given(st.sampled_from(list(PRESETS.values())), st.integers(0, 400), blocks, st.booleans())
def test_the_block_ends_the_window_and_attends_to_itself(chosen, start, block, visible):
    got = plan(chosen, start, block, visible)
    attended = got.sink + got.memory + got.window
    assert (got.sink + got.window)[-block:] == got.query if start + block > chosen.sink_frames else True
    assert set(got.query) <= set(attended)
    assert got.query == ids(got.query[0], got.query[0] + block - 1)
    assert got.sink == ids(0, len(got.sink) - 1)
    assert not got.memory or (visible and got.window[0] == got.memory[-1] + 1 > chosen.sink_frames)


@given(st.sampled_from(list(PRESETS.values())), st.integers(0, 400), blocks)
def test_kept_frames_and_ids_agree_frame_by_frame(chosen, start, block):
    got = plan(chosen, start, block)
    sink, window = cached_frames(chosen, start, block)
    own = ids(start, start + block - 1)
    assert all(frame < start for frame in sink + window)
    # what a sink within the window has no ids for is its oldest frames
    unseen = len(sink) + len(window) + block - len(got.sink) - len(got.window)
    assert unseen == (min(chosen.sink_frames, max(0, own[-1] + 1 - 21)) if chosen.sink_within else 0)
    frames = (sink + window + own)[unseen:]
    assert tuple(frame - unseen for frame in frames[: len(got.sink)]) == got.sink
    # distances in time inside the window are true ones, whatever the ids
    shift = own[-1] - got.query[-1]
    assert tuple(frame - shift for frame in frames[len(got.sink) :]) == got.window


@given(st.sampled_from(list(PRESETS.values())), st.integers(1, 5), st.lists(blocks, min_size=1, max_size=60))
def test_a_cache_that_follows_the_plan_always_has_what_the_next_block_needs(chosen, first, lengths):
    held: set[int] = set()
    start = 0
    for block in [first, *lengths]:
        sink, window = cached_frames(chosen, start, block)
        assert set(sink + window) <= held
        if chosen.capacity_frames is not None:
            assert len(sink) + len(window) + block <= chosen.capacity_frames
        held = {*sink, *window, *range(start, start + block)}
        start += block
        if chosen.window_frames is not None:
            held -= {f for f in held if chosen.sink_frames <= f < start - chosen.window_frames}


@pytest.mark.parametrize("chosen", PRESETS.values(), ids=lambda each: each.name)
def test_a_memory_is_refused_where_no_call_of_the_stream_has_ids_for_it(chosen):
    for block in range(1, (chosen.window_frames or chosen.trained_frames) + 1):
        calls = (plan(chosen, start, block, memory_visible=True) for start in range(0, 99, block))
        assert (why_no_memory(chosen, block) is None) == any(call.memory for call in calls), block


def test_growing_presets_refuse_untrained_ids_only_when_strict():
    assert plan(PRESETS["self_forcing"], 21, 3).query == ids(21, 23)
    assert plan(PRESETS["self_forcing"], 18, 3, strict=True).query == ids(18, 20)
    sentence = "trained on 21 latent frames, not on 24 latent frames; take preset infinity_rope"
    with pytest.raises(ValueError, match=sentence):
        plan(PRESETS["self_forcing"], 21, 3, strict=True)
    with pytest.raises(ValueError, match="not on 22 latent frames"):
        plan(PRESETS["self_forcing"], 21, 1, strict=True)


def test_before_work_starts_a_growing_preset_names_a_bounded_one():
    assert why_not(PRESETS["longlive"], 3, 240) is None
    assert "at most 240 latent frames" in why_not(PRESETS["longlive"], 3, 241)
    endless = why_not(PRESETS["longlive"], 3)
    assert "an endless stream; take preset longlive_infinity" in endless
    assert all(why_not(p, 3) is None for p in BOUNDED)
    assert all(PRESETS[p.endless] in BOUNDED for p in PRESETS.values() if p.last_id is None)


def test_a_block_longer_than_the_window_is_refused_before_and_during():
    sentence = "a block of 6 latent frames does not fit the window of preset infinity_rope, 5 latent frames"
    assert sentence in why_not(PRESETS["infinity_rope"], 6, 12)
    for call in (plan, cached_frames):
        with pytest.raises(ValueError, match=sentence):
            call(PRESETS["infinity_rope"], 0, 6)


@pytest.mark.parametrize(("start", "block"), [(-1, 3), (0, 0), (3, -2)])
def test_impossible_blocks_are_refused(start, block):
    with pytest.raises(
        ValueError, match=f"a block of {block} latent frames from frame {start} is not possible"
    ):
        plan(PRESETS["pocket"], start, block)


def test_an_unknown_preset_lists_the_known_ones():
    assert preset("echo") is PRESETS["echo"]
    with pytest.raises(ValueError, match=r"no preset is called 'ecko'; there are self_forcing, .*pocket"):
        preset("ecko")


def test_a_preset_of_ones_own_leaves_room_for_a_memory():
    own = dataclasses.replace(PRESETS["pocket"], memory_frames=3, last_id=14, trained_frames=15)
    assert plan(own, 9000, 3, True) == Positions(ids(0, 2), ids(3, 5), ids(6, 14), ids(12, 14))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"window_frames": 0}, "a window of 0 latent frames cannot hold a block"),
        ({"sink_frames": -1}, "sink -1, memory 0, trained 12 latent frames"),
        ({"last_id": 11, "sink_frames": 4}, "need 13 ids and the model was trained on 12"),
        ({"memory_frames": 9}, "a memory of 9 latent frames in a window of 9; give a longer window"),
        ({"memory_frames": 2, "window_frames": 10}, "need 13 ids and the model was trained on 12"),
        ({"last_id": 12}, "last_id must be 11 to 11, got 12"),
        ({"last_id": 10}, "last_id must be 11 to 11, got 10"),
        ({"window_frames": None}, "ids end at 11 but the window does not end"),
        ({"trained_frames": 0}, "trained 0 latent frames"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_presets_that_cannot_hold_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(PRESETS["pocket"], **change)


# Start of the block, ids of the sink that a pass at timestep 0 sees and of its window, as Rolling Forcing's
# code extracts them from its cache.
ROLLING = [
    (0, ids(0, 2), (), ids(0, 2)),
    (3, ids(0, 2), ids(3, 5), ids(3, 5)),
    (18, ids(0, 2), ids(3, 20), ids(18, 20)),
    (21, (), ids(0, 20), ids(18, 20)),
    (900, (), ids(0, 20), ids(18, 20)),
]
# The same of a call over 15 latent frames, and the frames that it sees beside its own.
JOINT = [
    (0, ids(0, 2), ids(3, 14), ids(0, 14), ()),
    (3, ids(0, 2), ids(3, 17), ids(3, 17), (0, 1, 2)),
    (6, ids(0, 2), ids(3, 20), ids(6, 20), (0, 1, 2, 3, 4, 5)),
    (9, ids(0, 2), ids(3, 20), ids(6, 20), (0, 1, 2, 6, 7, 8)),
    (900, ids(0, 2), ids(3, 20), ids(6, 20), (0, 1, 2, 897, 898, 899)),
]


@pytest.mark.parametrize(("start", "sink", "window", "query"), ROLLING, ids=[f"at {r[0]}" for r in ROLLING])
def test_a_sink_within_the_window_leaves_with_it_and_stays_cached(start, sink, window, query):
    chosen = PRESETS["rolling_forcing"]
    assert plan(chosen, start, 3) == Positions(sink, (), window, query)
    held = cached_frames(chosen, start, 3)
    assert held == (ids(0, min(2, start - 1)), ids(max(3, start - 18), start - 1))


@pytest.mark.parametrize(
    ("start", "sink", "window", "query", "seen"), JOINT, ids=[f"at {r[0]}" for r in JOINT]
)
def test_a_joint_call_sees_the_sink_and_what_leaves_it_ids(start, sink, window, query, seen):
    chosen = joint(PRESETS["rolling_forcing"], 15)
    assert plan(chosen, start, 15) == Positions(sink, (), window, query)
    assert sum(cached_frames(chosen, start, 15), ()) == seen


def test_a_joint_call_of_four_blocks_sees_two_past_ones():
    assert sum(cached_frames(joint(PRESETS["rolling_forcing"], 12), 90, 12), ()) == (0, 1, 2, *ids(84, 89))


def test_a_sink_within_the_window_needs_ids_that_end_and_no_memory():
    for change in ({"last_id": None}, {"memory_frames": 1, "window_frames": 20}):
        with pytest.raises(ValueError, match="a sink within the window needs bounded ids and no memory"):
            dataclasses.replace(PRESETS["rolling_forcing"], **change)


def test_every_preset_is_listed_under_its_own_name():
    assert all(isinstance(p, PositionPreset) and p.name == name for name, p in PRESETS.items())

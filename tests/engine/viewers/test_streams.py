from types import SimpleNamespace

import pytest
from rivulet.model_patches.viewers.live import Given
from rivulet.model_patches.viewers.streams import (
    MAX_IN_MEMORY,
    MAX_RUNS,
    MAX_STREAMS,
    Got,
    Streams,
    read_got,
)

GIVEN = Given("tab", "w", 5.0)


def stream(session="s"):
    """A stream that counts how often its segments were let go of."""
    live = SimpleNamespace(session=session, given=[], forgotten=0)
    live.forget_media = lambda: setattr(live, "forgotten", live.forgotten + 1)
    return live


def test_only_the_newest_streams_are_remembered_and_fewer_with_their_segments():
    known, streams = Streams(), [stream() for _ in range(MAX_STREAMS + 2)]
    for each in streams:
        known.add(each)
    assert known.all() == streams[:1:-1]
    assert [each.forgotten for each in reversed(streams)] == [0] * MAX_IN_MEMORY + [1] * (
        len(streams) - MAX_IN_MEMORY
    )


def test_a_stream_is_given_to_the_run_that_the_host_gave_its_file_to():
    known, made = Streams(), [stream("a"), stream("b")]
    for each in made:
        known.add(each)
    known.may_give("p", "4", {"v/1.mp4": "a", "v/2.mp4": "b", "v/3.mp4": "forgotten"}, GIVEN)
    got = Got("tab", "p", "4", "v/1.mp4")
    for wrong in (
        Got("other", "p", "4", "v/1.mp4"),
        Got("tab", "q", "4", "v/1.mp4"),
        Got("tab", "p", "5", "v/1.mp4"),
        Got("tab", "p", "4", "v/3.mp4"),
        Got("tab", "p", "4", "v/4.mp4"),
    ):
        assert not known.give(wrong)
    assert [each.given for each in made] == [[], []]
    assert known.give(got) and known.give(got)
    assert [each.given for each in made] == [[GIVEN], []], "told twice it is one run"


def test_the_oldest_runs_are_forgotten():
    known = Streams()
    known.add(stream())
    for run in range(MAX_RUNS + 1):
        known.may_give(str(run), "4", {"f": "s"}, GIVEN)
    assert not known.give(Got("tab", "0", "4", "f")) and known.give(Got("tab", "1", "4", "f"))


@pytest.mark.parametrize("body", [None, [], {}, {"client": "c", "prompt_id": "p", "node": 4, "file": "f"}])
def test_what_is_not_a_pages_word_is_refused(body):
    with pytest.raises(ValueError, match=r"Send a JSON object|must be a text"):
        read_got(body)

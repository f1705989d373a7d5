from rivulet.model_patches.viewers.streams import MAX_STREAMS, Streams


def test_only_the_newest_streams_are_remembered():
    known, streams = Streams(), [object() for _ in range(MAX_STREAMS + 2)]
    for stream in streams:
        known.add(stream)
    assert known.all() == streams[:1:-1]

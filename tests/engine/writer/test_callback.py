import pytest
import torch
from rivulet.model_patches.writer.callback import CallbackWriter


def test_the_function_gets_every_chunk_with_its_place(footage):
    seen = []
    with CallbackWriter(lambda first, frames: seen.append((first, frames)), width=32, height=16) as writer:
        for first, count in ((0, 9), (9, 0), (9, 12)):
            writer.write(footage.frames(first, count))
            writer.seal()
    assert [(first, len(frames)) for first, frames in seen] == [(0, 9), (9, 12)]
    assert [int(frame[0, 0, 0]) // 5 for frame in seen[1][1]] == list(range(9, 21))
    assert writer.frames_written == 21


def test_the_frames_belong_to_the_function(footage):
    seen = []
    chunk = footage.frames(3, 1).clone()
    with CallbackWriter(lambda _, frames: seen.append(frames), width=32, height=16, start_frame=4) as writer:
        writer.write(chunk)
        chunk.zero_()
    assert int(seen[0][0, 0, 0, 0]) == 15
    assert writer.frames_written == 5


def test_what_the_function_raises_is_not_counted_as_written(footage):
    def refuse(first, frames):
        raise KeyError(first)

    with pytest.raises(KeyError), CallbackWriter(refuse, width=32, height=16) as writer:
        writer.write(footage.frames(0, 2))
    assert writer.frames_written == 0


def test_wrong_frames_are_refused():
    refused = pytest.raises(ValueError, match="Callback writer: frames must be")
    with CallbackWriter(print, width=32, height=16) as writer, refused:
        writer.write(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))

"""Pictures that never come to the writer, and an ffmpeg that does not start: what came before is whole."""

import pytest
from rivulet.model_patches.writer.frames import HostFrames
from rivulet.model_patches.writer.joining import finish

from .test_video import encoders, open_writer

__all__ = ["encoders", "open_writer"]


def test_a_card_that_fails_before_its_pictures_come_loses_none_that_came(open_writer, footage, encoders):
    class Lost:
        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors")

    lost = HostFrames(footage.frames(9, 4))
    lost._copied = Lost()
    words = r"Video writer: CUDA error: an illegal memory access was encountered; .* holds 9 frames and plays"
    with pytest.raises(RuntimeError, match=words):  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 9))
            writer.write(lost)
            writer.seal()
    assert encoders[0].poll() == 0
    assert footage.numbers(finish(writer.path)) == list(range(9))


def test_an_ffmpeg_that_is_gone_for_the_second_part_is_told(open_writer, footage):
    with pytest.raises(RuntimeError, match=r"does not start .*; .*take.part1.mp4 holds 9 frames and plays"):  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 9))
            writer.seal()
            writer._program = "no-such-program"
            writer.write(footage.frames(9, 4))
            writer.seal()
    assert footage.numbers(finish(writer.path)) == list(range(9))

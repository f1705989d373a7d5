"""An ffmpeg that dies, hangs or finds its disk full; a writer's thread in which something else goes wrong."""

import os
import signal
import threading

import pytest
import torch
from rivulet.model_patches.writer import encoder
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.parts import find_parts, part_path
from rivulet.tests.waiting import wait_for

from .test_video import encoders, indexed, open_writer, posix

__all__ = ["encoders", "open_writer"]


@posix
def test_a_killed_ffmpeg_costs_no_frame(open_writer, footage, tmp_path, encoders):
    with open_writer() as writer:
        writer.write(footage.frames(0, 30))
        wait_for(lambda: indexed(writer) >= 20)
        encoders[0].send_signal(signal.SIGKILL)
        for first in range(30, 60, 3):
            writer.write(footage.frames(first, 3))
        writer.seal()
        assert [part.number for part in find_parts(writer.path)] == [1, 2]
        assert writer.frames_on_disk == 60
    assert footage.numbers(writer.result) == [i % 50 for i in range(60)]
    assert os.listdir(tmp_path) == ["take.mp4"]


@posix
def test_an_ffmpeg_killed_again_and_again_costs_no_frame_as_long_as_some_come_through(
    open_writer, footage, encoders
):
    with open_writer() as writer:
        for first in range(0, 40, 4):
            writer.write(footage.frames(first, 4))
            # so that each ffmpeg has put some frames of its own on disk
            wait_for(lambda first=first: writer.frames_on_disk >= first + 3)
            encoders[-1].send_signal(signal.SIGKILL)
    assert len(encoders) >= 10
    assert footage.numbers(writer.result) == list(range(40))


@posix
def test_a_full_disk_stops_the_stream_and_keeps_whole_frames(open_writer, footage, encoders, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    generator = torch.Generator().manual_seed(0)
    # a file that may grow no more stands for a disk without room
    monkeypatch.setattr(encoder, "FULL_CODES", {*encoder.FULL_CODES, -signal.SIGXFSZ})
    words = r"the disk is full; .*holds \d+ frames and plays. Free some space"
    with pytest.raises(RuntimeError, match=words):  # noqa: SIM117
        with open_writer() as writer:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
                writer.write(footage.frames(0, 1))
                wait_for(
                    lambda: encoders and writer.index is not None and writer.index.path.stat().st_size > 0
                )
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            for _ in range(1000):
                shape = (10, footage.height, footage.width, 3)
                writer.write(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    frames = frame_count(part_path(writer.path, 1))
    assert 1 <= frames == len(footage.decode(part_path(writer.path, 1)))


@posix
def test_a_file_that_may_grow_no_more_is_followed_by_another(open_writer, footage, encoders):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    generator = torch.Generator().manual_seed(0)
    with open_writer() as writer:
        try:
            # as on FAT32, where no file is longer than 4 GB
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
            writer.write(footage.frames(0, 1))
            wait_for(lambda: encoders)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for _ in range(10):
            shape = (10, footage.height, footage.width, 3)
            writer.write(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
        writer.seal()
        assert len(find_parts(writer.path)) == 2
    assert frame_count(writer.result) == len(footage.decode(writer.result)) == 101


@posix
def test_a_slow_encoder_makes_the_producer_wait(open_writer, encoders):
    size = {"width": 256, "height": 256}
    chunk = torch.zeros(2, 256, 256, 3, dtype=torch.uint8)  # more than a pipe holds
    accepted = []

    def produce(writer):
        for i in range(20):
            writer.write(chunk)
            accepted.append(i)

    with open_writer(queue_chunks=3, **size) as writer:
        writer.write(chunk)
        wait_for(lambda: encoders)
        encoders[0].send_signal(signal.SIGSTOP)
        producer = threading.Thread(target=produce, args=(writer,), daemon=True)
        try:
            producer.start()
            wait_for(lambda: len(accepted) >= 3)
            producer.join(timeout=0.5)
            # three wait in the queue, one is in the encoder's hands, and the first may have been taken whole
            assert producer.is_alive()
            assert len(accepted) <= 5
        finally:
            encoders[0].send_signal(signal.SIGCONT)
        producer.join(timeout=60)
    assert frame_count(writer.result) == writer.frames_written == 42


@posix
def test_a_producer_that_waits_for_an_ffmpeg_which_dies_waits_for_the_next(open_writer, encoders):
    chunk = torch.zeros(2, 256, 256, 3, dtype=torch.uint8)
    with open_writer(width=256, height=256, queue_chunks=1) as writer:
        writer.write(chunk)
        wait_for(lambda: encoders)
        encoders[0].send_signal(signal.SIGSTOP)
        threading.Timer(0.3, encoders[0].send_signal, args=(signal.SIGKILL,)).start()
        for _ in range(9):
            writer.write(chunk)
    assert frame_count(writer.result) == writer.frames_written == 20

"""An ffmpeg that dies, hangs or finds its disk full; a writer's thread in which something else goes wrong."""

import os
import signal
import threading

import pytest
import torch
from rivulet.model_patches.writer import encoder, feeding, fmp4, video
from rivulet.model_patches.writer.joining import finish
from rivulet.model_patches.writer.lock import is_locked
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


def fake_ffmpeg(tmp_path, line):
    """Returns a program that answers as ffmpeg does when it is asked for its encoders, and else does this."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\ncase "$*" in *encoder=*) echo "libx264 AVOptions"; exit;; esac\n{line}\n')
    program.chmod(0o755)
    return program


@posix
def test_a_hung_ffmpeg_is_replaced_and_costs_no_frame(open_writer, footage, encoders):
    with open_writer(hang_seconds=3) as writer:
        writer.write(footage.frames(0, 9))
        wait_for(lambda: writer.frames_on_disk >= 8)
        encoders[0].send_signal(signal.SIGSTOP)
        writer.write(footage.frames(9, 9))
        # seal waits for what the stopped one has in its pipe
        writer.seal()
        assert len(encoders) == 2 and encoders[0].poll() == -9
    assert footage.numbers(writer.result) == list(range(18))


@posix
@pytest.mark.parametrize("line", ["exec sleep 600", "exec cat > /dev/null", "exit 3"])
def test_an_ffmpeg_that_never_works_is_told_and_ended(open_writer, tmp_path, monkeypatch, line, encoders):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake_ffmpeg(tmp_path, line)))
    words = {
        "exec sleep 600": r"ffmpeg took no frame for 0.3 seconds, so it was stopped; the disk may hang",
        "exec cat > /dev/null": r"ffmpeg ended without 20 frames",
        "exit 3": r"ffmpeg stopped with code 3",
    }[line]
    big = torch.zeros(20, 128, 128, 3, dtype=torch.uint8)  # more than a pipe holds
    with pytest.raises(RuntimeError, match=rf"Video writer: {words}.*it had written no frame"):  # noqa: SIM117
        with open_writer(hang_seconds=0.3, width=128, height=128) as writer:
            writer.write(big)
            writer.seal()
    assert len(encoders) == 3 and all(process.poll() is not None for process in encoders)
    assert writer.result is None and not writer._feed.running


@posix
def test_an_ffmpeg_that_hangs_at_the_end_does_not_hang_the_end(open_writer, footage, encoders):
    with open_writer(hang_seconds=3) as writer:
        writer.write(footage.frames(0, 9))
        wait_for(lambda: writer.frames_on_disk >= 8)
        encoders[0].send_signal(signal.SIGSTOP)
    assert footage.numbers(writer.result) == list(range(9))


@posix
def test_an_interruption_waits_a_few_seconds_only(open_writer, footage, encoders, monkeypatch):
    monkeypatch.setattr(video, "HURRY_SECONDS", 3)
    with pytest.raises(KeyboardInterrupt), open_writer() as writer:  # where a minute has not passed
        writer.write(footage.frames(0, 9))
        wait_for(lambda: writer.frames_on_disk >= 8)
        encoders[0].send_signal(signal.SIGSTOP)
        raise KeyboardInterrupt
    assert footage.numbers(writer.result) == list(range(9))


@posix
def test_ctrl_c_while_it_ends_gives_up_what_is_not_on_disk(open_writer, footage, encoders, monkeypatch):
    def pressed(self, seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 9))
            wait_for(lambda: writer.frames_on_disk >= 8)
            encoders[0].send_signal(signal.SIGSTOP)
            monkeypatch.setattr(feeding.Feed, "join", pressed)
    wait_for(lambda: not writer._feed.running)
    assert encoders[0].poll() == -9 and not is_locked(writer.path)
    assert footage.numbers(finish(writer.path)) == list(range(8))


@posix
def test_a_disk_that_hangs_for_good_is_told(open_writer, footage, monkeypatch):
    """The thread itself is stuck, as in a call that its disk does not answer."""
    stuck = threading.Event()
    monkeypatch.setattr(feeding.Feed, "_forget", lambda self: stuck.wait())
    with pytest.raises(RuntimeError, match=r"nothing was written to .* for 0.9 seconds; its disk hangs"):  # noqa: SIM117
        with open_writer(hang_seconds=0.3) as writer:
            writer.write(footage.frames(0, 9))
            writer.seal()
    stuck.set()
    wait_for(lambda: not writer._feed.running)


@pytest.mark.parametrize("also", [False, True], ids=["once", "in the handler too"])
def test_any_error_in_the_thread_is_told_and_ends_ffmpeg(open_writer, footage, encoders, monkeypatch, also):
    def broken(*arguments):
        raise OSError(5, "Input/output error")

    with pytest.raises(RuntimeError, match=r"Video writer: .*Input/output error") as told:  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 9))
            wait_for(lambda: writer.frames_on_disk >= 8)
            monkeypatch.setattr(fmp4, "fragments", broken)
            if also:
                monkeypatch.setattr(feeding, "files_of", broken)
            writer.write(footage.frames(9, 3))
            writer.seal()
    monkeypatch.undo()
    assert ("and then" in str(told.value)) is also
    wait_for(lambda: encoders[0].poll() is not None)
    assert not is_locked(writer.path)
    assert footage.numbers(finish(writer.path))[:8] == list(range(8))


def test_whoever_waits_for_the_disk_learns_that_the_writer_failed(open_writer, footage, monkeypatch):
    answers = []
    with pytest.raises(RuntimeError, match="does not start"):  # noqa: SIM117
        with open_writer() as writer:
            writer.write(footage.frames(0, 9))
            writer.seal()
            waiting = threading.Thread(target=lambda: answers.append(writer.wait_on_disk(12)))
            waiting.start()
            writer._program = "no-such-program"
            writer.write(footage.frames(9, 3))
            writer.seal()
    waiting.join()
    assert answers == [False]


@posix
def test_what_is_held_for_another_ffmpeg_is_bounded(open_writer, encoders, monkeypatch):
    monkeypatch.setattr(feeding, "HELD_BYTES", 4 * 64 * 64 * 3)
    most = 0
    with open_writer(width=64, height=64) as writer:
        for _ in range(60):
            writer.write(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
            most = max(most, len(writer._feed._held))
    # three whole chunks, and the one that is sent
    assert 1 <= most <= 4
    assert frame_count(writer.result) == 120

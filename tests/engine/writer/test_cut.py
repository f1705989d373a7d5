"""Files that end anywhere, or in what a power cut leaves: each opens afterwards, with its whole frames."""

import random

import pytest
from rivulet.model_patches.writer import parts
from rivulet.model_patches.writer.boxes import fragments, read_init
from rivulet.model_patches.writer.joining import finish
from rivulet.model_patches.writer.movie import frame_count, read_movie
from rivulet.model_patches.writer.parts import Part, frames_of, part_path, trim

from .test_video import open_writer

__all__ = ["open_writer"]


def ends_of(data, tmp_path):
    """Returns the bytes up to the end of each fragment, from none on."""
    path = tmp_path / "ends.mp4"
    path.write_bytes(data)
    with path.open("rb") as file:
        init = read_init(file)
        found = list(fragments(file, init, len(init), 0))
    path.unlink()
    return [len(init), *(fragment.offset + fragment.length for fragment in found)]


def test_every_cut_leaves_exactly_its_whole_frames(tmp_path, recording):
    """Byte by byte through four fragments, with a key frame among them: the same bytes as at their ends."""
    ends = ends_of(recording, tmp_path)
    path = tmp_path / "take.part1.mp4"
    for cut in range(ends[14], ends[18] + 1):
        path.write_bytes(recording[:cut])
        whole = sum(end <= cut for end in ends) - 1
        assert frame_count(path) == whole
        assert trim(Part(path, 1, 0)) == Part(path, 1, whole)
        assert path.read_bytes() == recording[: ends[whole]]


def test_a_cut_in_the_header_leaves_no_frame(tmp_path, recording):
    path = tmp_path / "take.part1.mp4"
    for cut in range(ends_of(recording, tmp_path)[1]):
        path.write_bytes(recording[:cut])
        assert frame_count(path) == 0


BEHIND = {"cut": b"", "zeros": bytes(5000), "ones": b"\xff" * 300, "zeros within": b"zeros within"}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_a_power_cut_left_is_gone_on_with(tmp_path, recording, footage, open_writer, behind):
    ends, draw = ends_of(recording, tmp_path), random.Random(0)
    take = tmp_path / "take.mp4"
    for cut in [ends[5], *(draw.randrange(ends[1], len(recording)) for _ in range(4))]:
        left = recording[:cut] + behind
        if behind == b"zeros within":  # a page that never came to the disk
            left = recording[: cut - 400] + bytes(400)
        part_path(take, 1).write_bytes(left)
        whole = frame_count(part_path(take, 1))
        assert 0 <= sum(end <= cut for end in ends) - 1 - whole <= (8 if behind == b"zeros within" else 0)
        assert finish(take) == (take if whole else None)
        if whole:
            assert footage.numbers(take) == list(range(whole))
            take.unlink()
        part_path(take, 1).write_bytes(left)
        with open_writer(start_frame=whole) as writer:
            writer.write(footage.frames(whole, 3))
        assert footage.numbers(take) == list(range(whole + 3))
        take.unlink()


def test_a_part_that_was_cut_is_cut_to_whole_frames_before_it_is_joined(tmp_path, recording, footage):
    take, ends = tmp_path / "take.mp4", ends_of(recording, tmp_path)
    part_path(take, 1).write_bytes(recording[: ends[9] + 44])
    part_path(take, 2).write_bytes(recording[: ends[3] + 5])
    assert frames_of(take) == 12
    assert footage.numbers(finish(take)) == [*range(9), *range(3)]


def test_garbage_in_a_fragments_header_ends_the_file_there(tmp_path, recording):
    ends, draw = ends_of(recording, tmp_path), random.Random(1)
    path = tmp_path / "take.mp4"
    for _ in range(300):
        at = draw.randrange(ends[20], ends[21])
        data = bytearray(recording)
        data[at : at + 8] = draw.randbytes(8)
        path.write_bytes(data)
        assert 20 <= frame_count(path) <= 40


def test_any_bytes_are_read_without_an_error(tmp_path, recording):
    draw, path = random.Random(2), tmp_path / "take.mp4"
    header = ends_of(recording, tmp_path)[0]
    finished = tmp_path / "whole.mp4"
    part_path(finished, 1).write_bytes(recording)
    whole = finish(finished).read_bytes()
    for source, most in ((recording, header), (whole, len(whole))):
        for _ in range(400):
            data = bytearray(source)
            for _ in range(draw.choice((1, 1, 4, 20))):
                data[draw.randrange(most)] = draw.randrange(256)
            path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
            movie = read_movie(path)
            assert movie is None or 0 <= movie.frames <= 10**6


def test_a_table_that_claims_more_than_the_file_is_no_video(tmp_path, recording):
    finished = tmp_path / "whole.mp4"
    part_path(finished, 1).write_bytes(recording)
    data = bytearray(finish(finished).read_bytes())
    for kind in (b"stts", b"stsc", b"stco", b"stsz", b"stss"):
        at = data.index(kind) + (12 if kind == b"stsz" else 8)
        broken = bytearray(data)
        broken[at : at + 4] = b"\xff\xff\xff\xff"
        finished.write_bytes(broken)
        assert read_movie(finished) is None, kind


def test_the_last_part_goes_first_when_a_take_is_cut(tmp_path, recording, monkeypatch):
    for number in (1, 2, 3):
        part_path(tmp_path / "take.mp4", number).write_bytes(recording)
    order, real = [], parts.trim
    monkeypatch.setattr(parts, "trim", lambda part, *rest: (order.append(part.number), real(part, *rest))[1])
    left = parts.trim_all(parts.find_parts(tmp_path / "take.mp4"), 50)
    assert order == [3, 2, 1]
    assert [(part.number, part.frames) for part in left] == [(1, 40), (2, 10)]

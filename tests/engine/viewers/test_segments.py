"""Segments in memory: numbered over the parts, bounded, and there when the files are gone."""

import numpy as np
import pytest
from rivulet.model_patches.viewers.segments import Segments
from rivulet.model_patches.writer.boxes import without_tags
from rivulet.model_patches.writer.video import Mp4Writer
from rivulet.tests.waiting import wait_for

SIDE, FPS = 32, 4


def pictures(count, first=0):
    noise = np.random.default_rng(first)
    return noise.integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def written(tmp_path):
    """Returns a function that writes parts of so many frames: (segments, writer), after they were joined."""

    def write(parts, **options):
        segments = Segments(**options)
        writer = Mp4Writer(tmp_path / "take.mp4", width=SIDE, height=SIDE, fps=FPS, threads=1)
        with writer:
            for frames in parts:
                writer.write(pictures(frames))
                writer.seal()
                segments.collect(writer.index)
            segments.collect(None)
        return segments, writer

    return write


def everything(segments, number=0):
    """All answers from `number` on."""
    found = []
    while answer := segments.read(number):
        found.append(answer)
        number = answer.next
    return found


def frames_of(data, tmp_path):
    from rivulet.model_patches.writer.movie import frame_count

    path = tmp_path / "pulled.mp4"
    path.write_bytes(data)
    return frame_count(path)


def test_parts_are_one_row(written, tmp_path):
    segments, writer = written([6, 3])
    answers = everything(segments)
    assert [answer.kind for answer in answers] == ["init", "media", "init", "media"]
    assert [answer.first_frame for answer in answers] == [0, None, 6, None]
    assert segments.next == answers[-1].next == 2 + 9 and segments.codec.startswith("avc1.")
    assert not list(tmp_path.glob("*.part*")) and writer.result.exists()
    pulled = [frames_of(answers[i].data + answers[i + 1].data, tmp_path) for i in (0, 2)]
    assert pulled == [6, 3]


def test_the_rest_of_a_part_is_taken_over_when_the_next_one_grows(tmp_path):
    segments = Segments()
    with Mp4Writer(tmp_path / "take.mp4", width=SIDE, height=SIDE, fps=FPS, threads=1) as writer:
        writer.write(pictures(6))
        wait_for(lambda: segments.collect(writer.index) or segments.next)
        assert segments.next < 7  # the last picture is on disk when the next one comes, or the part ends
        writer.seal()
        writer.write(pictures(3))
        writer.seal()
        segments.collect(writer.index)
    assert segments.next == 2 + 9


def test_places_are_key_frames(written, tmp_path):
    segments, _ = written([6, 3])
    place = segments.place(5)
    assert (place.init, place.segment, place.frame) == (0, 5, 4)
    assert segments.place(8).frame == 6 and segments.place(8).init == 7
    assert segments.oldest.frame == 0 and segments.newest.frame == 6
    assert frames_of(segments.group(segments.place(0)), tmp_path) == 4
    assert frames_of(segments.group(segments.place(5)), tmp_path) == 2


def test_what_is_kept_is_bounded(tmp_path, written):
    segments, _ = written([40, 4], max_bytes=12_000)
    kept = segments.next - segments.oldest.segment
    assert 4 < kept < 30 and segments.oldest.frame % FPS == 0
    assert segments.read(1) is None and segments.place(0) is None and segments.group(segments.newest)
    init = segments.read(segments.oldest.init)
    assert init.kind == "init" and frames_of(
        init.data + segments.read(segments.oldest.segment).data, tmp_path
    )


def test_a_growing_file_is_taken_over_bit_by_bit(tmp_path):
    from rivulet.model_patches.writer.fmp4 import FragmentIndex

    writer = Mp4Writer(tmp_path / "take.mp4", width=SIDE, height=SIDE, fps=FPS, threads=1)
    with writer:
        writer.write(pictures(6))
        writer.seal()
        whole = writer.index.path.read_bytes()
        growing, segments = tmp_path / "growing.mp4", Segments()
        index, numbers = FragmentIndex(growing), []
        for end in range(0, len(whole) + 101, 100):
            growing.write_bytes(whole[:end])
            before = segments.next
            assert segments.collect(index) == (segments.next > before)
            numbers.append(segments.next)
    assert segments.next == 7 and len(set(numbers)) > 4
    init, *media = [answer.data for answer in everything(segments)]
    begin = whole.index(b"moof") - 4
    assert init == without_tags(whole[:begin])
    assert b"".join(media) == whole[begin : begin + sum(map(len, media))]

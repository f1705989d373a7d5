import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rivulet.model_patches.writer.fmp4 import FragmentIndex
from rivulet.model_patches.writer.movie import frame_count
from rivulet.model_patches.writer.parts import Part, trim


def whole_index(tmp_path, recording, **options):
    path = tmp_path / "whole.mp4"
    path.write_bytes(recording)
    index = FragmentIndex(path, **options)
    index.extend()
    return index


def listed(index):
    return [index.fragment(i) for i in range(index.oldest, index.count)]


def test_a_fragment_is_a_frame_and_every_eighth_is_a_key_frame(tmp_path, recording):
    found = listed(whole_index(tmp_path, recording))
    assert [(f.first_frame, f.frames) for f in found] == [(i, 1) for i in range(40)]
    assert [f.first_frame for f in found if f.keyframe] == [0, 8, 16, 24, 32]


def test_fragments_follow_the_init_segment_and_each_other_without_a_gap(tmp_path, recording):
    index = whole_index(tmp_path, recording)
    begin = at = recording.index(b"moof") - 4
    for fragment in listed(index):
        assert fragment.offset == at
        at += fragment.length
    assert at == index.end <= len(recording)
    assert index.read(0, 1 << 30)[0] == recording[begin : index.end]
    assert len(index.init) < begin and b"udta" not in index.init  # tags are not for players


def test_the_codec_is_told_as_a_browser_wants_it(tmp_path, recording):
    index = whole_index(tmp_path, recording)
    profile = recording[recording.index(b"avcC") + 5 :][:3]
    assert index.codec == f"avc1.{profile.hex()}"
    assert profile[0] in (0x42, 0x4D, 0x64)  # baseline, main, high
    assert FragmentIndex(tmp_path / "absent.mp4").codec is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_read_while_it_grows_gives_the_same_index(tmp_path_factory, recording, data):
    tmp_path = tmp_path_factory.mktemp("grows")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(recording)), max_size=12)))
    path = tmp_path / "grows.mp4"
    index = FragmentIndex(path)
    assert index.extend() == 0
    added, start = 0, 0
    with path.open("wb") as file:
        for cut in [*cuts, len(recording)]:
            file.write(recording[start:cut])
            file.flush()
            start = cut
            added += index.extend()
            assert added == index.count == index.frames
            assert index.end <= cut
    assert listed(index) == listed(whole_index(tmp_path, recording))


@pytest.mark.parametrize("into", [0, 5, 44, 99, 100, 108, 130], ids="{}_bytes_into_a_fragment".format)
def test_a_file_cut_anywhere_and_trimmed_plays_exactly_its_whole_frames(tmp_path, recording, footage, into):
    # untrimmed, players refuse some cuts inside a moof box
    path = tmp_path / "cut.mp4"
    path.write_bytes(recording[: whole_index(tmp_path, recording).fragment(23).offset + into])
    assert frame_count(path) == 23
    assert trim(Part(path, 1, 0)) == Part(path, 1, 23)
    assert footage.numbers(path) == list(range(23))


def test_zeros_that_a_power_cut_left_are_no_frames(tmp_path, recording):
    path = tmp_path / "power.mp4"
    end = whole_index(tmp_path, recording).end
    path.write_bytes(recording[:end] + bytes(5000))
    assert frame_count(path) == 40


def test_a_late_reader_starts_at_the_newest_key_frame(tmp_path, recording, footage):
    index = whole_index(tmp_path, recording)
    assert index.newest_keyframe == 32
    late = tmp_path / "late.mp4"
    late.write_bytes(index.init + index.read(32, 1 << 30)[0])
    assert footage.numbers(late) == list(range(32, 40))


def test_a_resumed_part_counts_on(tmp_path, recording):
    index = whole_index(tmp_path, recording, first_frame=100)
    assert index.fragment(0).first_frame == 100
    assert index.frames == 140


def test_reading_gives_whole_fragments_up_to_a_size_and_one_at_least(tmp_path, recording):
    index = whole_index(tmp_path, recording)
    first, second = index.fragment(4), index.fragment(5)
    assert index.read(4, 1) == (recording[first.offset :][: first.length], 5)
    data, following = index.read(4, first.length + second.length)
    assert (len(data), following) == (first.length + second.length, 6)
    assert index.read(40) == (b"", 40)
    assert index.read(-1) == (b"", -1)


def test_of_an_endless_file_only_the_newest_are_remembered(tmp_path, recording):
    index = whole_index(tmp_path, recording, max_fragments=6)
    assert (index.count, index.oldest, index.frames) == (40, 34, 40)
    assert index.newest_keyframe is None
    assert index.read(33) == (b"", 33)
    assert index.read(34, 1)[1] == 35
    assert index.fragment(33) is None
    assert index.fragment(39).first_frame == 39


def test_a_closed_index_lets_go_of_its_file(tmp_path, recording):
    index = whole_index(tmp_path, recording)
    index.close()
    index.path.unlink()
    assert index.read(0) == (b"", 0)
    assert index.extend() == 0
    assert index.count == 40


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"no video at all, only words that are long enough"])
def test_what_is_no_video_holds_no_frames(tmp_path, content):
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    assert frame_count(path) == 0

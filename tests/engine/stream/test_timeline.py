"""Prompts as they are typed: what is understood, what is refused and how, and on which block each begins."""

import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.stream import typed as typed_module
from rivulet.model_patches.stream.timeline import MODES, Prompt, Timeline, at_borders, clock
from rivulet.model_patches.stream.typed import MAX_LETTERS, MAX_LINES, read_timeline

GEOMETRY = Geometry(832, 480)


def typed(text, **options):
    return [(p.start_seconds, p.text, p.mode) for p in read_timeline(text, **options).prompts]


def test_one_prompt_may_take_several_lines():
    assert typed("# a note\na red circle\n\n  on a green ground \n") == [
        (0, "a red circle on a green ground", "recache")
    ]


def test_a_list_shows_each_prompt_equally_long():
    text = "a red circle\n---\na blue square\n-----\n# note\na green triangle"
    assert typed(text, seconds_each=2.5, mode="cut") == [
        (0, "a red circle", "cut"),
        (2.5, "a blue square", "cut"),
        (5, "a green triangle", "cut"),
    ]


@pytest.mark.parametrize(
    ("bracket", "seconds", "mode"),
    [
        ("[5s]", 5, "smooth"),
        ("[5]", 5, "smooth"),
        ("[5.25s cut]", 5.25, "cut"),
        ("[ 5s - 6s  BLEND ]", 5, "blend"),
        ("[5\u201310s]", 5, "smooth"),
        ("[1:30-2:00]", 90, "smooth"),
        ("[90:00]", 5400, "smooth"),
        ("[0:00:05-1:00:00 recache]", 5, "recache"),
        ("[1:00:00.5s]", 3600.5, "smooth"),
    ],
)
def test_times_are_read(bracket, seconds, mode):
    text = f"[0s] a red circle\n{bracket} a blue square\non a white ground"
    assert typed(text, mode="smooth")[1] == (seconds, "a blue square on a white ground", mode)


def test_in_a_gap_the_earlier_prompt_stays():
    assert typed("[0-2s] one\n[8s-9s] two") == [(0, "one", "recache"), (8, "two", "recache")]


def test_a_bracket_without_a_time_is_text():
    assert typed("[cinematic] a red circle") == [(0, "[cinematic] a red circle", "recache")]


@pytest.mark.parametrize(
    ("text", "quoted", "words"),
    [
        ("", "", "nothing is written; write what is to be seen"),
        ("# only a note", "", "nothing is written"),
        ("[0s] one\n[3s zoom] two", "line 2, '[3s zoom] two'", "one of cut, recache, smooth, blend"),
        ("[0s] one\n[3s]\n# note", "line 2, '[3s]'", "has no text; write after the bracket"),
        ("[0-5s] one\n[3s] two", "line 2, '[3s] two'", "lasts to 5s; write [0s-3s] there"),
        ("[0s] one\n[5-3s] two", "line 2, '[5-3s] two'", "ends at 3s, which is not after its start"),
        ("[0s] one\n[5s] two\n[4s] three", "line 3, '[4s] three'", "not after line 2 (5s); put the lines"),
        ("[0s] one\n[0s] two", "line 2, '[0s] two'", "one prompt a time"),
        ("[2s] one", "line 1, '[2s] one'", "write [0s] before it"),
        ("a cat\n[2s] one", "line 1, 'a cat'", "stands before the first time; write for instance [5s]"),
        ("[0s] one\n---\ntwo", "line 2, '---'", "give every prompt a time, or none"),
        ("one\n---\n[3s] two", "line 3, '[3s] two'", "do not go together"),
        ("one\n---\n---\ntwo", "line 2, '---'", "has no text after it"),
        ("---\none", "line 1, '---'", "has no text before it"),
        ("one\n---", "line 2, '---'", "has no text after it; write a prompt there"),
        ("[0s] one\n[5x] two", "line 2, '[5x] two'", "'5x' is no time; write for instance"),
        ("[0s] one\n[3 circles] two", "line 2, '[3 circles] two'", "no switch 'circles'"),
        ("[0s] one\n[1:75] two", "line 2, '[1:75] two'", "go to 59"),
        ("[0s] one\n[1:5] two", "line 2, '[1:5] two'", "have two digits"),
        ("[0s] one\n[1:60:00] two", "line 2, '[1:60:00] two'", "go to 59"),
        ("[0s] one\n[-5s] two", "line 2, '[-5s] two'", "is no time"),
        ("[0s] one\n[1.2345s] two", "line 2, '[1.2345s] two'", "is no time"),
        ("[cut] one", "line 1, '[cut] one'", "a switch needs a time before it; write for instance [5s cut]"),
        ("[0s shot] one", "line 1, '[0s shot] one'", "of the scene before it, and there is none; write [0s]"),
        ("[0s] one\n[20s] two", "line 2, '[20s] two'", "names 20s and the stream is planned to end at 20s"),
        ("[0-21s] one", "line 1, '[0-21s] one'", "names 21s and the stream is planned to end at 20s"),
        ("1\n---\n2\n---\n3\n---\n4\n---\n5", "line 9, '5'", "would begin at 20s"),
    ],
)
def test_what_cannot_be_is_refused_with_the_line(text, quoted, words):
    with pytest.raises(ValueError, match="Prompts") as refused:
        read_timeline(text, length_seconds=20)
    assert quoted in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[1s] one\n[5x] two\n[7s]\n[8s] four\n[6s zoom] five\n[4s] six", [1, 2, 3, 5, 6]),
        ("[0x] one\n[5s] two\n[9y] three", [1, 3]),
        ("a\nb\n[0s] one\n[2s] \0", [1, 4]),
        ("---\none\n---\n---\ntwo\n---\n\ud800", [1, 3, 7]),
    ],
)
def test_every_wrong_line_is_told_once_with_its_reason(text, lines):
    """What is right in between hides none, and what follows a wrong line is not called wrong for it."""
    with pytest.raises(ValueError, match="Prompts") as refused:
        read_timeline(text)
    told = str(refused.value).splitlines()
    assert [line.partition(", '")[0] for line in told] == [f"Prompts, line {number}" for number in lines]
    assert all(len(line.partition("': ")[2]) > 10 for line in told)


def test_of_very_many_wrong_lines_the_first_are_told():
    with pytest.raises(ValueError, match="Prompts") as refused:
        read_timeline("[0s] one\n" + "[x]\n[5x] two\n" * 100)
    told = str(refused.value).splitlines()
    assert len(told) == 9 and told[-1] == "92 more lines are wrong."


def test_a_range_may_end_with_the_stream():
    assert typed("[0-20s] one", length_seconds=20) == [(0, "one", "recache")]


def test_a_prompt_of_no_duration_is_refused():
    with pytest.raises(ValueError, match="shown for 0 seconds; give more than 0"):
        read_timeline("one\n---\ntwo", seconds_each=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prompt(0, " \n"), "has no text"),
        (lambda: Prompt(0, "one", "fade"), "no switch 'fade'"),
        (lambda: Prompt(0, "a \ud800 b"), r"'a .ud800 b' has letters of no script"),
        (lambda: Prompt(0, "a\0b"), r"'a.x00b' has letters of no script"),
        (lambda: Prompt(-1, "one"), "0 or more"),
        (lambda: Timeline(()), "got none"),
        (lambda: Timeline((Prompt(1, "one"),)), "must start at 0"),
        (lambda: Timeline((Prompt(0, "one"), Prompt(0, "two"))), "starts must rise"),
    ],
)
def test_a_timeline_made_by_hand_keeps_the_same_rules(make, words):
    with pytest.raises(ValueError, match=words):
        make()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.split()
)
LATER = st.lists(
    st.tuples(st.integers(1, 10**9), TEXTS, st.sampled_from(sorted(MODES))), unique_by=lambda row: row[0]
)


@given(first=TEXTS, later=LATER)
def test_timed_lines_are_read_as_they_were_written(first, later):
    timeline = Timeline((Prompt(0, first), *(Prompt(*row) for row in sorted(later))))
    lines = [f"[{clock(each.start_ms)} {each.mode}] {each.text}" for each in timeline.prompts]
    assert read_timeline("\n".join(lines)) == timeline


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (5000, "5s"), (59_250, "59.25s"), (90_000, "1:30s"), (3_605_001, "1:00:05.001s")],
)
def test_a_clock_reads_as_it_is_typed(milliseconds, text):
    assert clock(milliseconds) == text


def first_picture(block):
    return GEOMETRY.pixel_frames(3 * block)


@given(start_ms=st.integers(0, 10**7), fps=st.sampled_from([16, 24, Fraction(24000, 1001)]))
def test_a_change_falls_on_the_first_border_at_or_after_its_time(start_ms, fps):
    """Against a walk over the borders: block b begins after pixel_frames(3b) pictures."""
    timeline = Timeline((Prompt(0, "one"), Prompt(max(1, start_ms), "two")))
    changes, _ = at_borders(timeline, GEOMETRY, fps, 3)
    block = changes[-1].block
    assert first_picture(block) * 1000 >= max(1, start_ms) * fps > first_picture(block - 1) * 1000


def test_of_two_changes_in_one_block_the_later_wins_and_it_is_said():
    text = "[0s] one\n[0.6s] two\n[1.3s] three"
    changes, notes = at_borders(read_timeline(text), GEOMETRY, 16, 3)
    # block 1 begins with picture 9 (0.5625 s), block 2 with picture 21 (1.3125 s)
    assert [(change.block, change.prompt.text) for change in changes] == [(0, "one"), (2, "three")]
    assert notes == (
        "'two' at 0.6s is not shown: 'three' at 1.3s begins with the same block, 2; put them further apart.",
    )


def test_a_change_after_the_last_block_is_said():
    changes, notes = at_borders(read_timeline("[0s] one\n[1.4s] two"), GEOMETRY, 16, 3, blocks=3)
    # 3 blocks are 33 pictures
    assert [change.block for change in changes] == [0]
    assert notes == (
        "'two' at 1.4s is not shown: the video ends at 2.062s; start it earlier or make the video longer.",
    )


def test_a_cut_moves_the_borders_after_it():
    text = "[0s] a\n[1.4s cut] b\n[3.3s] c\n[5s cut] d\n[6s] e"
    changes, notes = at_borders(read_timeline(text), GEOMETRY, 16, 3)
    # scenes begin with pictures 0, 33 and 90; their blocks 9, 21, 33 ... pictures later
    assert [change.block for change in changes] == [0, 3, 5, 8, 9] and notes == ()
    # 3.3 s are picture 53: 20 after the cut, which 2 blocks show; 5 s are picture 80: 47 after it, 5 blocks
    firsts = {3: 33, 5: 33 + 21, 8: 33 + 57, 9: 33 + 57 + 9}
    times = [0, 23, 53, 80, 96]
    for change, time in zip(changes[1:], times[1:], strict=True):
        assert firsts[change.block] >= time


def test_a_cut_that_is_not_shown_moves_nothing():
    lost = at_borders(read_timeline("[0s] a\n[0.6s cut] b\n[1.3s] c\n[3s] d"), GEOMETRY, 16, 3)
    plain = at_borders(read_timeline("[0s] a\n[1.3s] c\n[3s] d"), GEOMETRY, 16, 3)
    assert lost[0] == plain[0] and len(lost[1]) == 1


def test_latents_before_the_first_block_move_its_borders():
    timeline = read_timeline("[0s] a\n[1s] b")
    # 16 pictures are 5 latents; with one given, a block of four shows them, else a second block has to
    changes, _ = at_borders(timeline, Geometry(64, 64), 16, 4, given=1)
    assert [change.block for change in changes] == [0, 1]
    changes, _ = at_borders(timeline, Geometry(64, 64), 16, 4)
    assert [change.block for change in changes] == [0, 2]


def steps(text):
    """Lines of Python that are run to read a text, right or wrong."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        read_timeline(text)
    except ValueError as why:
        assert len(str(why)) < 500
    finally:
        sys.settrace(None)
    return count


LONG = {
    "blanks in a bracket": lambda n: "[0" + " " * n + "x] y",
    "blanks and dashes": lambda n: "[0" + " - " * n + "] y",
    "brackets": lambda n: "[" * n,
    "digits": lambda n: f"[{'0' * n}] y",
    "a word": lambda n: "x" * n,
    "a mode": lambda n: f"[0 {'x' * n}] y",
    "no end": lambda n: "[0" + "x" * n,
}
LINES = {
    "times": lambda n: "\n".join(f"[{i}s] x" for i in range(n)),
    "separators": lambda n: "x\n---\n" * n + "x",
    "words": lambda n: "x\n" * n,
    "comments": lambda n: "#\n" * n + "x",
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_line_takes_no_more_steps_than_a_short_one(name):
    """What is in a line is cut by text methods, each of which goes over it once; patterns can go back."""
    assert steps(LONG[name](4000)) - steps(LONG[name](2000)) <= (2000 if name == "blanks and dashes" else 0)
    assert not hasattr(typed_module, "re")


@pytest.mark.parametrize("name", LINES)
def test_twice_the_lines_take_at_most_twice_the_steps(name):
    assert steps(LINES[name](400)) <= 2 * steps(LINES[name](200))


def test_more_letters_than_anyone_types_are_refused():
    assert read_timeline("x" * MAX_LETTERS).prompts
    with pytest.raises(ValueError, match=r"4,000,001 letters are written, and at most 4,000,000 are read"):
        read_timeline("x" * (MAX_LETTERS + 1))
    assert read_timeline("x\n" * MAX_LINES).prompts
    with pytest.raises(ValueError, match=r"15,001 lines are written, and at most 15,000 are read"):
        read_timeline("x\n" * (MAX_LINES + 1))


@pytest.mark.parametrize("digits", [9, 10, 5000])
def test_a_time_of_any_length_is_read_or_refused_in_words(digits):
    if digits <= 9:
        assert read_timeline(f"[0] a\n[{'9' * digits}s] b").prompts[1].start_seconds == 10**9 - 1
    else:
        with pytest.raises(ValueError, match=r"line 2, .* is no time; write for instance"):
            read_timeline(f"[0] a\n[{'9' * digits}s] b")


def test_a_refusal_quotes_the_beginning_of_a_long_line():
    with pytest.raises(ValueError, match=r"line 1, '\[5s\] x{55}\.\.\.': is the first"):
        read_timeline("[5s] " + "x" * 9000)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e306])
def test_a_length_without_an_end_is_refused(seconds):
    with pytest.raises(ValueError, match=r"each prompt is shown for .* seconds; give a number that ends"):
        read_timeline("a\n---\nb", seconds_each=seconds)
    with pytest.raises(ValueError, match=r"the stream is planned for .* seconds; give a number that ends"):
        read_timeline("a", length_seconds=seconds)

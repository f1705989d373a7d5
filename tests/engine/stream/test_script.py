"""Which prompt each block is made with, from the start and when a stream goes on."""

from rivulet.model_patches.stream.script import Script
from rivulet.model_patches.stream.timeline import Prompt

CHANGES = {
    0: Prompt(0, "a red circle"),
    3: Prompt(3000, "a blue square", "cut"),
    7: Prompt(8000, "a cyan triangle", "blend"),
}
TIMED = Script("red", "a red circle", CHANGES, lambda text: f"encoded {text}", "recache")


def test_a_fixed_prompt_has_no_changes_and_cannot_be_steered():
    fixed = Script("red")
    assert not fixed.steerable and fixed.text is None
    assert [fixed.due(block) for block in range(9)] == [None] * 9


def test_a_prompt_is_due_with_its_block_alone():
    assert TIMED.steerable
    assert {block: due for block in range(9) if (due := TIMED.due(block))} == CHANGES


def test_the_first_prompt_begins_the_stream_whatever_its_switch():
    shots = Script("red", changes={0: Prompt(0, "one", "shot"), 2: Prompt(0, "two", "shot")})
    assert (shots.due(0), shots.due(2)) == (Prompt(0, "one"), Prompt(0, "two", "shot"))


def test_a_fixed_prompt_stays_the_scripts_own_when_a_stream_goes_on():
    fixed = Script("red")
    assert fixed.resume(5, "a blue square") is fixed


def test_what_was_typed_holds_on():
    again = TIMED.resume(5, "a grey band")
    assert (again.first, again.text) == ("encoded a grey band", "a grey band")
    assert again.due(7) == CHANGES[7] and again.switch == "recache"


def test_where_nothing_was_typed_the_timelines_newest_prompt_holds():
    held = {block: TIMED.resume(block, None).text for block in (1, 3, 4, 7, 8)}
    # a prompt whose block has not been made is still to come
    assert held == {
        1: "a red circle",
        3: "a red circle",
        4: "a blue square",
        7: "a blue square",
        8: "a cyan triangle",
    }


def test_before_its_first_block_a_stream_begins_as_the_script_does():
    again = TIMED.resume(0, None)
    assert (again.first, again.text) == ("red", None)

import threading

import pytest
import torch
from rivulet.pocket import text

OTHER = "a blue square on a red ground"


def test_the_first_prompt_is_read_before_anything_starts(controls):
    assert torch.equal(controls.first_text_BLE, text.encode("a red circle on a green ground"))
    assert [each.number for each in controls.applied] == [0]
    assert controls.take(0, 0) is None


def test_a_prompt_takes_effect_at_the_next_block_and_once(controls):
    assert controls.ask(f"  {OTHER} ") == 1
    assert controls.pending.prompt == OTHER
    assert torch.equal(controls.take(4, 45), text.encode(OTHER))
    last = controls.applied[-1]
    assert (last.number, last.prompt, last.block, last.first_frame) == (1, OTHER, 4, 45)
    assert controls.pending is None
    assert controls.take(5, 57) is None


def test_of_several_prompts_for_one_block_the_newest_wins(controls):
    assert [controls.ask(OTHER), controls.ask("a cyan triangle")] == [1, 2]
    assert torch.equal(controls.take(1, 9), text.encode("a cyan triangle"))
    assert [each.number for each in controls.applied] == [0, 2]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a purple dog", "does not know 'purple', 'dog'. It knows the colours red"),
        ("", "it is empty"),
        ("red circle " * 60, "659 letters, at most 500"),
    ],
    ids=["unknown", "empty", "long"],
)
def test_a_prompt_that_cannot_be_read_changes_nothing(controls, prompt, words):
    controls.ask(OTHER)
    with pytest.raises(ValueError, match=words):
        controls.ask(prompt)
    assert controls.pending.prompt == OTHER
    assert controls.ask(OTHER) == 2


def test_prompts_from_many_threads_get_numbers_of_their_own(controls):
    numbers = []

    def ask():
        numbers.extend(controls.ask(OTHER) for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 201))


def test_what_took_effect_is_remembered_within_bounds(controls):
    for block in range(1000):
        controls.ask(OTHER)
        controls.take(block, block)
    assert len(controls.applied) == 200
    assert controls.applied[-1].number == 1000


def test_waiting_ends_with_the_reason_or_with_the_stream(controls):
    reasons = iter([True, True, False])
    controls.wait_while(lambda: next(reasons))
    controls.stopping = True
    controls.wait_while(lambda: True)

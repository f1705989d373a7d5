"""Messages of viewers: read strictly, taken once, the newest of a kind obeyed."""

import threading

import pytest
from rivulet.model_patches.viewers.mailbox import (
    MAX_ACKNOWLEDGED,
    MAX_KNOWN,
    Mailbox,
    Message,
    Redo,
    read_message,
    read_redo,
)

WHOLE = {"viewer": "9f3a", "number": 3, "do": "prompt", "prompt": " a blue\n square ", "mode": "recache"}


def test_a_message_is_read():
    assert read_message(WHOLE) == Message("9f3a", 3, "prompt", "a blue square", "recache")
    assert read_message({**WHOLE, "do": "pause"}) == Message("9f3a", 3, "pause")


def test_a_redo_is_read_with_as_much_as_it_says():
    bare = {"viewer": "9f3a", "number": 3, "do": "redo", "frame": 40}
    assert read_message(bare).redo == Redo(40)
    more = {"prompt": "a  dog", "mode": "cut"}
    for seed in (2**64 - 1, str(2**64 - 1)):
        assert read_message({**bare, **more, "seed": seed}).redo == Redo(40, "a dog", "cut", 2**64 - 1)
    assert read_redo({}) == Redo()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"viewer": ""}, "`viewer` must be a text of 1 to 64 letters, got ''"),
        ({"viewer": "a\nb"}, "`viewer` must be"),
        ({"viewer": 7}, "got 7"),
        ({"number": 0}, "`number` must be a whole number, 1 or more, got 0"),
        ({"number": True}, "got true"),
        ({"number": 1.0}, r"got 1\.0"),
        ({"number": 2**53}, "`number` must be"),
        ({"do": "dance"}, "`do` must be one of pause, resume, stop, prompt, redo, mark, yield, got 'dance'"),
        ({"do": ["stop"]}, "got list"),
        ({"prompt": "\t"}, "`prompt` must be a text that says what to show"),
        ({"prompt": None}, "got null"),
        ({"prompt": "a" * 4001}, "4001 letters, at most 4000"),
        ({"prompt": "a\0b"}, "letters of no script"),
        ({"mode": {}}, "`mode` must be the name of a switch mode, got dict"),
        ({"mode": "m" * 21}, "`mode` must be the name of a switch mode"),
        ({"do": "redo"}, "`frame` is missing; send the picture"),
        ({"do": "redo", "frame": -1}, "`frame` must be a whole number from 0 to 9007199254740991, got -1"),
        ({"do": "redo", "frame": True}, "got true"),
        ({"do": "redo", "frame": 4, "seed": 2**64}, "`seed` must be a whole number from 0 to"),
        ({"do": "redo", "frame": 4, "seed": str(2**64)}, "`seed` must be a whole number from 0 to"),
        ({"do": "redo", "frame": 4, "seed": "9" * 5000}, "`seed` must be a whole number from 0 to"),
        ({"do": "redo", "frame": 4, "seed": "-1"}, "`seed` must be a whole number from 0 to"),
        ({"do": "redo", "frame": 4, "seed": "٣"}, "`seed` must be a whole number from 0 to"),
        ({"do": "redo", "frame": 4, "prompt": " "}, "`prompt` must be a text that says what to show"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_in_words(change, words):
    with pytest.raises(ValueError, match=words):
        read_message({**WHOLE, **change})


def test_a_refusal_does_not_repeat_a_book():
    with pytest.raises(ValueError) as refused:
        read_message({**WHOLE, "do": "x" * 8000})
    assert len(str(refused.value)) < 200


def test_a_number_is_taken_once_per_viewer():
    box = Mailbox()
    assert box.put(Message("a", 1, "pause")) and not box.put(Message("a", 1, "stop"))
    assert box.put(Message("b", 1, "stop"))
    assert [each["do"] for each in box.pending] == ["pause", "stop"]
    assert box.has_seen(Message("a", 1, "stop")) and not box.has_seen(Message("a", 2, "stop"))


def test_the_newest_of_a_kind_waits_and_the_order_is_kept():
    box = Mailbox()
    for number, do in enumerate(("pause", "resume", "pause"), 1):
        box.put(Message("a", number, do))
    assert [(each["number"], each["outcome"]) for each in box.acknowledged] == [(1, "replaced")]
    assert [message.number for message in box.take(("pause", "resume"))] == [2, 3] and box.pending == []


def test_only_the_kinds_asked_for_are_taken():
    box = Mailbox()
    prompt, stop = Message("a", 1, "prompt", "x", "cut"), Message("a", 2, "stop")
    box.put(prompt)
    box.put(stop)
    assert box.take(("stop",)) == [stop] and box.take(("stop",)) == []
    box.settle(prompt, "done", block=4, first_frame=45)
    told = {"viewer": "a", "number": 1, "outcome": "done", "sentence": "", "block": 4, "first_frame": 45}
    assert box.acknowledged == [told]


def test_a_flood_is_bounded():
    box = Mailbox()
    for number in range(1, MAX_KNOWN + 100):
        box.put(Message("a", number, "prompt", "x", "cut"))
    assert len(box.pending) == 1 and len(box.acknowledged) == MAX_ACKNOWLEDGED
    assert box.has_seen(Message("a", MAX_KNOWN, "stop")) and not box.has_seen(Message("a", 1, "stop"))


def test_who_waits_is_woken():
    box = Mailbox()
    waiting = threading.Thread(target=box.wait, args=(600,))
    waiting.start()
    while waiting.is_alive():
        # it may not wait yet
        box.put(Message("a", 1 + len(box.acknowledged), "pause"))
        waiting.join(0.05)
        box.put(Message("b", 1 + len(box.acknowledged), "pause"))

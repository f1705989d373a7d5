"""Reasons of the system's and the language's errors, as they stand in a sentence."""

import errno
import json

import pytest
from rivulet.model_patches.geometry import Geometry
from rivulet.model_patches.reason import reason_of
from rivulet.tests.refusals import PYTHON, looking


def provoked(act):
    """Returns the error that an act ends with."""
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was wrong")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "permission denied"),
        (provoked(lambda: {}["preset"]), "there is no preset"),
        (provoked(lambda: Geometry(wide=3)), "what is there has other names than are known"),
        (provoked(lambda: Geometry()), "what is there has other names than are known"),
        (provoked(lambda: float([])), "what is there is of another kind than it must be"),
        (ValueError("a size is 0."), "a size is 0"),
        (OSError("cannot write it: the disk is full."), "cannot write it: the disk is full"),
        (RecursionError(), "recursion"),
        (provoked(lambda: json.loads("{")), "Expecting property name enclosed in double quotes"),
    ],
)
def test_a_reason_has_no_word_of_python(error, words):
    assert reason_of(error).startswith(words) and not PYTHON.search(reason_of(error))


@pytest.mark.parametrize(
    "told",
    [
        "made with rope None, not 8",
        "rope {'still': 120}",
        "sizes Geometry(width=64, height=64)",
        "in torch.bfloat16",
        "[Errno 28] No space left",
        "cannot be read (KeyError('preset'))",
        "one of ['a', 'b']",
        "shape (3,)",
        "got <object object at 0x7f>",
        "PosixPath('/x')",
        "StreamConfig.__init__() got an unexpected keyword",
        "guidance True",
    ],
)
def test_words_of_python_are_found(told):
    assert PYTHON.search(told)


def test_every_refusal_that_a_test_provokes_is_looked_at(monkeypatch):
    from rivulet.model_patches.stream import timeline

    monkeypatch.setattr(pytest, "raises", looking(pytest.raises))
    with pytest.raises(ValueError, match="no switch 'fade'"):
        timeline.Prompt(0, "one", "fade")
    monkeypatch.setattr(timeline, "quoted", lambda text: {"text": text})
    with (
        pytest.raises(pytest.fail.Exception, match="which is Python's"),
        pytest.raises(ValueError, match="no switch"),
    ):
        timeline.Prompt(0, "one", "fade")


def test_words_of_people_are_left():
    told = "Start From: image is [1, 64, 64, 4]; fit 'crop' (see docs) has 3 of 12.0 GB; RoPE none, 64x48."
    assert not PYTHON.search(told)

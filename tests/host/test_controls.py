"""Messages to a running stream over HTTP: what cannot be obeyed is refused in words and changes nothing."""

import json

import pytest
from rivulet.tests.host.graphs import BLUE, GREEN, LONG_SECONDS, stream_graph

BAD = {
    "no JSON": (b"{", 400, "is no JSON"),
    "no object": (b"[1]", 400, "not list"),
    "no viewer": (b'{"number": 1, "do": "pause"}', 400, "`viewer` must be a text"),
    "an endless viewer": (
        json.dumps({"viewer": "v" * 65, "number": 1, "do": "pause"}).encode(),
        400,
        "`viewer`",
    ),
    "a negative number": (b'{"viewer": "a", "number": -1, "do": "pause"}', 400, "`number` must be"),
    "a number that is none": (b'{"viewer": "a", "number": NaN, "do": "pause"}', 400, "`number` must be"),
    "an unknown wish": (b'{"viewer": "a", "number": 1, "do": "rm -rf"}', 400, "`do` must be one of pause"),
    "an empty prompt": (
        b'{"viewer": "a", "number": 1, "do": "prompt", "prompt": " "}',
        400,
        "`prompt` must be",
    ),
    "a long prompt": (
        json.dumps(
            {"viewer": "a", "number": 1, "do": "prompt", "prompt": "a " * 2001, "mode": "smooth"}
        ).encode(),
        400,
        "4002 letters, at most 4000",
    ),
    "half a letter": (
        b'{"viewer": "a", "number": 1, "do": "prompt", "prompt": "\\ud800", "mode": "smooth"}',
        400,
        "letters of no script",
    ),
    "an unknown switch": (
        b'{"viewer": "a", "number": 1, "do": "prompt", "prompt": "a dog", "mode": "explode"}',
        400,
        "choose cut or recache or smooth",
    ),
    "deep brackets": (b"[" * 8000, 400, "is no JSON"),
    "a huge body": (b'{"viewer": "' + b"v" * 100_000 + b'"}', 413, "more than 65536 bytes"),
}


@pytest.fixture(scope="module")
def waiting(server):
    """Returns a stream that is paused for as long as these tests look at it."""
    prompt_id = server.queue(stream_graph("waiting", seconds=LONG_SECONDS))
    stream = server.stream(prompt_id)
    stream.ask("pause")
    yield stream
    stream.ask("stop")
    assert server.done(prompt_id)["status"]["status_str"] == "success"
    message = {"viewer": "late", "number": 1, "do": "pause"}
    status, answer = server.post(f"{stream.path}/control", message)
    assert status == 409 and "has ended" in answer["error"]
    repeated = {"viewer": "test", "number": 1, "do": "pause"}
    assert server.post(f"{stream.path}/control", repeated) == (202, {"number": 1})


def asked_for(stream):
    """What messages change: pictures made before the pause may still be coming out of the encoder."""
    return {name: value for name, value in stream.state().items() if name not in ("media", "sequence")}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused_in_words(server, waiting, name):
    body, status, words = BAD[name]
    before = asked_for(waiting)
    got, _, answer = server.send(f"{waiting.path}/control", body, Content_Type="application/json")
    assert got == status and words in json.loads(answer)["error"]
    assert asked_for(waiting) == before and server.alive()


def test_a_repeated_message_changes_nothing(server, waiting):
    before = asked_for(waiting)
    message = {"viewer": "test", "number": 1, "do": "stop"}
    assert server.post(f"{waiting.path}/control", message) == (202, {"number": 1})
    assert asked_for(waiting) == before


def test_a_later_message_replaces_an_earlier_one(server, waiting):
    for number, prompt in ((1, GREEN), (2, BLUE)):
        message = {"viewer": "twice", "number": number, "do": "prompt", "prompt": prompt, "mode": "smooth"}
        assert server.post(f"{waiting.path}/control", message)[0] == 202
    state = waiting.state()
    assert [each["prompt"] for each in state["pending"]] == [BLUE]
    assert [
        (each["number"], each["outcome"]) for each in state["acknowledged"] if each["viewer"] == "twice"
    ] == [(1, "replaced")]


FOREIGN = {
    "another site": {"Sec_Fetch_Site": "cross-site"},
    "a sister site": {"Sec_Fetch_Site": "same-site"},
    "another origin": {"Origin": "http://example.org"},
    "no origin in words": {"Origin": "null"},
    "another name for this machine": {"Host": "evil.com"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_sites_are_refused(server, waiting, name):
    before = asked_for(waiting)
    message = {"viewer": "foreign", "number": 1, "do": "stop"}
    status, _, _ = server.send(
        f"{waiting.path}/control",
        json.dumps(message).encode(),
        Content_Type="application/json",
        **FOREIGN[name],
    )
    assert status == 403 and asked_for(waiting) == before
    assert server.send(waiting.path, **FOREIGN[name])[0] == 403


def test_a_form_of_another_page_is_refused(server, waiting):
    body = b'{"viewer": "form", "number": 1, "do": "stop"}'
    status, _, answer = server.send(f"{waiting.path}/control", body, Content_Type="text/plain")
    assert status == 415 and "application/json" in json.loads(answer)["error"]


@pytest.mark.parametrize("rest", ["", "/seg/0", "/at/0", "/frame/0", "/video", "/live?from=0"])
def test_an_unknown_stream_is_404_in_words(server, rest):
    status, answer = server.get(f"/rivulet/stream/{'0' * 32}{rest}")
    assert status == 404 and "No stream has this id" in answer["error"]

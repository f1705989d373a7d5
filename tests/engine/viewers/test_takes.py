"""The routes about takes on disk, without a server and without takes."""

import json

import pytest
from rivulet.model_patches.viewers.mailbox import Redo
from rivulet.model_patches.viewers.routes import MAX_BODY_BYTES, Request, answer, takes_long
from rivulet.model_patches.viewers.streams import Streams
from rivulet.model_patches.viewers.takes import DELETED, BusyError, GoOn, read_go_on

WISH = {
    "node": "12:7",
    "workflow": "w",
    "client": "c",
    "frame": 8,
    "prompt": "a dog",
    "mode": "cut",
    "seed": 7,
}


class Shelf:
    """Three takes: one that can be gone on with, one that cannot, one in the making."""

    def __init__(self):
        self.wishes = []

    def listed(self):
        return [{"id": "a", "name": "x.mp4"}]

    def picture(self, take):
        return {"a": b"jpeg", "b": None, "c": None}[take]

    def timeline(self, take):
        return {"a": "[0s] a dog\n", "b": ""}[take]

    def delete(self, take, what):
        self.go_on(take, what)

    def go_on(self, take, wish):
        self.picture(take)
        if take == "b":
            raise ValueError("Its video was deleted.")
        if take == "c":
            raise BusyError("It is being made.")
        self.wishes.append((take, wish))


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def ask(shelf):
    """Returns a function that gives (status, JSON value or body) of the answer."""

    def ask(path, body=None, takes=shelf, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        found = answer(Streams(), Request(method, f"/rivulet{path}", {}, kind, data), takes)
        return found.status, json.loads(found.body) if "json" in found.kind else found.body

    return ask


def test_takes_are_listed_and_seen(ask):
    assert ask("/takes") == (200, {"takes": [{"id": "a", "name": "x.mp4"}]})
    assert ask("/take/a/picture") == (200, b"jpeg") and ask("/take/b/picture") == (204, b"")


def test_a_timeline_is_read_and_a_take_deleted(ask, shelf):
    assert ask("/take/a/timeline") == (200, {"timeline": "[0s] a dog\n"})
    assert ask("/take/b/timeline") == (200, {"timeline": ""})
    for what in DELETED:
        assert ask("/take/a/delete", {"what": what}) == (200, {})
    assert shelf.wishes == [("a", what) for what in DELETED]


def test_a_wish_is_read_and_handed_on(ask, shelf):
    assert ask("/take/a/go-on", WISH) == (202, {})
    assert ask("/take/a/go-on", {"node": "4"}) == (202, {})
    assert shelf.wishes == [
        ("a", GoOn("c", "w", "12:7", Redo(8, "a dog", "cut", 7))),
        ("a", GoOn("", "", "4", Redo())),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/take/z/picture", None, 404, "list the takes again"),
        ("/take/z/go-on", WISH, 404, "list the takes again"),
        ("/take/b/go-on", WISH, 400, "was deleted"),
        ("/take/c/go-on", WISH, 409, "being made"),
        ("/take/a/go-on", {}, 400, "`node` is missing"),
        ("/take/a/go-on", [], 400, "Send a JSON object"),
        ("/take/a/go-on", {**WISH, "node": 7}, 400, "`node` must be a text of at most 64 letters, got 7"),
        ("/take/a/go-on", {**WISH, "client": "c" * 65}, 400, "`client` must be"),
        ("/take/a/go-on", {**WISH, "frame": 1.5}, 400, "`frame` must be a whole number"),
        ("/take/a/go-on", {**WISH, "prompt": "\ud800"}, 400, "letters of no script"),
        ("/take/a/go-on", b"x" * (MAX_BODY_BYTES + 1), 413, "more than 65536 bytes"),
        ("/take/z/timeline", None, 404, "list the takes again"),
        ("/take/z/delete", {"what": "all"}, 404, "list the takes again"),
        ("/take/b/delete", {"what": "all"}, 400, "was deleted"),
        ("/take/c/delete", {"what": "all"}, 409, "being made"),
        ("/take/a/delete", {}, 400, "`what` must be one of all, snapshots, got None"),
        ("/take/a/delete", ["all"], 400, "`what` must be one of"),
        ("/take/a/delete", None, 404, "There is no GET"),
        ("/take/a/timeline", {}, 404, "There is no POST"),
        ("/take/../picture", None, 404, "There is no GET"),
        ("/take/a/go-on", None, 404, "There is no GET"),
        ("/takes", {}, 404, "There is no POST"),
    ],
)
def test_what_cannot_be_is_refused_in_words(ask, shelf, path, body, status, words):
    found, value = ask(path, body)
    assert found == status and words in value["error"] and shelf.wishes == []


def test_a_form_of_another_page_is_refused(ask, shelf):
    for path, body in (("go-on", WISH), ("delete", {"what": "all"})):
        assert ask(f"/take/a/{path}", body, kind="text/plain")[0] == 415 and shelf.wishes == []


def test_without_takes_there_are_no_such_routes(ask):
    assert ask("/takes", takes=None)[0] == ask("/take/a/picture", takes=None)[0] == 404


def test_what_reads_files_takes_long():
    asked = (("GET", "/takes"), ("GET", "/take/a/picture"), ("POST", "/take/a/go-on"))
    assert all(takes_long(Request(method, f"/rivulet{path}")) for method, path in asked)


def test_a_wish_of_nobody_is_refused():
    with pytest.raises(ValueError, match="not str"):
        read_go_on("x")

"""The routes of docs/preview.md, without a server."""

import io
import json

import pytest
from PIL import Image
from rivulet.model_patches.viewers.live import Given
from rivulet.model_patches.viewers.routes import MAX_BODY_BYTES, Request, answer, takes_long
from rivulet.model_patches.viewers.session import Session
from rivulet.model_patches.writer.movie import frame_count
from rivulet.tests.engine.viewers.conftest import BLOCK, FPS, HEIGHT, WIDTH, grey
from rivulet.tests.waiting import wait_for


@pytest.fixture
def ask(feed):
    """Returns a function that gives the answer about this stream: `rest` is the path after its id."""

    def ask(rest="", body=None, kind="application/json", **query):
        path = f"/rivulet/stream/{feed.live.session}{rest}"
        if body is None:
            return answer(feed.streams, Request("GET", path, query))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return answer(feed.streams, Request("POST", path, query, kind, data))

    return ask


def value(found):
    return json.loads(found.body)


def close(feed):
    """Ends the stream as its session does."""
    Session.__exit__(feed.session, None, None, None)


def on_disk(feed, segments):
    """Returns when so many segments are there; the newest frame is, as soon as the next one comes."""

    def there():
        feed.live.collect()
        return feed.live.segments.next >= segments

    wait_for(there)


def test_the_list_says_which_streams_the_client_queued(feed):
    def listed(**query):
        return value(answer(feed.streams, Request("GET", "/rivulet/streams", query)))

    told = listed(client="tab")
    assert told["own"] == [feed.live.session] == [each["session"] for each in told["streams"]]
    assert "prompts" not in told["streams"][0] and told["streams"][0]["workflow"] == "w"
    assert listed(client="other")["own"] == listed()["own"] == []


def test_what_the_host_gave_again_is_listed_for_the_page_that_asked(feed):
    close(feed)
    feed.streams.may_give("q", "1", {"take.mp4": feed.live.session}, Given("fresh", "v", 7.0))

    def tell(**more):
        told = {"client": "fresh", "prompt_id": "q", "node": "1", "file": "take.mp4", **more}
        asked = Request("POST", "/rivulet/given", {}, "application/json", json.dumps(told).encode())
        return answer(feed.streams, asked)

    def listed(client):
        found = value(answer(feed.streams, Request("GET", "/rivulet/streams", {"client": client})))
        return found["own"], found["given"]

    assert tell(node=1).status == 400 and "`node`" in value(tell(node=1))["error"]
    assert value(tell(file="another.mp4")) == {"known": False} and listed("fresh") == ([], [])
    assert value(tell()) == {"known": True}
    assert listed("fresh") == ([], [{"session": feed.live.session, "workflow": "v", "at": 7.0}])
    assert listed("tab") == ([feed.live.session], []) and listed("another") == ([], [])
    assert feed.live.clients() == {"tab", "fresh"}


def test_a_stream_whose_segments_were_let_go_of_still_has_its_file(feed, ask):
    feed.block()
    on_disk(feed, BLOCK)
    close(feed)
    before = value(ask())
    feed.live.forget_media()
    after = value(ask())
    assert before["media"] is not None and after == {**before, "media": None}
    assert ask("/seg/0").status == ask("/at/0").status == 410 and ask("/frame/0").status == 204
    assert ask("/video").file == feed.writer.result


def test_the_state_counts_blocks_and_tells_the_prompts(feed, ask):
    before = value(ask())
    assert (before["phase"], before["block"], before["frames"], before["media"]) == ("starting", 0, 0, None)
    feed.block()
    after = value(ask())
    assert (after["phase"], after["block"], after["frames"]) == ("running", 1, BLOCK)
    assert [each["prompt"] for each in after["prompts"]] == ["a red circle"]


def test_segments_come_in_a_row_until_none_will_come(feed, ask, tmp_path):
    assert ask("/seg/0").status == 204
    feed.block()
    feed.block()
    on_disk(feed, 2 * BLOCK)
    init, media = ask("/seg/0"), ask("/seg/1")
    assert (init.headers["X-Rivulet-Kind"], init.headers["X-Rivulet-Start"]) == ("init", "0.0")
    assert (media.headers["X-Rivulet-Kind"], media.headers["X-Rivulet-Next"]) == ("media", str(2 * BLOCK))
    (tmp_path / "pulled.mp4").write_bytes(init.body + media.body)
    assert frame_count(tmp_path / "pulled.mp4") == 2 * BLOCK - 1 and media.kind == "video/mp4"
    assert ask(f"/seg/{2 * BLOCK}").status == 204
    close(feed)
    assert ask(f"/seg/{2 * BLOCK}").status == 200
    assert ask(f"/seg/{2 * BLOCK + 1}").status == 410


def test_a_second_part_tells_where_its_time_begins(feed, ask):
    feed.block()
    feed.writer.seal()
    feed.block()
    on_disk(feed, 2 * BLOCK + 1)
    number = BLOCK + 1
    found = ask(f"/seg/{number}")
    assert (found.headers["X-Rivulet-Kind"], found.headers["X-Rivulet-Start"]) == ("init", repr(BLOCK / FPS))
    assert value(ask(f"/at/{BLOCK + 1}")) == {"init": number, "segment": number + 1, "frame": BLOCK}


def test_places_are_key_frames_that_are_there(feed, ask):
    assert ask("/at/0").status == 410
    feed.block()
    on_disk(feed, BLOCK)
    assert value(ask("/at/6")) == {"init": 0, "segment": 5, "frame": 4}
    assert ask(f"/at/{BLOCK}").status == 410


def test_an_endless_file_grows_and_ends_with_the_stream(feed, ask, tmp_path):
    feed.block()
    on_disk(feed, BLOCK)
    assert ask("/live", **{"from": "x"}).status == 400 and ask("/live", **{"from": "3"}).status == 410
    pieces = ask("/live", **{"from": "4"}).pieces
    got = [next(pieces), next(pieces), next(pieces)]
    assert got[2] == b"", "nothing yet"
    close(feed)
    got += list(pieces)
    (tmp_path / "pulled.mp4").write_bytes(b"".join(got))
    assert frame_count(tmp_path / "pulled.mp4") == BLOCK - 4


def test_single_pictures_are_those_of_the_stream(feed, ask):
    assert ask("/frame/0").status == 204
    feed.block()
    on_disk(feed, BLOCK)
    for frame in (0, 6, BLOCK - 2):
        found = ask(f"/frame/{frame}")
        picture = Image.open(io.BytesIO(found.body))
        assert (found.kind, found.headers["X-Rivulet-Frame"]) == ("image/jpeg", str(frame))
        # two codecs lie between: each rounds, and neighbours are 5 apart
        assert picture.size == (WIDTH, HEIGHT) and abs(picture.getpixel((9, 9))[0] - grey(frame)) <= 2
    assert ask(f"/frame/{BLOCK - 1}").status == 204


def test_the_file_is_there_when_it_is_finished_and_not_deleted(feed, ask):
    feed.block()
    assert "not finished" in value(ask("/video"))["error"]
    close(feed)
    assert ask("/video").file == feed.writer.result
    feed.writer.result.unlink()
    assert ask("/video").status == 404 and "not in the output folder" in value(ask("/video"))["error"]


PAUSE = {"viewer": "v", "number": 1, "do": "pause"}


def test_a_message_is_taken_once(feed, ask):
    for _ in range(2):
        found = ask("/control", PAUSE)
        assert (found.status, value(found)) == (202, {"number": 1})
    assert len(feed.live.mailbox.pending) == 1
    prompt = {"viewer": "v", "number": 2, "do": "prompt", "prompt": "a dog", "mode": "blend"}
    found = ask("/control", prompt)
    assert found.status == 400 and "choose smooth or cut" in value(found)["error"]
    close(feed)
    assert ask("/control", {**PAUSE, "number": 3}).status == 409


@pytest.mark.parametrize("letter", ["a", "河", "🌊"])
def test_the_longest_prompt_is_taken_in_every_script(feed, ask, letter):
    prompt = letter * feed.live.state()["longest_prompt"]
    message = {"viewer": "v" * 64, "number": 2**53 - 1, "do": "prompt", "prompt": prompt, "mode": "smooth"}
    # a client may write each letter as one or two escapes
    for body in (json.dumps(message).encode(), json.dumps(message, ensure_ascii=False).encode()):
        assert ask("/control", body).status == 202
    assert feed.live.mailbox.pending[0]["prompt"] == prompt


BODIES = {
    "no JSON": (b"{", 400, "no JSON"),
    "no text": (b"\xff\xfe", 400, "no JSON"),
    "deep brackets": (b"[" * 65000, 400, "no JSON"),
    "no object": (b"[1]", 400, "Send a JSON object"),
    "no wish": (b"{}", 400, "`viewer`"),
    "too long": (b"x" * (MAX_BODY_BYTES + 1), 413, "more than 65536 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_message_is_refused_in_words_and_changes_nothing(feed, ask, name):
    body, status, words = BODIES[name]
    found = ask("/control", body)
    assert found.status == status and words in value(found)["error"]
    assert feed.live.mailbox.pending == []


def test_a_form_of_another_page_is_refused(feed, ask):
    assert ask("/control", PAUSE, kind="text/plain").status == 415
    assert feed.live.mailbox.pending == []


@pytest.mark.parametrize(
    "path",
    [
        "/rivulet",
        "/rivulet/stream/",
        "/rivulet/stream/0",
        "/rivulet/stream/../x",
        "/rivulet/stream/0/seg/-1",
        "/x",
    ],
)
def test_what_is_not_there_is_404_in_words(feed, path):
    for method in ("GET", "POST", "PUT"):
        found = answer(feed.streams, Request(method, path))
        assert found.status == 404 and value(found)["error"]


@pytest.mark.parametrize("rest", ["/seg/x", f"/seg/{'9' * 16}", "/frame/", "/video/..", "/control"])
def test_no_other_paths_of_a_stream_are_answered(ask, rest):
    assert ask(rest).status == 404


def test_only_what_reads_a_file_or_decodes_takes_long():
    def long(method, rest):
        return takes_long(Request(method, f"/rivulet/stream/a{rest}"))

    assert all(long("GET", rest) for rest in ("", "/seg/0", "/frame/7", "/video"))
    assert not any((long("GET", "/at/0"), long("GET", "/live"), long("POST", "/control")))

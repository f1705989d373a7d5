import json
import re
import socket
from io import BytesIO

import pytest
from PIL import Image
from rivulet.pocket import text
from rivulet.pocket.demo import server as server_module
from rivulet.pocket.demo.server import DemoServer, RefusedError, byte_range


def test_the_page_and_all_it_asks_for_are_there(client):
    asked, seen = ["/"], {}
    while asked:
        path = asked.pop()
        if path in seen:
            continue
        status, headers, body = client.ask("GET", path)
        assert status == 200, path
        seen[path] = headers["Content-Type"]
        found = re.findall(rb'(?:src|href)="(/[^"]+)"|from "\.(?:\./\.\.)?(/[^"]+)"', body)
        asked += [(a or b).decode() for a, b in found if (a or b) != b"/video.mp4"]
    own = {"/", "/page.css", "/page.mjs", "/player.mjs", "/logic.mjs"}
    shared = {f"/web/{name}.mjs" for name in ("buffer", "clock", "media", "timeline")}
    assert own | shared == set(seen)
    assert seen["/page.mjs"].startswith("text/javascript")


def test_every_answer_forbids_other_sources_and_storing(client):
    for path in ("/", "/status", "/nothing"):
        headers = client.ask("GET", path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_prompt_is_acknowledged_with_its_block(client, feed):
    feed.block()
    status, told = client.post("/prompt", {"prompt": "a blue square on a red ground"})
    assert (status, told) == (202, {"number": 1, "block": 1})
    assert client.status()["pending"]["number"] == 1
    feed.block()
    assert client.status()["applied"][-1] == {
        "number": 1,
        "prompt": "a blue square on a red ground",
        "block": 1,
        "first_frame": 9,
    }


def test_unknown_words_are_answered_with_the_known_ones(client, feed):
    status, told = client.post("/prompt", {"prompt": "a purple dog"})
    assert status == 400
    assert "does not know 'purple', 'dog'" in told["error"] and "circle" in told["error"]
    assert feed.controls.pending is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[1]", 400, "Send a JSON object"),
        (b'"a red circle"', 400, "Send a JSON object"),
        (b"{}", 400, 'Send {"prompt": "..."}'),
        (b'{"prompt": 7}', 400, 'Send {"prompt": "..."}'),
        (b'{"prompt": ""}', 400, "it is empty"),
        (b'{"prompt": "' + b"red circle " * 60 + b'"}', 400, "659 letters, at most 500"),
        (b"[" * 4000, 400, "no JSON"),
        (b"x" * 5000, 413, "5000 bytes, at most 4096"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_a_bad_prompt_is_answered_with_a_sentence_and_changes_nothing(client, feed, body, status, words):
    got, told = client.post("/prompt", body)
    assert got == status
    assert words in told["error"]
    assert feed.controls.pending is None


def test_a_body_of_another_kind_or_of_no_length_is_refused(client):
    assert client.ask("POST", "/prompt", b"{}", Content_Type="text/plain")[0] == 415
    assert client.ask("POST", "/prompt", b"{}")[0] == 415
    for length in ("-1", "1e3", "+2", "99999999999"):
        told = raw(
            client,
            f"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{}}",
        )
        assert re.match(rb"HTTP/1.1 4\d\d", told), length
    told = raw(
        client,
        f"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n",
    )
    assert told.startswith(b"HTTP/1.1 411")


def raw(client, request):
    """Returns the answer to a request that no client would write."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.org"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.example.org:{port}"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_sites_are_refused(client, feed, method, headers):
    headers = {name: value.replace("{port}", str(client.port)) for name, value in headers.items()}
    body = {"POST": b'{"do": "stop"}', "GET": None}[method]
    path = {"POST": "/control", "GET": "/status"}[method]
    status, _, told = client.ask(method, path, body, Content_Type="application/json", **headers)
    assert status == 403
    assert "refused" in json.loads(told)["error"] or "answers to" in json.loads(told)["error"]
    assert not feed.controls.stopping


def test_the_page_itself_may_ask(client, feed):
    for host in ("127.0.0.1", "localhost"):
        headers = {
            "Host": f"{host}:{client.port}",
            "Origin": f"http://{host}:{client.port}",
            "Sec-Fetch-Site": "same-origin",
            "Content_Type": "application/json",
        }
        assert client.ask("POST", "/control", b'{"do": "pause"}', **headers)[0] == 202
        assert feed.controls.paused
        feed.controls.paused = False


@pytest.mark.parametrize(
    "path",
    [
        "/../session.py",
        "/..%2fsession.py",
        "//etc/passwd",
        "/page.css/../cli.py",
        "/server.py",
        "/fragments/0/-1",
        "/fragments/0/1/2",
        "/fragments/" + "9" * 40 + "/0",
        "/frame/x",
        "/init/",
        "/%00",
        "/video.mp4/..",
        "*",
    ],
)
def test_only_what_is_on_the_list_is_served(client, path):
    told = raw(client, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nConnection: close\r\n\r\n")
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "request_line", ["PUT / HTTP/1.1", "OPTIONS /prompt HTTP/1.1", "nonsense", "GET / HTTP/9.9", "GET"]
)
def test_other_methods_and_nonsense_get_a_sentence(client, request_line):
    told = raw(client, f"{request_line}\r\nHost: 127.0.0.1:{client.port}\r\n\r\n")
    assert json.loads(told.rpartition(b"\r\n\r\n")[2])["error"]


def test_the_live_file_comes_in_pieces_that_join_to_the_file(client, feed):
    assert client.ask("GET", "/init/0")[0] == 204
    feed.block()
    feed.block()
    client.wait(lambda status: status["live"] and status["live"]["fragments"] == 20)
    joined, number = client.ask("GET", "/init/0")[2], 0
    while True:
        status, headers, body = client.ask("GET", f"/fragments/0/{number}")
        if status == 204:
            break
        joined, number = joined + body, int(headers["X-Next"])
    assert number == 20
    assert feed.writer.index.path.read_bytes().startswith(joined)
    feed.writer.seal()
    feed.block()
    status = client.wait(lambda status: status["live"] and status["live"]["part"] == 21)
    assert client.ask("GET", "/fragments/0/20")[0] == 410
    assert client.ask("GET", "/init/0")[0] == 410
    assert client.ask("GET", f"/init/{status['live']['part']}")[0] == 200


def test_single_pictures_can_be_watched(client, feed):
    assert client.ask("GET", "/frame/0")[0] == 204
    feed.block()
    status, headers, body = client.ask("GET", "/frame/8")
    assert (status, headers["X-Frame"], headers["Content-Type"]) == (200, "8", "image/jpeg")
    picture = Image.open(BytesIO(body))
    assert picture.size == (32, 16)
    assert picture.getpixel((9, 9)) == (40, 40, 40)
    assert client.ask("GET", "/frame/9")[0] == 204


def test_pause_resume_and_stop(client, feed):
    for wish, paused, stopping in (("pause", True, False), ("resume", False, False), ("stop", False, True)):
        assert client.post("/control", {"do": wish}) == (202, {"done": wish})
        assert (feed.controls.paused, feed.controls.stopping) == (paused, stopping)
    for wish in ("explode", None, ["stop"]):
        assert client.post("/control", {"do": wish})[0] == 400


def test_the_finished_file_is_served_whole_and_in_ranges(client, feed):
    assert client.ask("GET", "/video.mp4")[0] == 404
    feed.block()
    feed.writer.__exit__(None, None, None)
    feed.session.end("ended", "")
    data = feed.writer.result.read_bytes()
    status, headers, body = client.ask("GET", "/video.mp4")
    assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
    for wanted, expected in (
        ("bytes=0-99", data[:100]),
        ("bytes=100-", data[100:]),
        ("bytes=-7", data[-7:]),
        (f"bytes=5-{10**9}", data[5:]),
    ):
        status, headers, body = client.ask("GET", "/video.mp4", Range=wanted)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{len(data)}")
    assert client.ask("GET", "/video.mp4", Range="bytes=999999999-")[0] == 416
    assert client.post("/prompt", {"prompt": "a red circle"})[0] == 409


@pytest.mark.parametrize(
    "wanted", ["bytes=9-3", "bytes=-", "bytes=-0", "bytes=10-", "pages=1-2", "bytes=1-2,4-5", ""]
)
def test_ranges_outside_the_file_are_refused(wanted):
    with pytest.raises(RefusedError, match="10 bytes"):
        byte_range(wanted, 10)


def test_a_port_that_is_taken_is_told(client, feed):
    for port in (client.port, 99999):
        with pytest.raises(ValueError, match=f"port {port} cannot be opened .* leave --port out"):
            DemoServer(feed.session, port)


def test_the_page_asks_for_nothing_from_elsewhere():
    for name, _ in server_module.FILES.values():
        content = (server_module.PAGE / name).read_text(encoding="utf-8")
        assert not re.search(r"(?:https?:)?//(?!\s)[a-z]", content.replace("http-equiv", "")), name


def test_the_examples_can_be_read(feed):
    for prompt in feed.session.status()["examples"]:
        text.encode(prompt)

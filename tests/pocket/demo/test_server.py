import json
import re
import socket

import pytest
from rivulet.model_patches.viewers.routes import MAX_BODY_BYTES, RefusedError
from rivulet.pocket import text
from rivulet.pocket.demo.server import HERE, PAGE_FILES, Connection, DemoServer, byte_range

NAMESPACE = "http://www.w3.org/2000/svg"  # a name that looks like an address, and that no browser asks for
PROMPT = {"prompt": "a blue square on a red ground", "mode": "smooth"}


def test_the_page_and_all_it_asks_for_are_there(client):
    asked, seen = ["/", "/web/widget.css", "/web/player.css"], {}
    while asked:
        path = asked.pop()
        if path in seen:
            continue
        status, headers, body = client.ask("GET", path)
        assert status == 200, path
        seen[path] = headers["Content-Type"]
        named = re.findall(r'(?:src|href)="(/[^"]+)"', body.decode()) if path == "/" else []
        folder = path.rpartition("/")[0]
        asked += named + [f"{folder}/{each}" for each in re.findall(r'from "\./([^"]+)"', body.decode())]
    # all that is served is asked for, but for what the page finds out by itself
    assert seen.keys() == PAGE_FILES.keys()
    assert seen["/mount.mjs"].startswith("text/javascript") and "/web/player.mjs" in seen


def test_every_answer_forbids_other_sources_and_storing(client):
    for path in ("/", "/rivulet/streams", "/nothing"):
        headers = client.ask("GET", path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_the_page_finds_the_stream_as_its_own(client, feed):
    page = (HERE / "mount.mjs").read_text()
    client_id, node = re.search(r'client: \(\) => "(\w+)", place: \(\) => \(\{ node: "(\w+)"', page).groups()
    told = json.loads(client.ask("GET", f"/rivulet/streams?client={client_id}")[2])
    assert told["own"] == [feed.live.session] and told["streams"][0]["node"] == node
    assert told["streams"][0]["workflow"] == ""


def test_a_prompt_is_acknowledged_with_its_block(client, feed):
    feed.block()
    assert client.wish(1, "prompt", **PROMPT) == (202, {"number": 1})
    assert [each["prompt"] for each in client.state()["pending"]] == [PROMPT["prompt"]]
    feed.block()
    state = client.state()
    assert state["prompts"][-1] == {**PROMPT, "block": 1, "first_frame": 9}
    (told,) = state["acknowledged"]
    assert (told["outcome"], told["block"], told["first_frame"]) == ("done", 1, 9)


def test_pause_resume_and_stop_reach_the_stream(client, feed):
    feed.block()
    for number, (do, paused, stopping) in enumerate(
        [("pause", True, False), ("resume", False, False), ("stop", False, True)], 1
    ):
        assert client.wish(number, do) == (202, {"number": number})
        feed.session.live.mailbox.wait = lambda seconds: setattr(feed.session, "stopping", True)
        feed.session.should_continue()
        assert (feed.session.paused, feed.session.stopping) == (paused, stopping or paused)
        feed.session.stopping = False


def test_a_body_of_no_length_or_too_long_is_refused(client, feed):
    path = client.stream("/control")
    assert client.post(path, b"x" * (MAX_BODY_BYTES + 1))[0] == 413
    assert client.post(path, b"")[0] == 400
    for length in ("-1", "1e3", "+2", "99999999999"):
        told = raw(
            client,
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{}}",
        )
        assert re.match(rb"HTTP/1.1 4\d\d", told), length
    told = raw(
        client,
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{}\r\n0\r\n\r\n",
    )
    assert told.startswith(b"HTTP/1.1 411")
    assert feed.live.mailbox.pending == []


@pytest.mark.parametrize(
    "told", ["Content-Length: 60", "Content-Length: 060", "Transfer-Encoding: chunked", "Content-Length: x"]
)
def test_a_body_that_nobody_reads_is_not_the_next_request(client, told):
    """Sent after a GET, it would be answered as another: the connection ends instead."""
    smuggled = f"GET /page.css HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\n"
    got = raw(client, f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n{told}\r\n\r\n{smuggled}")
    assert got.startswith(b"HTTP/1.1 200") and b"Connection: close" in got
    assert got.count(b"HTTP/1.1 ") == 1


def test_two_lengths_of_one_body_are_refused(client, feed):
    lengths = "Content-Length: 2\r\nContent-Length: 60\r\n"
    got = raw(
        client,
        f"POST {client.stream('/control')} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n{lengths}\r\n{{}}",
    )
    assert got.startswith(b"HTTP/1.1 411") and got.count(b"HTTP/1.1 ") == 1


def test_requests_without_a_body_share_a_connection_and_wait_for_no_answer(client, monkeypatch):
    asked = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\n"
    assert raw(client, asked * 3).count(b"HTTP/1.1 200") == 3
    seen = []
    monkeypatch.setattr(
        Connection,
        "do_GET",
        lambda self: seen.append(self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
    )
    raw(client, asked)
    assert seen[0]


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
    message = json.dumps({"viewer": "elsewhere", "number": 1, "do": "stop"})
    path, body = (client.stream("/control"), message) if method == "POST" else ("/", None)
    status, _, told = client.ask(method, path, body, Content_Type="application/json", **headers)
    assert status == 403
    assert "refused" in json.loads(told)["error"] or "answers to" in json.loads(told)["error"]
    assert feed.live.mailbox.pending == []


def test_the_page_itself_may_ask(client, feed):
    for host in ("127.0.0.1", "localhost"):
        headers = {
            "Host": f"{host}:{client.port}",
            "Origin": f"http://{host}:{client.port}",
            "Sec-Fetch-Site": "same-origin",
            "Content_Type": "application/json",
        }
        message = json.dumps({"viewer": host, "number": 1, "do": "pause"})
        assert client.ask("POST", client.stream("/control"), message, **headers)[0] == 202
    assert len(feed.live.mailbox.pending) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/../session.py",
        "/..%2fsession.py",
        "//etc/passwd",
        "/page.css/../cli.py",
        "/server.py",
        "/web/rivulet.js",
        "/web/../README.md",
        "/rivulet/stream/..",
        "/%00",
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


def test_what_is_pulled_piece_by_piece_or_as_one_is_the_file(client, feed):
    assert client.ask("GET", client.stream("/seg/0"))[0] == 204
    feed.block()
    feed.block()
    feed.session.__exit__(None, None, None)
    pulled, number = b"", 0
    while (answer := client.ask("GET", client.stream(f"/seg/{number}")))[0] == 200:
        pulled, number = pulled + answer[2], int(answer[1]["X-Rivulet-Next"])
    assert answer[0] == 410 and number == 22
    status, headers, live = client.ask("GET", client.stream("/live?from=0"))
    assert (status, headers["Transfer-Encoding"], live) == (200, "chunked", pulled)


def test_the_finished_file_is_served_whole_and_in_ranges(client, feed):
    path = client.stream("/video")
    assert client.ask("GET", path)[0] == 404
    feed.block()
    feed.session.__exit__(None, None, None)
    data = feed.session.writer.result.read_bytes()
    status, headers, body = client.ask("GET", path)
    assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
    for wanted, expected in (
        ("bytes=0-99", data[:100]),
        ("bytes=100-", data[100:]),
        ("bytes=-7", data[-7:]),
        (f"bytes=5-{10**9}", data[5:]),
    ):
        status, headers, body = client.ask("GET", path, Range=wanted)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{len(data)}")
    assert client.ask("GET", path, Range="bytes=999999999-")[0] == 416
    assert client.wish(1, "prompt", **PROMPT)[0] == 409


@pytest.mark.parametrize(
    "wanted", ["bytes=9-3", "bytes=-", "bytes=-0", "bytes=10-", "pages=1-2", "bytes=1-2,4-5", ""]
)
def test_ranges_outside_the_file_are_refused(wanted):
    with pytest.raises(RefusedError, match="10 bytes"):
        byte_range(wanted, 10)


def test_a_port_that_is_taken_is_told(client, feed):
    for port in (client.port, 99999):
        with pytest.raises(ValueError, match=f"port {port} cannot be opened .* leave --port out"):
            DemoServer(feed.streams, port)


def test_the_page_asks_for_nothing_from_elsewhere():
    for path in PAGE_FILES.values():
        content = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
        assert not re.search(r"(?:https?:)?//(?!\s)[a-z]", content), path.name


def test_the_prompts_to_try_can_be_read():
    prompts = re.findall(r'<button type="button">([^<]+)<', (HERE / "page.html").read_text(encoding="utf-8"))
    assert len(prompts) == 3
    for prompt in prompts:
        text.encode(prompt)

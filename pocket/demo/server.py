"""The page and the routes of docs/preview.md, on this machine only."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ...model_patches.viewers.routes import (
    HEADERS,
    MAX_BODY_BYTES,
    POLL_SECONDS,
    PREFIX,
    Answer,
    RefusedError,
    Request,
    answer,
    error_answer,
    json_answer,
    parse_json,
)
from ...model_patches.viewers.streams import Streams

HERE = Path(__file__).parent
WIDGET = HERE.parents[1] / "web"
KINDS = {".html": "text/html", ".css": "text/css", ".mjs": "text/javascript"}
WIDGET_FILES = {f"/web/{path.name}": path for end in ("mjs", "css") for path in WIDGET.glob(f"*.{end}")}
STYLES = ("widget.css", "player.css")  # of the widget alone


def imported(module: Path) -> set[Path]:
    """The module and all that it imports; what only ComfyUI's page needs is not among them."""
    found, asked = set(), [module]
    while asked:
        found.add(path := asked.pop())
        names = re.findall(r'from "(\./[^"]+)"', path.read_text(encoding="utf-8"))
        asked += {path.parent / name for name in names} - found
    return found


PAGE_FILES = {
    "/": HERE / "page.html",
    **{f"/{name}": HERE / name for name in ("page.css", "mount.mjs")},
    **{f"/web/{name}": WIDGET / name for name in STYLES},
    **{f"/web/{path.name}": path for path in imported(WIDGET / "widget.mjs")},
}
ANOTHER = "/another"  # the route that asks for another video
PIECE = 1 << 16  # bytes of a file at a time
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class DemoServer(ThreadingHTTPServer):
    """Serves streams and a page on 127.0.0.1; port 0 takes a free one."""

    daemon_threads = True

    def __init__(
        self, streams: Streams, port: int = 0, files: Mapping[str, Path] = PAGE_FILES, policy: str = POLICY
    ) -> None:
        """policy: where the page may get what from."""
        self.streams, self.files, self.policy = streams, files, policy
        self.last_asked: float | None = None  # when a page last wanted something of a stream
        self.check: Callable[[str], object] = lambda prompt: None  # ValueError: it cannot be shown
        self.wanted: str | None = None  # the prompt of another video, once the last stream has ended
        try:
            super().__init__(("127.0.0.1", port), Connection)
        except (OSError, OverflowError) as why:
            raise ValueError(
                f"Demo: port {port} cannot be opened ({why}); leave --port out to take a free one."
            ) from why
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def ask_another(self, request: Request) -> Answer:
        """Takes the prompt of another video, which begins at once; RefusedError says why not."""
        told = parse_json(request)
        prompt = told.get("prompt") if isinstance(told, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise RefusedError(400, "Say what the video is to show.")
        newest = next(iter(self.streams.all()), None)
        if self.wanted is not None or newest is None or not newest.over or newest.goes_on:
            raise RefusedError(409, "A video is being made; stop it first, or change what comes next.")
        try:
            self.check(prompt.strip())
        except ValueError as why:
            raise RefusedError(400, str(why)) from why
        self.wanted = prompt.strip()
        return json_answer({}, 202)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a viewer who went away is no fault."""


class Connection(BaseHTTPRequestHandler):
    """One connection of a page."""

    server: DemoServer
    protocol_version = "HTTP/1.1"
    timeout = 15  # seconds that a silent connection is kept
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait for an answer

    def do_GET(self) -> None:
        """Answers with a file of the page or with what a stream's viewer asks for."""
        self._answer()

    def do_POST(self) -> None:
        """Takes a message."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal belongs to the stream's numbers."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the base class refuses by itself."""
        why = RefusedError(code, f"{message or HTTPStatus(code).phrase}.")
        self.close_connection = True
        self._send(error_answer(why))

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            self._check_sender()
            body = self._body() if self.command == "POST" else b""
        except RefusedError as why:
            self.close_connection |= self.command == "POST"
            return self._send(error_answer(why))
        # what is left of a body that was not read would be taken for the next request
        self.close_connection |= len(body) > MAX_BODY_BYTES or (self.command != "POST" and self._has_body())
        if self.command == "GET" and path in self.server.files:
            file = self.server.files[path]
            return self._send(Answer(200, file.read_bytes(), f"{KINDS[file.suffix]}; charset=utf-8"))
        asked = dict(parse_qsl(query)), self.headers.get_content_type(), body
        request = Request(self.command, path, *asked)
        if (self.command, path) == ("POST", ANOTHER):
            found = self._another(request)
        else:
            found = answer(self.server.streams, request)
        if path.startswith((PREFIX, ANOTHER)):
            self.server.last_asked = time.monotonic()
        if found.file:
            self._send_file(found.file, found.kind)
        elif found.pieces:
            self._send_pieces(found.pieces, found.kind)
        else:
            self._send(found)

    def _another(self, request: Request) -> Answer:
        try:
            return self.server.ask_another(request)
        except RefusedError as why:
            return error_answer(why)

    def _check_sender(self) -> None:
        """Refuses other web sites: a page elsewhere must not steer or watch the stream."""
        host = self.headers.get("Host", "")
        if host not in self.server.hosts:
            raise RefusedError(403, f"This page answers to {self.server.url} only, not to {host[:100]!r}.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in self.server.hosts}:
            raise RefusedError(403, f"Requests from {origin} are refused.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise RefusedError(403, "Requests from other sites are refused.")

    def _has_body(self) -> bool:
        """Whether the request says that a body comes after its head."""
        length = self.headers.get("Content-Length", "0").strip()
        return length.strip("0") != "" or "Transfer-Encoding" in self.headers

    def _body(self) -> bytes:
        """The request's body, or the beginning of one that is too long."""
        length = self.headers.get("Content-Length", "")
        lengths = self.headers.get_all("Content-Length", [])
        if (
            len(lengths) != 1
            or "Transfer-Encoding" in self.headers
            or not re.fullmatch(r"[0-9]{1,9}", length)
        ):
            raise RefusedError(411, "Say the length of the request's body.")
        return self.rfile.read(min(int(length), MAX_BODY_BYTES + 1))

    def _send(self, found: Answer) -> None:
        sized = {} if found.status == HTTPStatus.NO_CONTENT else {"Content-Length": str(len(found.body))}
        self._head(found.status, found.kind, {**sized, **found.headers})
        self.wfile.write(found.body)

    def _head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        named = {"Content-Type": kind} if kind else {}
        if self.close_connection:
            named["Connection"] = "close"
        policy = {"Content-Security-Policy": self.server.policy}
        for name, value in {**named, **HEADERS, **policy, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_pieces(self, pieces: Iterator[bytes], kind: str) -> None:
        """An endless file, as fast as it is made and taken."""
        self._head(200, kind, {"Transfer-Encoding": "chunked"})
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                time.sleep(POLL_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    def _send_file(self, path: Path, kind: str) -> None:
        """The finished file, or the range of it that the player asks for."""
        size, wanted = path.stat().st_size, self.headers.get("Range")
        try:
            first, last = (0, size - 1) if wanted is None else byte_range(wanted, size)
        except RefusedError as why:
            return self._send(error_answer(why))
        more = {"Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
        if wanted is not None:
            more["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._head(200 if wanted is None else 206, kind, more)
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left and (data := file.read(min(PIECE, left))):
                self.wfile.write(data)
                left -= len(data)


def byte_range(wanted: str, size: int) -> tuple[int, int]:
    """Returns the first and last byte of a `Range` header (RFC 9110, 14.2) within the file."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted.strip())
    first, last = match.groups() if match else ("", "")
    if first:
        start, stop = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, stop = size - min(size, int(last or 0)), size - 1
    if not match or start > stop:
        raise RefusedError(416, f"The video has {size} bytes, {wanted[:60]!r} is no part of it.")
    return start, stop

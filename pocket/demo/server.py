"""The page and its answers, on this machine only; every request is short, none waits for the stream."""

import json
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from .session import Session

PAGE = Path(__file__).parent
SHARED = PAGE.parents[1] / "web"  # what the page has in common with the node's preview
SCRIPT = "text/javascript; charset=utf-8"
FILES = {
    "/": (PAGE / "page.html", "text/html; charset=utf-8"),
    "/page.css": (PAGE / "page.css", "text/css; charset=utf-8"),
    **{f"/{name}": (PAGE / name, SCRIPT) for name in ("page.mjs", "player.mjs", "logic.mjs")},
    **{
        f"/web/{name}": (SHARED / name, SCRIPT)
        for name in ("buffer.mjs", "clock.mjs", "media.mjs", "timeline.mjs")
    },
}
LONGEST_BODY = 4096  # bytes
PIECE = 1 << 16  # bytes of a file at a time
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class RefusedError(Exception):
    """An answer that says what was wrong with the request."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        try:
            super().__init__(("127.0.0.1", port), Answer)
        except (OSError, OverflowError) as why:
            raise ValueError(
                f"Demo: port {port} cannot be opened ({why}); leave --port out to take a free one."
            ) from why
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a viewer who went away is no fault."""


class Answer(BaseHTTPRequestHandler):
    """One connection of a page."""

    server: DemoServer
    protocol_version = "HTTP/1.1"
    timeout = 15  # seconds that a silent connection is kept

    def do_GET(self) -> None:
        """Answers with the page, its state, or a piece of video."""
        self._answer(
            {
                r"/status": self._status,
                r"/init/(\d{1,12})": self._init,
                r"/fragments/(\d{1,12})/(\d{1,12})": self._fragments,
                r"/frame/(\d{1,12})": self._frame,
                r"/video\.mp4": self._video,
            }
        )

    def do_POST(self) -> None:
        """Puts a wish into the stream's mailbox."""
        self._answer({r"/prompt": self._prompt, r"/control": self._control})

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal belongs to the stream's numbers."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the base class refuses by itself."""
        self._json({"error": f"{message or HTTPStatus(code).phrase}."}, HTTPStatus(code), close=True)

    def _answer(self, routes: dict[str, Callable[..., None]]) -> None:
        try:
            self._check_sender()
            path = self.path.partition("?")[0]
            if self.command == "GET" and path in FILES:
                return self._page(*FILES[path])
            for pattern, answer in routes.items():
                match = re.fullmatch(pattern, path)
                if match:
                    self.server.session.last_asked = time.monotonic()
                    return answer(*map(int, match.groups()))
            raise RefusedError(HTTPStatus.NOT_FOUND, f"There is no {self.command} {path[:100]} here.")
        except RefusedError as why:
            # what is left of a body that was not read would be taken for the next request
            self._json({"error": str(why)}, why.status, close=self.command != "GET")

    def _check_sender(self) -> None:
        """Refuses other web sites: a page elsewhere must not steer or watch the stream."""
        host = self.headers.get("Host", "")
        if host not in self.server.hosts:
            raise RefusedError(
                HTTPStatus.FORBIDDEN, f"This page answers to {self.server.url} only, not to {host[:100]!r}."
            )
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in self.server.hosts}:
            raise RefusedError(HTTPStatus.FORBIDDEN, f"Requests from {origin} are refused.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "Requests from other sites are refused.")

    def _status(self) -> None:
        self._json(self.server.session.status())

    def _init(self, part: int) -> None:
        data = self.server.session.init_segment(part)
        self._media(None if data is None else (data, 0))

    def _fragments(self, part: int, number: int) -> None:
        self._media(self.server.session.fragments(part, number))

    def _media(self, found: tuple[bytes, int] | None) -> None:
        if found is None:
            raise RefusedError(HTTPStatus.GONE, "That piece of the video is gone; ask for the status again.")
        data, following = found
        if data:
            self._send(HTTPStatus.OK, data, "video/mp4", {"X-Next": str(following)})
        else:
            self._send(HTTPStatus.NO_CONTENT)

    def _frame(self, number: int) -> None:
        found = self.server.session.picture(number)
        if found is None:
            return self._send(HTTPStatus.NO_CONTENT)
        coded = BytesIO()
        Image.fromarray(found[1]).save(coded, format="JPEG", quality=90, subsampling=0)
        self._send(HTTPStatus.OK, coded.getvalue(), "image/jpeg", {"X-Frame": str(found[0])})

    def _prompt(self) -> None:
        body = self._body()
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise RefusedError(HTTPStatus.BAD_REQUEST, 'Send {"prompt": "..."} with the new prompt.')
        session = self.server.session
        if session.phase != "running":
            raise RefusedError(
                HTTPStatus.CONFLICT, "The stream has ended; start the demo again for a new one."
            )
        try:
            number = session.controls.ask(prompt)
        except ValueError as why:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(why)) from why
        self._json({"number": number, "block": session.block}, HTTPStatus.ACCEPTED)

    def _control(self) -> None:
        wish, controls = self._body().get("do"), self.server.session.controls
        if wish == "stop":
            controls.stopping = True
        elif wish in ("pause", "resume"):
            controls.paused = wish == "pause"
        else:
            raise RefusedError(HTTPStatus.BAD_REQUEST, 'Send {"do": "pause"}, "resume" or "stop".')
        self._json({"done": wish}, HTTPStatus.ACCEPTED)

    def _body(self) -> dict[str, Any]:
        """Returns the request's JSON object, or says what is wrong with it."""
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON, as application/json.")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "Say the length of the request's body.")
        if int(length) > LONGEST_BODY:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request has {length} bytes, at most {LONGEST_BODY} are read.",
            )
        try:
            body = json.loads(self.rfile.read(int(length)).decode("utf-8"))
        except (UnicodeDecodeError, ValueError, RecursionError) as why:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"The request is no JSON: {why}.") from why
        if not isinstance(body, dict):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "Send a JSON object, {...}.")
        return body

    def _page(self, file: Path, kind: str) -> None:
        self._send(HTTPStatus.OK, file.read_bytes(), kind)

    def _json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK, close: bool = False) -> None:
        data = json.dumps(value).encode()
        self._send(status, data, "application/json", {"Connection": "close"} if close else {})

    def _send(
        self, status: HTTPStatus, data: bytes = b"", kind: str = "", more: dict[str, str] | None = None
    ) -> None:
        self._head(status, len(data), kind, more or {})
        self.wfile.write(data)

    def _head(self, status: HTTPStatus, length: int, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", POLICY)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def _video(self) -> None:
        """The finished file, or the range of it that the player asks for."""
        path = self.server.session.writer.result
        if path is None or not path.exists():
            raise RefusedError(HTTPStatus.NOT_FOUND, "The video is not finished yet.")
        size = path.stat().st_size
        wanted = self.headers.get("Range")
        first, last = (0, size - 1) if wanted is None else byte_range(wanted, size)
        more = {"Accept-Ranges": "bytes"}
        if wanted is not None:
            more["Content-Range"] = f"bytes {first}-{last}/{size}"
        status = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
        self._head(status, last - first + 1, "video/mp4", more)
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
        raise RefusedError(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"The video has {size} bytes, {wanted[:60]!r} is no part of it.",
        )
    return start, stop

"""Serves the preview widget on a plain page, over the routes of docs/preview.md; the take makes itself.

    python tests/web/fake_server.py --port 8190

opens no browser; look at http://127.0.0.1:8190/ (`?theme=light`, `?lang=zh`, `?without=segments,file`,
`?strict`, `?client=other`).
"""

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KINDS = {".mjs": "text/javascript", ".css": "text/css", ".html": "text/html"}
TAKE = r"/rivulet/stream/(\w+)"


def load_pack() -> None:
    """Makes the pack importable under the name that the tests use."""
    spec = importlib.util.spec_from_file_location(
        "rivulet", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules["rivulet"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["rivulet"])


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: "FakeServer"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/" or path.startswith("/web/"):
            return self._file(path, "strict" in query)
        if path == "/rivulet/streams":
            state = self.server.take.state()
            del state["prompts"]
            own = [state["session"]] if query == "client=tab" else []
            return self._json({"streams": [state], "own": own})
        routes = {
            "": self._state,
            r"/seg/(\d+)": self._segment,
            r"/at/(\d+)": self._at,
            "/live": self._live,
            r"/frame/(\d+)": self._frame,
            "/video": self._video,
        }
        self._route(routes, path, query)

    def do_POST(self) -> None:
        self._route({"/control": self._control}, self.path, "")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _route(self, routes: dict[str, Any], path: str, query: str) -> None:
        self.query = query
        for pattern, answer in routes.items():
            match = re.fullmatch(TAKE + pattern, path)
            if match and match[1] == self.server.take.session and not self.server.forgotten:
                return answer(*map(int, match.groups()[1:]))
        self._refuse(404, "No such stream; it was forgotten. The file is in the output folder.")

    def _state(self) -> None:
        self._json(self.server.take.state())

    def _segment(self, number: int) -> None:
        take = self.server.take
        with take.lock:
            if number >= take.segments.next:
                ended = take.phase == "ended"
                return self._refuse(410, "It will never come.") if ended else self._send(204)
            data, following, start = take.segments.read(number)
        more = {"X-Rivulet-Next": following, "X-Rivulet-Kind": "media" if start is None else "init"}
        self._send(200, data, "video/mp4", more if start is None else {**more, "X-Rivulet-Start": start})

    def _at(self, frame: int) -> None:
        with self.server.take.lock:
            place = self.server.take.segments.place(frame)
        self._json(place) if place else self._refuse(410, "Not made.")

    def _frame(self, number: int) -> None:
        from fake_take import jpeg

        state = self.server.take.state()
        if number >= state["frames"]:
            return self._send(204)
        prompt = [each for each in state["prompts"] if each["first_frame"] <= number][-1]["prompt"]
        self._send(200, jpeg(number, prompt), "image/jpeg", {"X-Rivulet-Frame": number})

    def _live(self) -> None:
        take = self.server.take
        number = take.segments.place(int(self.query.partition("=")[2]))
        self._head(200, "video/mp4", {"Transfer-Encoding": "chunked"})
        self._chunk(take.segments.read(number["init"])[0])
        at = number["segment"]
        while at < take.segments.next or take.phase != "ended":
            if at < take.segments.next:
                data, at, start = take.segments.read(at)
                if start is not None:
                    break
                self._chunk(data)
            else:
                time.sleep(0.1)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _video(self) -> None:
        path = self.server.take.writer.result
        if path is None:
            return self._refuse(404, "The video is not finished yet.")
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return self._send(200, data, "video/mp4", {"Accept-Ranges": "bytes"})
        first, last = int(match[1]), int(match[2] or len(data) - 1)
        more = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._send(206, data[first : last + 1], "video/mp4", more)

    def _control(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        take = self.server.take
        if take.phase == "ended":
            return self._refuse(409, "The stream has ended; queue the workflow to make another.")
        problem = take.ask(message)
        self._refuse(400, problem) if problem else self._json({"number": message["number"]}, 202)

    def _file(self, path: str, strict: bool) -> None:
        """A page of its own kind, or one whose policy refuses media from blobs, as ComfyUI's can."""
        file = Path(__file__).with_name("page.html") if path == "/" else ROOT / path[1:]
        if not file.resolve().is_relative_to(ROOT) or not file.is_file():
            return self._refuse(404, "No such file.")
        self._send(
            200,
            file.read_bytes(),
            KINDS.get(file.suffix, "application/octet-stream"),
            {"Content-Security-Policy": "media-src 'self'"} if strict else {},
        )

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _refuse(self, status: int, sentence: str) -> None:
        self._json({"error": sentence}, status)

    def _send(
        self, status: int, data: bytes = b"", kind: str = "", more: dict[str, Any] | None = None
    ) -> None:
        self._head(status, kind, {"Content-Length": len(data), **(more or {})} if status != 204 else {})
        self.wfile.write(data)

    def _head(self, status: int, kind: str, more: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store", **more}.items():
            if value != "":
                self.send_header(name, str(value))
        self.end_headers()


class FakeServer(ThreadingHTTPServer):
    """Serves one take."""

    daemon_threads = True
    forgotten = False

    def __init__(self, port: int, take: Any) -> None:
        self.take = take
        super().__init__(("127.0.0.1", port), Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of viewers who went away."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8190)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--speed", type=float, default=1.5)
    parser.add_argument("--modes", default="cut,recache,smooth,blend")
    options = parser.parse_args()
    load_pack()
    from fake_take import Take

    with tempfile.TemporaryDirectory() as folder:
        take = Take(
            Path(folder),
            node="7",
            blocks=options.blocks or None,
            speed=options.speed,
            modes=[mode for mode in options.modes.split(",") if mode],
        )
        threading.Thread(target=take.run, daemon=True).start()
        FakeServer(options.port, take).serve_forever()


if __name__ == "__main__":
    main()

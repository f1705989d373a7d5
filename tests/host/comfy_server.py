"""A running ComfyUI with this pack and no other, and what a test asks of it over HTTP."""

import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300


class Server:
    """One process; `base` is the folder with its output and its log."""

    def __init__(
        self, comfyui: Path, base: Path, *options: str, python: str = sys.executable, pack: Path = ROOT
    ) -> None:
        self.base, self.port = base, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        packs = base / "custom_nodes"
        packs.mkdir(exist_ok=True)
        (packs / "rivulet").symlink_to(pack)
        self._log = open(base / "log.txt", "w")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [
                *(python, str(comfyui / "main.py"), "--cpu", "--port", str(self.port)),
                *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
                *options,
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=comfyui,
        )

    def __enter__(self) -> "Server":
        self.until(self.alive, "ComfyUI did not answer")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._log.close()

    @property
    def log(self) -> str:
        """All that the process has printed."""
        return (self.base / "log.txt").read_text()

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            return self.get("/system_stats")[0] == 200
        except OSError:
            return False

    def until(self, question, complaint: str):
        """Returns the first answer that is no false one."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if answer := question():
                return answer
            time.sleep(0.1)
        raise AssertionError(f"{complaint}: {self.log[-3000:]}")

    def send(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Returns (status, headers, body); underscores in header names stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, dict(refused.headers), refused.read()

    def get(self, path: str):
        """Returns (status, JSON value or None)."""
        status, _, body = self.send(path)
        return status, json.loads(body) if body else None

    def post(self, path: str, value, **headers: str):
        """Returns (status, JSON value or None) of the answer to a JSON value."""
        body = json.dumps(value).encode()
        status, _, answer = self.send(path, body, Content_Type="application/json", **headers)
        return status, json.loads(answer) if answer else None

    def queue(self, graph) -> str:
        """Returns the id of the queued run."""
        more = {"extra_pnginfo": {"workflow": WORKFLOW}}
        status, answer = self.post("/prompt", {"prompt": graph, "extra_data": more})
        assert status == 200, answer
        return answer["prompt_id"]

    def done(self, prompt_id: str):
        """Returns the history entry of a run once it is over."""
        return self.until(
            lambda: self.get(f"/history/{prompt_id}")[1].get(prompt_id), "the graph did not end"
        )

    def run(self, graph):
        """Returns the history entry of the graph once it is done."""
        return self.done(self.queue(graph))

    def stream(self, prompt_id: str) -> "Stream":
        """Returns the stream of a run once it is known."""

        def found():
            known = self.get("/rivulet/streams")[1]["streams"]
            return next((each["session"] for each in known if each["prompt_id"] == prompt_id), None)

        return Stream(self, self.until(found, "the run began no stream"))


WORKFLOW = {"nodes": [], "links": [], "version": 0.4}  # stands for what the page sends with a run


class Stream:
    """One stream of the server, for one viewer."""

    def __init__(self, server: Server, session: str, viewer: str = "test") -> None:
        self.server, self.session, self.viewer, self.number = server, session, viewer, 0
        self.path = f"/rivulet/stream/{session}"

    def state(self):
        """Returns its state."""
        status, state = self.server.get(self.path)
        assert status == 200, state
        return state

    def until(self, question):
        """Returns the first state for which the question holds."""

        def asked():
            state = self.state()
            return state if question(state) else None

        return self.server.until(asked, "the stream never came to that")

    def ask(self, do: str, **more: str | int):
        """Sends the next message and returns what became of it, once that is known."""
        self.number += 1
        number = self.number
        message = {"viewer": self.viewer, "number": number, "do": do, **more}
        status, answer = self.server.post(f"{self.path}/control", message)
        assert (status, answer) == (202, {"number": number}), answer

        def told(state):
            own = [each for each in state["acknowledged"] if each["viewer"] == self.viewer]
            return next((each for each in own if each["number"] == number), None)

        return told(self.until(told))

    def pull(self, patience: int = 4000) -> list[tuple[str, bytes, float | None]]:
        """Returns (kind, data, start) of every answer, from the first segment until none will come."""
        number, found = 0, []
        for _ in range(patience):
            status, headers, data = self.server.send(f"{self.path}/seg/{number}")
            if status == 410:
                return found
            if status == 204:
                time.sleep(0.1)
                continue
            assert status == 200 and headers["Content-Type"] == "video/mp4", (status, data)
            start = headers.get("X-Rivulet-Start")
            found.append((headers["X-Rivulet-Kind"], data, None if start is None else float(start)))
            number = int(headers["X-Rivulet-Next"])
        raise AssertionError(f"the stream did not end while segment {number} was asked for")

    def deaf_viewer(self) -> http.client.HTTPConnection:
        """Returns a connection that asked for the endless file and reads nothing of it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.request("GET", f"{self.path}/live?from=0")
        return connection


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

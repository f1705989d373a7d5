"""The check inside a ComfyUI that is started for it, without a page; standard library only.

The Doctor node makes the check, so what is tested is what a stream would run in: that ComfyUI's torch,
allocator, attention and memory management.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS, CHECK_SECONDS = 180, 300
ASK_SECONDS = 0.5  # between two questions
LAST_LINES = 15
MARK = "Rivulet check ["
BROKEN = "broken"


class FailedError(Exception):
    """A sentence for the user."""


def check_in_comfyui(
    start: Callable[[Path, int], list[str]], folder: Path, how: str, target: Path | None
) -> int:
    """Prints what the Doctor says and copies its file; returns 0 when nothing is broken, else 1.

    start: the command line of a ComfyUI with the pack in it, from a base folder and a port. folder: that
    ComfyUI's. how: the Doctor's `check_card`. target: where the JSON file goes. FailedError where ComfyUI
    does not come up or the node fails, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="rivulet_check_") as base:
        port = _free_port()
        with _running(start(Path(base), port), folder) as (process, lines):
            _until(lambda: _ask(port, "/system_stats"), process, START_SECONDS, "did not come up", lines)
            graph = {"1": {"class_type": "RivuletDoctor", "inputs": {"check_card": how}}}
            queued = _ask(port, "/prompt", {"prompt": graph})
            if queued is None:
                raise FailedError(_said("did not take the Doctor node", lines))
            run = queued["prompt_id"]

            def done() -> Any:
                return (_ask(port, f"/history/{run}") or {}).get(run)

            entry = _until(done, process, CHECK_SECONDS, "did not end the check", lines)
        files = sorted((Path(base) / "output").rglob("check_*.json"))
        if entry["status"]["status_str"] != "success" or not files:
            raise FailedError(_said("stopped in the check", lines))
        found = files[-1].read_text(encoding="utf-8")
    print("\n".join(entry["outputs"]["1"]["text"]))
    if target is not None:
        target.write_text(found, encoding="utf-8")
        print(f"written to {target.name}: no names and no paths are in it, send it with a report")
    return int(any(finding["verdict"] == BROKEN for finding in json.loads(found)["findings"]))


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
    """The process and its last lines; progress of the check goes on to stderr. It ends with the block."""
    lines: deque[str] = deque(maxlen=LAST_LINES)
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)


def _read(process: subprocess.Popen[str], lines: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if MARK in line:
            print(line[line.index(MARK) :].rstrip(), file=sys.stderr, flush=True)


def _until(
    ask: Callable[[], Any], process: subprocess.Popen[str], seconds: float, what: str, lines: deque[str]
) -> Any:
    """The first answer; FailedError where the process ends or time is out before."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(ASK_SECONDS)
    state = "is still busy" if process.poll() is None else f"ended with {process.returncode}"
    raise FailedError(_said(f"{what} ({state})", lines))


def _said(what: str, lines: deque[str]) -> str:
    return f"ComfyUI {what}. Its last lines:\n" + "\n".join(lines)


def _ask(port: int, path: str, body: Any = None) -> Any:
    """The answer to a GET, or to a POST of a JSON value; None for no answer and for a refusal."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except (OSError, urllib.error.HTTPError, ValueError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

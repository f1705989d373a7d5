"""Others' programs that talk to ComfyUI's API, each from template 01 to the delivered MP4; installs them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

from ..host.comfy_server import Server
from ..host.test_workflows import api_form, on_disk
from .records import Rows

TEMPLATE, QUICK_SECONDS = "01_infinite_video_no_download", 1.0
TITLE = "Stream Video"  # comfy_api_simplified asks for a node by its title
PACKAGES = ("comfy-cli", "comfy_api_simplified")
SIMPLIFIED = """
import json, sys
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
url, workflow, title, place = sys.argv[1:]
found = ComfyApiWrapper(url).queue_and_wait_images(ComfyWorkflowWrapper(workflow), title)
for name, content in found.items():
    open(place + "/" + name, "wb").write(content)
"""
QUIET = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1"}  # comfy-cli counts its users elsewhere otherwise


def add_arguments(options: argparse.ArgumentParser) -> None:
    """Adds what this benchmark can be told."""
    options.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    options.add_argument("--python", required=True, help="the Python that this ComfyUI runs with")
    options.add_argument(
        "--venv", type=Path, default=Path("out/clients"), help="where the clients are installed"
    )


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when each client got the video that was made."""
    python = install(chosen.venv.resolve())
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with Server(chosen.comfyui.resolve(), base, python=chosen.python) as server:
            forms = workflows(server, base, QUICK_SECONDS if chosen.quick else None)
            got = [
                delivered(rows, server, "comfy-cli", comfy_cli(python, server, base, forms["api"])),
                delivered(
                    rows, server, "comfy-cli, page's form", comfy_cli(python, server, base, forms["page"])
                ),
                delivered(
                    rows, server, "comfy_api_simplified", simplified(python, server, base, forms["api"])
                ),
            ]
    rows("result", ok=all(got))
    return 0 if all(got) else 1


def install(venv: Path) -> Path:
    """Returns the clients' Python; raises CalledProcessError where pip cannot install them."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
    return python


def workflows(server: Server, base: Path, seconds: float | None) -> dict[str, Path]:
    """Writes the template as the page saves it and as the API takes it; returns both files."""
    page = on_disk(TEMPLATE)
    graph = api_form(page, server.get("/object_info")[1])
    for node in graph.values():
        node["_meta"] = {"title": TITLE if node["class_type"] == "RivuletStream" else node["class_type"]}
        if seconds and node["class_type"] == "RivuletStream":
            node["inputs"]["seconds"] = seconds
    files = {"page": base / "page.json", "api": base / "api.json"}
    files["page"].write_text(json.dumps(page), encoding="utf-8")
    files["api"].write_text(json.dumps(graph), encoding="utf-8")
    return files


def comfy_cli(python: Path, server: Server, base: Path, workflow: Path) -> tuple[list[bytes], str, float]:
    """Returns (the files it was given addresses of, its complaint, seconds)."""
    command = [python.with_name("comfy"), "--skip-prompt", "--json", "run", "--workflow", str(workflow)]
    done, took = called([*command, "--port", str(server.port), "--wait"], base)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return [], done.stderr[-500:] or done.stdout[-500:], took
    found = [server.send(address(url))[2] for url in (said.get("data") or {}).get("outputs", ())]
    return found, str(said.get("error") or ""), took


def address(url: str) -> str:
    """The path and query of an address."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.path}?{parts.query}"


def simplified(python: Path, server: Server, base: Path, workflow: Path) -> tuple[list[bytes], str, float]:
    """Returns (the files that it gave, its complaint, seconds)."""
    place = base / "simplified"
    place.mkdir()
    script = [python, "-c", SIMPLIFIED, server.url, str(workflow), TITLE, str(place)]
    done, took = called(script, base)
    return (
        [each.read_bytes() for each in place.iterdir()],
        done.stderr[-500:] if done.returncode else "",
        took,
    )


def called(command: list[str | Path], home: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Runs a client with a home folder of its own."""
    began = time.perf_counter()
    env = {**os.environ, **QUIET, "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=1200)
    return done, time.perf_counter() - began


def delivered(rows: Rows, server: Server, client: str, got: tuple[list[bytes], str, float]) -> bool:
    """Whether a client got exactly the newest video of the output folder, as a row."""
    files, complaint, took = got
    made = sorted((server.base / "output").rglob("*.mp4"), key=lambda path: path.stat().st_mtime)
    ok = bool(made) and files == [made[-1].read_bytes()]
    sizes = {"got_bytes": sum(map(len, files)), "file_bytes": made[-1].stat().st_size if made else 0}
    rows("client", case=client, seconds=took, **sizes, why=complaint, ok=ok)
    return ok

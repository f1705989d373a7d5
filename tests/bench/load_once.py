"""Loads one checkpoint into ComfyUI in a process of its own and prints seconds and bytes as JSON; Linux only.

python tests/bench/load_once.py COMFYUI FILE ours|core
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GLANCE_SECONDS = 0.002


def own_bytes() -> int:
    """Returns memory of this process that no file backs: a file that is mapped does not count."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


class Watch:
    """The most of `own_bytes` while it is entered."""

    def __enter__(self) -> Watch:
        self.peak, self.done = own_bytes(), threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, own_bytes())

    def _look(self) -> None:
        while not self.done.wait(GLANCE_SECONDS):
            self.peak = max(self.peak, own_bytes())


def start_host(comfyui: Path) -> None:
    """Makes ComfyUI's packages and this pack importable, on the CPU."""
    run_file().load_pack()
    import_host(comfyui)


def run_file() -> ModuleType:
    """Returns run.py as a module."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec and spec.loader
    run = sys.modules["run"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    return run


def import_host(comfyui: Path, *options: str) -> None:
    """Makes ComfyUI's packages importable, on the CPU unless its options say otherwise."""
    sys.path.insert(0, str(comfyui))
    sys.argv = ["main.py", *(options or ("--cpu",))]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd


def loader(how: str, path: Path) -> Callable[[], Any]:
    """Returns what loads the file: this pack, or ComfyUI's own function."""
    if how == "core":
        import comfy.sd

        return lambda: comfy.sd.load_diffusion_model(str(path))
    from rivulet.nodes.host.load_model import Source, load

    return lambda: load(Source(path))


def main(comfyui: str, file: str, how: str) -> None:
    """Loads and prints."""
    start_host(Path(comfyui))
    load = loader(how, Path(file))
    before = own_bytes()
    with Watch() as watch:
        began, worked = time.perf_counter(), time.process_time()
        model = load()
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
    figures = {
        "seconds": seconds,
        "processor_seconds": processor,
        "weights_bytes": model.model_size(),
        "peak_bytes": watch.peak - before,
        "after_bytes": own_bytes() - before,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])

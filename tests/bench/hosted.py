"""How a module of the benches is run by ComfyUI's own Python: loaded as `run.py` loads the pack."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("run", sys.argv[1])
run = sys.modules["run"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
sys.exit(run.run_module(f"tests.bench.{sys.argv[2]}", sys.argv[3:]))
"""


def command(python: str, module: str, *arguments: str) -> list[str]:
    """Returns what runs main(arguments) of a module of this folder."""
    return [python, "-c", CHILD, str(ROOT / "run.py"), module, *arguments]

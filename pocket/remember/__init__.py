"""Trains the evolving memory: `python run.py train-memory`."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Train, or go on training, and export. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py train-memory", description=__doc__)
    parser.add_argument(
        "--dit", type=Path, help="model the memory is for, dense or converted; default: the pocket model"
    )
    parser.add_argument("--encoder", type=Path, help="memory file to start from, as this command exports it")
    parser.add_argument("--run", type=Path, help="folder of checkpoints and logs; default pocket/runs/memory")
    parser.add_argument("--out", type=Path, help="folder of the exported files; default <run>/export")
    parser.add_argument("--rank", type=int, default=24, help="of the model's low-rank changes")
    parser.add_argument("--batch", type=int, default=8, help="clips side by side, of each process")
    parser.add_argument("--steps", type=int, help="lessons; default the recipe's")
    parser.add_argument("--minutes", type=float, help="end in time, whatever the steps")
    parser.add_argument("--stories", type=int, default=384, help="stories of hiding that are drawn first")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument("--processes", type=int, default=1, help="of one CPU thread each")
    parser.add_argument("--only", choices=("train", "export"), help="one part; default both")
    chosen = parser.parse_args(arguments)
    from .command import remember

    return remember(chosen)

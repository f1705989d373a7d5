"""`python run.py bench NAME`: measurements as JSON lines on stdout."""

from __future__ import annotations

import argparse
import importlib

from .records import Rows, machine

BENCHES = {
    "stream": "time per block and memory, early and late, against a cache that keeps the whole clip",
}


def main(arguments: list[str]) -> int:
    """Returns the exit status of one benchmark."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    names = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name, help_text in BENCHES.items():
        bench = names.add_parser(name, help=help_text, description=help_text)
        bench.add_argument(
            "--quick", action="store_true", help="under a minute on two cores; rows are marked"
        )
        importlib.import_module(f".{name}", __package__).add_arguments(bench)
    chosen = parser.parse_args(arguments)
    rows = Rows(chosen.bench, chosen.quick)
    rows("machine", **machine())
    return importlib.import_module(f".{chosen.bench}", __package__).run(chosen, rows)

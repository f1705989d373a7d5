"""One row a method: what it needs and costs, what its streams show, and what they remember, beside `plain`.

Streams are made once a method and judged by both verdicts and for speed; every method has plain's prompts,
stories and noise, so that differences are of pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean

from ...pocket.choices import why_not
from .field_experiments import EXPERIMENTS
from .field_kept import Line, Values, add, read
from .field_methods import Method, find_method, listed
from .field_parts import PARTS, Sizes
from .field_table import table
from .recall import LENGTHS, QUICK_LENGTHS
from .records import Rows

KEPT = Path("docs/field.jsonl")
ROUNDS = 60  # timed blocks of each stream
METHODS_HELP = "names from below, or any cache+memory; differences need plain; default: what is built in"
PARTS_HELP = (
    "default all. Seconds of one processor for plain: cost 0.1, time 13, quality 5.0 a stream of 10 s (240 "
    "for 48), recall 2.6 a story (520 for 200, encoding them included); a method takes as many times that as "
    "its time of a block says"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.epilog = f"Built in: {', '.join(listed())}. Of this bench alone: {', '.join(EXPERIMENTS)}."
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=METHODS_HELP)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help=PARTS_HELP)
    parser.add_argument("--seed", type=int, default=0, help="of prompts, noise and stories")
    parser.add_argument("--streams", type=int, help="of quality, side by side; default 48, quick 2")
    parser.add_argument("--seconds", type=int, help="their length: 10, 60 or 600; default 10, quick 3")
    parser.add_argument("--trials", type=int, help="stories of recall; default 200, quick 2")
    parser.add_argument("--lengths", type=int, nargs="+", help="blocks hidden; default 3 6 12 24")
    parser.add_argument("--past", choices=("truth", "own"), default="truth", help="as in bench recall")
    parser.add_argument("--stories", type=Path, help="keep the encoded stories in this file, or take them")
    parser.add_argument("--kept", type=Path, help=f"lines are added to this file; default {KEPT}, quick none")
    parser.add_argument("--table", action="store_true", help="print the tables of the file's lines alone")


def run(chosen: argparse.Namespace, rows: Rows) -> int:
    """Returns 0 when every part of every method is in the file; what is there already is left out."""
    if chosen.table:
        print(table(read(chosen.kept or KEPT)), file=rows.out, end="")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kept = chosen.kept or (Path(folder) / KEPT.name if chosen.quick else KEPT)
        methods = [find_method(name) for name in chosen.methods or listed()]
        for method in methods:
            for name in chosen.parts:
                measure(method, name, sizes(chosen), kept, rows)
    return 0


def sizes(chosen: argparse.Namespace) -> Sizes:
    """How much is measured; SystemExit for less than nothing."""
    quick = chosen.quick
    usual = {"streams": (48, 2), "seconds": (10, 3), "trials": (200, 2)}
    counts = {name: getattr(chosen, name) for name in usual}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise SystemExit(f"bench field: --{name} is {count}; give 1 or more, or leave it out.")
    filled = {name: counts[name] or usual[name][quick] for name in usual}
    lengths = chosen.lengths or (QUICK_LENGTHS[1:] if quick else LENGTHS[1:])
    return Sizes(
        chosen.seed, **filled, lengths=tuple(lengths), rounds=4 if quick else ROUNDS,
        own=chosen.past == "own", stories=chosen.stories,
    )  # fmt: skip


def measure(method: Method, name: str, sizes: Sizes, kept: Path, rows: Rows) -> None:
    """Adds the lines of one part to the file, all at once, unless they are there; prints a row for each."""
    part, start = PARTS[name], time.process_time()
    choice = method.taught() if part.on_taught else method.made()
    if refusal := why_not(choice):
        raise SystemExit(f"bench field: {method.name} cannot be: {refusal}")
    about = name, method.name, part.setting(sizes), choice.pocket.recipe.trained
    lines = [line for line in read(kept) if line.measured == about]
    if not lines:
        found = list(part.measure(choice, sizes))
        spent = time.process_time() - start
        own = method.figures(choice) if name == "cost" else {}
        lines = [
            Line(*about, method.needs, each.span, spent, {**each.figures, **own}, each.values)
            for each in found
        ]
        add(kept, lines)
    for line in lines:
        means = {name: mean(values) for name, values in line.values.items()}
        told = {name: value for name, value in means.items() if value is not None}
        how = {"case": name, "method": method.name, "span": line.span, "weights": line.weights}
        rows("field", **how, cpu_seconds=line.cpu_seconds, **line.figures, **told)


def mean(values: Values) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

"""`python run.py soak --fuzz`: changed files, messages and texts; each is refused in a sentence, or read.

Files of ours (snapshot, basis, memory) have a checksum, which finds every change. Half of their mutants
get it made anew, so that what is behind it is tried too: whatever is accepted there must make a block of
finite numbers. Everything runs in a process of its own with bounded memory, which is begun anew after one
that hung.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from random import Random
from threading import Thread
from typing import Any

import torch

from ...pocket.ram import resident_bytes
from .fuzz_messages import Case, UnusableError
from .fuzz_targets import Targets
from .records import Rows, machine

COUNT, QUICK = 10_000, 350
KINDS = ("snapshot", "basis", "memory", "checkpoint", "workflow", "control", "schedule")
HANG_SECONDS = 5.0  # of the processor's time that one input may take
STUCK_SECONDS = 60.0  # of the clock, after which a process is ended: other work may hold it up
EXTRA_BYTES = 2 << 30  # of address space, beside what the process has when it begins
NOISE_BYTES = 32 << 20  # of resident memory over a kind's inputs, after the first fifth
LONGEST = 2000  # letters of a refusal
BAD = ("silent", "raw", "unusable", "slow", "stuck", "unclear")
RUN = Path(__file__).resolve().parents[2] / "run.py"
BEGIN = (  # a process that loads the pack as run.py does
    "import importlib.util as u, sys; spec = u.spec_from_file_location('run', sys.argv[1]); "
    "run = u.module_from_spec(spec); sys.modules['run'] = run; spec.loader.exec_module(run); "
    "sys.exit(run.run_module('tests.bench.soak_fuzz', sys.argv[2:]))"
)
SHOWN = 5  # of each fault, as rows


def main(arguments: list[str]) -> int:
    """Returns 0 when nothing raw, silent, unusable, slow or growing was found."""
    parser = argparse.ArgumentParser(prog="run.py soak --fuzz", description=__doc__)
    parser.add_argument("--fuzz", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores; rows are marked")
    parser.add_argument("--count", type=int, help=f"inputs in all; default {COUNT}, quick {QUICK}")
    parser.add_argument("--seed", type=int, default=0, help="another number, other inputs")
    parser.add_argument("--kind", choices=KINDS, action="append", help="these kinds alone; default all")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "RANGE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        return work(chosen.worker[0], *map(int, chosen.worker[1].split("-")), chosen.seed)
    rows, kinds = Rows("soak-fuzz", chosen.quick), chosen.kind or KINDS
    rows("machine", **machine())
    each = (chosen.count or (QUICK if chosen.quick else COUNT)) / len(kinds)
    borders = [round(each * index) for index in range(len(kinds) + 1)]
    good = [
        fuzz(kind, end - start, chosen.seed, rows)
        for kind, start, end in zip(kinds, borders, borders[1:], strict=False)
    ]
    rows("result", cases_trials=borders[-1], seed=chosen.seed, ok=all(good))
    return 0 if all(good) else 1


def fuzz(kind: str, count: int, seed: int, rows: Rows) -> bool:
    """Prints the counters of one kind of inputs; returns whether all of them were taken as they should."""
    found: Counter[str] = Counter()
    slowest, growth, at = 0.0, 0, 0
    while at < count:
        for line in worker(kind, at, count, seed):
            at = line["at"] + 1
            found[line["outcome"]] += 1
            found["resealed"] += line.get("resealed", False)
            slowest = max(slowest, line.get("seconds", 0.0))
            growth = max(growth, line.get("growth", 0))
            if line["outcome"] in BAD and found[line["outcome"]] <= SHOWN:
                rows(
                    "fault",
                    case=f"{kind} {line['at']}: {line['outcome']}",
                    why=line.get("why", ""),
                    seed=seed,
                )
    outcomes = {f"{name}_trials": found[name] for name in ("refused", "accepted", "resealed", *BAD)}
    is_flat = growth <= NOISE_BYTES
    ok = is_flat and not any(found[name] for name in BAD)
    rows(
        "fuzz",
        case=kind,
        cases_trials=count,
        **outcomes,
        slowest_seconds=slowest,
        growth_bytes=growth,
        is_flat=is_flat,
        ok=ok,
    )
    return ok


def worker(kind: str, start: int, end: int, seed: int) -> Iterator[dict[str, Any]]:
    """What a process of its own tells of each input; one that does not answer or dies is told, too."""
    command = [
        sys.executable,
        "-I",
        "-c",
        BEGIN,
        str(RUN),
        "--seed",
        str(seed),
        "--worker",
        kind,
        f"{start}-{end}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    Thread(
        target=lambda out: [lines.put(line) for line in out] + [lines.put("")],
        args=(process.stdout,),
        daemon=True,
    ).start()
    at, is_begun = start, False
    try:
        while at < end:
            try:
                line = lines.get(timeout=STUCK_SECONDS if is_begun else 10 * STUCK_SECONDS)
            except Empty:
                yield {"at": at, "outcome": "stuck", "why": f"nothing for {STUCK_SECONDS:.0f} s"}
                return
            if not line:
                yield {"at": at, "outcome": "stuck", "why": f"the process ended with {process.wait()}"}
                return
            if line.startswith("{"):
                told = json.loads(line)
                is_begun = True
                if "outcome" in told:
                    yield told
                    at = told["at"] + 1
    finally:
        process.kill()
        process.wait()


def work(kind: str, start: int, end: int, seed: int) -> int:
    """Tries inputs one after the other, and tells of each on stdout."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as base, tempfile.TemporaryDirectory() as folder:
        make, open_and_use = Targets(Path(base)).all()[kind]
        bound_memory()
        print(json.dumps({"ready": kind}), flush=True)
        settled = None
        for at in range(start, end):
            case = make(Random(f"{seed} {kind} {at}"), Path(folder))
            before = time.process_time()
            outcome, why = tried(case, open_and_use)
            seconds = time.process_time() - before
            if seconds > HANG_SECONDS and outcome not in BAD:
                outcome, why = "slow", f"{seconds:.1f} s"
            if settled is None and at - start >= (end - start) // 5:
                settled = resident_bytes()
            growth = 0 if settled is None else resident_bytes() - settled
            told = {"at": at, "outcome": outcome, "why": why, "seconds": seconds, "growth": growth}
            print(json.dumps(told | {"resealed": case.is_resealed}), flush=True)
    return 0


def bound_memory() -> None:
    """A process that would take gigabytes gets an error in place of them."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def tried(case: Case, open_and_use: Any) -> tuple[str, str]:
    """(what became of an input, why it is a fault or "")."""
    try:
        open_and_use(case.value)
    except ValueError as error:
        return judged(case, error)
    except UnusableError as error:
        # other people's numbers may be any; ours are checked before they are used
        return ("unusable", str(error)) if case.is_ours or not case.is_file else ("accepted", "")
    except Exception as error:
        return "raw", f"{type(error).__name__}: {str(error)[:200]}"
    if case.is_ours and not case.is_resealed:
        return "silent", "a changed file was read as if it was whole"
    return "accepted", ""


def judged(case: Case, error: ValueError) -> tuple[str, str]:
    """Whether a refusal is a sentence of ours, that names the file."""
    text = str(error)
    try:
        text.encode()
        is_clean = type(error) is ValueError and text.rstrip().endswith((".", "!")) and len(text) <= LONGEST
    except UnicodeEncodeError:
        is_clean = False
    if not is_clean or "weights_only" in text or (case.is_file and case.value.name not in text):
        return "unclear", f"{type(error).__name__}: {ascii(text)[:300]}"
    return "refused", ""

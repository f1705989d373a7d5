"""`python run.py check`: first contact with this machine, in at most three minutes."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

import torch

from .finding import BROKEN, Finding
from .machine import device_of
from .report_file import write_report
from .suite import SECONDS, Report, Suite

GRACE_SECONDS = 60  # after all time is out, for a test that does not ask for it, such as a compiler
BROKEN_STATUS = 1


def main(arguments: list[str]) -> int:
    """Returns 0 when nothing is broken, 1 when something is, 2 for a device that is not there."""
    parser = argparse.ArgumentParser(
        prog="run.py check",
        description="Checks what Rivulet needs of this machine: versions, device, kernels, attention, a "
        "stream in each cache format, Resume, decoders, a full card, speed. With --comfyui PATH it is made "
        "inside that ComfyUI.",
    )
    parser.add_argument("--device", help="such as cuda:1 or cpu; default: the first card")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, to send in a report")
    parser.add_argument("--quick", action="store_true", help="fewer streams")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all tests; default %(default)g")
    chosen = parser.parse_args(arguments)
    try:
        device = device_of(chosen.device)
    except ValueError as why:
        print(why, file=sys.stderr)
        return 2
    suite = Suite(device, chosen.quick, seconds=chosen.seconds, tell=progress)
    watch = threading.Timer(chosen.seconds + GRACE_SECONDS, give_up, (suite, chosen.json))
    watch.daemon = True
    watch.start()
    try:
        with torch.inference_mode():
            return finish(suite.run(), chosen.json)
    finally:
        watch.cancel()


def progress(number: int, count: int, finding: Finding) -> None:
    """A line a finding while it goes."""
    print(f"[{number:2}/{count}] {finding.seconds:5.1f} s  {finding.line}", file=sys.stderr, flush=True)


def finish(report: Report, path: Path | None) -> int:
    """Prints the table, writes the file; returns the exit status."""
    print(report.table)
    if path is not None:
        write_report(report, path)
        print(f"written to {path.name}: no names and no paths are in it, send it with a report")
    return 0 if report.ok else BROKEN_STATUS


def give_up(suite: Suite, path: Path | None) -> None:
    """Ends the process where a test hangs, with what was found before it."""
    done = len(suite.findings)
    said = f"a test hung after {done} findings; it was given {GRACE_SECONDS} s beyond all time"
    suite.findings.append(
        Finding("Time", BROKEN, said, "the test after the last one in this table hangs here")
    )
    finish(suite.report(), path)
    sys.stdout.flush()
    os._exit(BROKEN_STATUS)

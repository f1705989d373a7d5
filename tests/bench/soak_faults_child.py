"""A process for each go of a take in `soak --faults`: a child of one that has torch and the models."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .soak_faults_takes import append

WHOLE, ENDED = 0, 3  # exit statuses: the take is whole; an error ended the go
GLANCE_SECONDS = 0.002
PATIENCE_SECONDS = 120.0  # a go takes seconds
AFTER_SECONDS = 2.0  # for what a hung go says of its threads


@dataclass
class Ending:
    """How a go came to its end."""

    status: int  # of the process: WHOLE, ENDED, or a signal below 0
    seconds: float
    is_hung: bool = False
    kind: str = ""  # of the error that ended it
    said: str = ""


def fork(work: Callable[[], None], folder: Path) -> int:
    """The id of a child that does the work and ends; what it prints goes to `said.txt` in the folder."""
    pid = os.fork()
    if pid:
        return pid
    status = ENDED
    try:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        note_fsyncs(folder / "fsyncs.log")
        work()
        status = WHOLE
    except BaseException as why:
        tell(folder, why)
    finally:
        os._exit(status)


def tell(folder: Path, why: BaseException) -> None:
    """Leaves word of the error that ended a go."""
    import traceback

    traceback.print_exception(why)
    ended = {"kind": type(why).__name__, "said": str(why)}
    (folder / "ended.json").write_text(json.dumps(ended), encoding="utf-8")


def note_fsyncs(path: Path) -> None:
    """From here on this process notes which files, by their numbers, are on disk up to which byte."""
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        about = os.fstat(file)
        append(path, {"file": about.st_ino, "bytes": about.st_size, "folder": stat.S_ISDIR(about.st_mode)})

    os.fsync = fsync


def wait(pid: int, folder: Path, glance: Callable[[int, float], None], patience: float) -> Ending:
    """Waits for a child; glance: called again and again with its id and the seconds since it began."""
    began, seconds, hung, status = time.monotonic(), 0.0, False, None
    try:
        while (status := ended(pid)) is None:
            seconds = time.monotonic() - began
            if seconds > patience + AFTER_SECONDS:
                os.kill(pid, signal.SIGKILL)
            elif seconds <= patience:
                glance(pid, seconds)
            elif not hung:
                hung = True
                os.kill(pid, signal.SIGUSR1)
            time.sleep(GLANCE_SECONDS)
    finally:
        if status is None:  # Ctrl+C of the soak
            os.kill(pid, signal.SIGKILL)
    ending = Ending(status, seconds, hung)
    told = folder / "ended.json"
    if ending.status == ENDED and told.exists():
        about = json.loads(told.read_text(encoding="utf-8"))
        ending.kind, ending.said = about["kind"], about["said"]
    told.unlink(missing_ok=True)
    return ending


def ended(pid: int) -> int | None:
    """A child's exit status, its signal below 0; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def children(pid: int) -> list[int]:
    """Processes that a process started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and parent_of(entry) == pid:
            found.append(int(entry.name))
    return found


def parent_of(process: Path) -> int | None:
    """Of a folder of /proc; None where it has ended."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def users(folder: Path) -> list[int]:
    """Processes whose command line names something in the folder: encoders that outlived their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def left_alone(folder: Path) -> None:
    """Waits until no encoder writes into the folder any more."""
    end = time.monotonic() + PATIENCE_SECONDS
    while users(folder) and time.monotonic() < end:
        time.sleep(GLANCE_SECONDS)

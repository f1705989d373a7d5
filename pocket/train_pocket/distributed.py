"""Several processes that train one model: each has clips of its own, gradients are averaged.

On a CPU two processes of one thread each do more than one of two threads. The processes are this command
again, so that they find the pack as it did; three variables say which of them they are.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

RANK, COUNT, MEETING = "RIVULET_TRAIN_RANK", "RIVULET_TRAIN_COUNT", "RIVULET_TRAIN_MEETING"


def rank() -> int:
    """The number of this process, 0 where there is one only."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_worker() -> bool:
    """Whether this process was started by `run_workers`."""
    return RANK in os.environ


def run_workers(count: int, command: Sequence[str]) -> int:
    """Run a command in `count` processes that know of each other; the first exit status that is not 0.

    When one fails the others are stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {COUNT: str(count), MEETING: str(Path(folder) / "meeting")}
        workers = [
            subprocess.Popen(command, env=environment | {RANK: str(number)}) for number in range(count)
        ]
        try:
            while any(worker.poll() is None for worker in workers):
                failed = [worker.returncode for worker in workers if worker.returncode]
                if failed:
                    return failed[0]
                for worker in workers:
                    try:
                        worker.wait(0.2)
                    except subprocess.TimeoutExpired:
                        continue
            return next((worker.returncode for worker in workers if worker.returncode), 0)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def same_command(*more: str) -> list[str]:
    """The command this process was started with, and more arguments."""
    return [sys.executable, *sys.orig_argv[1:], *more]


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes and share gradients with them; alone, nothing changes.

    At the end all wait for the last one and the group is taken down: a process that exits while gloo's
    threads still run may be aborted ("terminate called without an active exception").
    """
    if not is_worker():
        yield
        return
    torch.set_num_threads(1)
    number, count = int(os.environ[RANK]), int(os.environ[COUNT])
    meeting = Path(os.environ[MEETING]).as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=count)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def broadcast(value: float) -> float:
    """The first process's value, for all of them."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.double)
    dist.broadcast(shared, 0)
    return float(shared)


def average_gradients(model: nn.Module) -> None:
    """Give every process the mean of all processes' gradients."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))

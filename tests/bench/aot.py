"""Compiles kernels for cards that are not there, and reads what they need of one."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ...kernels._triton._launch import Launch

# bytes of shared memory that one block can have (CUDA C++ Programming Guide, table of technical
# specifications; LDS of one AMD work group)
SHARED = {"sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_120": 101376}
SHARED |= {"gfx1201": 65536}
TARGETS = tuple(SHARED)
# bytes a thread may spill, by operation; registers vary by some thirty between versions of the compiler
SPILLS = {"rebuild": 32}
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}


@dataclass(frozen=True, slots=True)
class Built:
    """What a kernel needs on a target: shared memory of a block, registers and spilled bytes of a thread."""

    shared_bytes: int
    registers: int
    spill_bytes: int
    seconds: float


def build(launch: Launch, target: str) -> Built:
    """Compile the launch as the first call of it would on that card."""
    signature, fixed, aligned = _specialised(launch)
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(signature) if name in aligned}
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=fixed, attrs=attributes)
    start = time.perf_counter()
    compiled = triton.compile(source, target=_target(target), options=launch.options)
    seconds = time.perf_counter() - start
    if target.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        return Built(
            compiled.metadata.shared, registers, 4 * _number(r"\.vgpr_spill_count:\s+(\d+)", text), seconds
        )
    registers, spill = _assemble(compiled.asm["ptx"], target)
    return Built(compiled.metadata.shared, registers, spill, seconds)


def _specialised(launch: Launch) -> tuple[dict[str, str], dict[str, object], set[str]]:
    """(type of each argument, constants, arguments that are multiples of 16), as the launcher sees them."""
    fixed: dict[str, object] = dict(launch.constants)
    types: dict[str, str] = {}
    aligned: set[str] = set()
    plain = {parameter.name for parameter in launch.kernel.params if parameter.do_not_specialize}
    for name, value in launch.arguments.items():
        if value is None or (isinstance(value, int) and value == 1 and name not in plain):
            fixed[name] = value
        elif isinstance(value, Tensor):
            types[name] = POINTERS[value.dtype]
            if name not in plain:
                aligned.add(name)
        elif isinstance(value, int):
            types[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0 and name not in plain:
                aligned.add(name)
        else:
            types[name] = "fp32"
    names: list[str] = launch.kernel.arg_names
    signature = {name: "constexpr" if name in fixed else types[name] for name in names}
    return signature, {name: fixed[name] for name in names if name in fixed}, aligned


def _target(name: str) -> GPUTarget:
    return GPUTarget("hip", name, 32) if name.startswith("gfx") else GPUTarget("cuda", int(name[3:]), 32)


def _assemble(ptx: str, target: str) -> tuple[int, int]:
    """(registers, bytes of spill stores) of a thread, from the assembler of the card."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        arch = target + "a" if int(target[3:]) >= 90 else target
        for tool in ("ptxas", "ptxas-blackwell"):
            command = [str(tools / tool), "-v", f"--gpu-name={arch}", str(source), "-o", os.devnull]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            log = done.stdout + done.stderr
            if done.returncode == 0:
                return _number(r"Used (\d+) registers", log), _number(r"(\d+) bytes spill stores", log)
            faults.append(log.strip())
    raise RuntimeError(f"{target}: no assembler takes the kernel: {faults}")


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in the tool's output: {text[:500]}"
    return int(found[1])


def fits(built: Built, target: str) -> bool:
    """Whether a card of this kind can launch it; a handful of registers is an empty stub, not a kernel."""
    return built.shared_bytes <= SHARED[target] and built.registers > 16


def heading(targets: Sequence[str]) -> str:
    """The head of a table in Markdown."""
    return f"| kernel | warps, stages | {' | '.join(targets)} |\n|---|---|{'---|' * len(targets)}"


def line(name: str, launch: Launch, built: Sequence[Built]) -> str:
    """A row of the table: KB of shared memory / registers / bytes spilled, seconds to compile."""
    cells = [
        f"{needs.shared_bytes / 1024:.0f} / {needs.registers} / {needs.spill_bytes}, {needs.seconds:.1f} s"
        for needs in built
    ]
    return f"| {name} | {launch.warps}, {launch.stages} | {' | '.join(cells)} |"

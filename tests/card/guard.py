"""What a torch without CUDA lacks to have tensors of a card that is not there: a device guard."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

# torch without CUDA does not know how to change to a card and back; there is nothing to change to
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""


@cache
def why_no_card() -> str:
    """A sentence if this torch cannot make tensors of a card that is not there, else ""; tried once."""
    if torch.backends.cuda.is_built():
        return ""
    if not sys.platform.startswith("linux") or shutil.which("g++") is None:
        return "torch has no CUDA, and without g++ on Linux its tensors cannot be faked"
    home = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        source, built = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(GUARD)
        paths = [f"-I{home / 'include'}", f"-L{home / 'lib'}"]
        command = ["g++", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(built), *paths, "-lc10"]
        subprocess.run(command, check=True)
        torch.ops.load_library(str(built))
    return ""

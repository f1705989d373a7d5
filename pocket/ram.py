"""How much memory this process holds and has held; on Linux, macOS and Windows."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def resident_bytes() -> int:
    """Returns the bytes of physical memory that the process occupies."""
    if sys.platform == "win32":
        return _windows_counters()[0]
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    listing = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return int(listing.stdout) * 1024


def peak_bytes() -> int:
    """Returns the most bytes of physical memory that the process occupied since it started."""
    if sys.platform == "win32":
        return _windows_counters()[1]
    import resource

    # the system's own mark may lag behind by some pages
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES, resident_bytes())


def _windows_counters() -> tuple[int, int]:
    # PROCESS_MEMORY_COUNTERS: two 32-bit fields, then eight of a pointer's size
    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", ctypes.c_uint32),
            ("faults", ctypes.c_uint32),
            ("peak", ctypes.c_size_t),
            ("current", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 6),
        )

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32")  # pyright: ignore[reportAttributeAccessIssue]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        raise OSError("Memory: Windows did not tell the process's working set.")
    return counters.current, counters.peak

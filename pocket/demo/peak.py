"""The most memory this process has held; on Linux, macOS and Windows."""

import ctypes
import sys


def peak_bytes() -> int:
    """Returns the most bytes of physical memory that the process occupied since it started."""
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int:
    # PROCESS_MEMORY_COUNTERS: two 32-bit fields, then the peak and seven more of a pointer's size
    class Counters(ctypes.Structure):
        _fields_ = (("cb", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("peak", ctypes.c_size_t),
                    ("others", ctypes.c_size_t * 7))

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32")  # pyright: ignore[reportAttributeAccessIssue]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    return counters.peak if ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb) else 0

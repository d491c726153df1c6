"""What the system tells of its memory, and giving some back to it."""

import ctypes
import os
import re
from pathlib import Path


def machine_memory() -> int | None:
    """The bytes that the machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def available_memory() -> int | None:
    """The bytes that are free to be used; all of them where the system does not tell."""
    try:
        available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
        if available:
            return int(available[1]) * 1024
    except OSError:
        pass
    return machine_memory()


def give_back_memory() -> None:
    """Let glibc return free pages in the middle of its heaps; elsewhere nothing happens.

    It returns by itself only what is free at a heap's end, and a server's heaps get holes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    trim(0)

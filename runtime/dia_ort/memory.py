"""What the system tells of its memory, and giving some back to it."""

import ctypes
import mmap
import os
import re
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def machine_memory() -> int | None:
    """The bytes that the machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def available_memory() -> int | None:
    """The bytes that are free to be used, a container's limit among them.

    All of the machine's where the system does not tell.
    """
    try:
        available = re.search(r"MemAvailable: *(\d+) kB", _MEMINFO.read_text("ascii"))
        if available:
            return min(int(available[1]) * 1024, _free_in_container())
    except OSError:
        pass
    return machine_memory()


def _free_in_container() -> int:
    """What a container may still take, by cgroup v2; a huge number where nothing limits it."""
    try:
        most = int((_CGROUP / "memory.max").read_text("ascii"))
        taken = int((_CGROUP / "memory.current").read_text("ascii"))
        cached = re.search(
            r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text("ascii"), re.MULTILINE
        )
    except (OSError, ValueError):  # ValueError: most is "max"
        return sys.maxsize
    return max(most - taken + int(cached[1] if cached else 0), 1)


def give_back_memory() -> None:
    """Let glibc return free pages in the middle of its heaps; elsewhere nothing happens.

    It returns by itself only what is free at a heap's end, and a server's heaps get holes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    trim(0)


def private_pages(size: int) -> mmap.mmap:
    """Memory that the system gives page by page as it is written to, and can be given back so.

    It is not shared with forked processes.

    Raises:
        OSError, OverflowError: There is not so much.
    """
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)

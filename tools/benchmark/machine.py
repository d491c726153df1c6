"""The machine: what it is, and how fast it reads memory."""

import importlib.metadata
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from dia_ort import __version__
from dia_ort.providers import onnxruntime

_PACKAGES = ("numpy", "torch", "transformers")
_READ_BYTES = 1 << 30
_READS = 5


def describe_machine() -> dict[str, object]:
    """CPU, cores, memory, system, and how busy the machine was at the start."""
    return {
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that the figures depend on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    packages["onnxruntime"] = onnxruntime().__version__  # its package has several names
    return {"python": platform.python_version(), "dia-ort": __version__, **packages}


def read_bandwidth(threads: int | None) -> dict[str, float]:
    """How fast all cores together read memory, at best: ``gb_per_s``."""
    threads = threads or psutil.cpu_count(logical=False) or 1
    parts = np.array_split(np.ones(_READ_BYTES // 8, np.int64), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_READS):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return {"gb_per_s": _READ_BYTES / best / 1e9}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

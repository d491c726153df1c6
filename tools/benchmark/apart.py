"""Runs a measurement in a process of its own, so that it has fresh memory and its own peak."""

import importlib
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any


class KilledError(RuntimeError):
    """A measurement's process was killed, most likely for memory."""


def run_apart(function: str, *arguments: object) -> dict[str, Any]:
    """Call a function in a new process.

    Args:
        function: ``"module:name"``; imported there alone. It returns a dictionary.
        *arguments: For it.

    Returns:
        What it returned, and ``peak_rss_gb``, unless that is in it: the most memory the process
        had resident.

    Raises:
        KilledError: The process was killed.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_call, function, arguments).result()
        except BrokenProcessPool as error:
            raise KilledError(
                f"{function} was killed, most likely for memory: measure fewer --dtypes, or a "
                "smaller --model."
            ) from error


def _call(function: str, arguments: tuple[object, ...]) -> dict[str, Any]:
    module, name = function.split(":")
    result: dict[str, Any] = getattr(importlib.import_module(module), name)(*arguments)
    return {"peak_rss_gb": _peak_rss() / 1e9} | result


def _peak_rss() -> int:
    """Of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss begins with the peak of the parent
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

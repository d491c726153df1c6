"""Checks of the numbers in settings. They may be Python's or NumPy's, and come back as Python's."""

import os
from numbers import Integral, Real
from typing import Any

from dia_ort.errors import InvalidConfigError, warn_caller

_MOST_THREADS = 1024


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A value that is to be a whole number in a range, whose end may be open.

    Raises:
        InvalidConfigError: It is none.
    """
    valid = isinstance(value, Integral) and not isinstance(value, bool)
    if not valid or value < low or (high is not None and value > high):
        wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InvalidConfigError(f"{name} is {value!r}: give a whole number {wanted}")
    return int(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """A value that is to be a number in a range.

    Raises:
        InvalidConfigError: It is none.
    """
    valid = isinstance(value, Real) and not isinstance(value, bool)
    if not valid or not low <= value <= high:  # NaN fails every comparison
        raise InvalidConfigError(f"{name} is {value!r}: give a number from {low:g} to {high:g}")
    return float(value)


def check_threads(threads: Any) -> int | None:
    """A number of CPU threads; warns of more than can run, as they wait for each other by spinning.

    Raises:
        InvalidConfigError: It is neither None nor a whole number from 1 to 1024.
    """
    if threads is None:
        return None
    count, cpus = check_whole("threads", threads, 1, _MOST_THREADS), usable_cpus()
    if count > cpus:
        warn_caller(
            f"threads is {count}, and this process may use {cpus} CPUs: more threads than that are "
            "so slow that they seem to hang. Leave threads out for all physical cores."
        )
    return count


def usable_cpus() -> int:
    """The logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

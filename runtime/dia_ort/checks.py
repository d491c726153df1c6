"""Checks of the numbers in settings. They may be Python's or NumPy's, and come back as Python's."""

from numbers import Integral, Real
from typing import Any

from dia_ort.errors import InvalidConfigError


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

"""Strict reading of JSON objects: every key is taken, checked or named as ignored.

Torch-free. A reader collects everything that is wrong and reports it in one error, so that a
config with three faults needs one look, not three.
"""

import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

_T = TypeVar("_T")
_MAX_SIZE = 2**31 - 1


class ConfigError(ValueError):
    """A configuration with missing, unknown, contradictory or out-of-range fields."""


@dataclass(frozen=True, slots=True)
class _Findings:
    """What one reader and those of its sections found; `check_unknown` is asked at the end."""

    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    check_unknown: list[Callable[[], list[str]]] = field(default_factory=list)


class StrictReader:
    """Takes the fields of one JSON object; `finish` raises if anything was off.

    A field that is absent or of the wrong type is recorded and a stand-in is returned, so that
    reading goes on; call `finish` before using the values. `null` counts as absent, as it does
    in the configs of transformers.

    Args:
        values: The JSON object.
        path: Dotted path of the object, "" at the top.
        findings: Of the reader of the enclosing object, whose `finish` covers this one.
    """

    def __init__(self, values: Any, path: str = "", findings: _Findings | None = None) -> None:
        self._path = path
        self._findings = findings if findings is not None else _Findings()
        if not isinstance(values, Mapping):
            self._findings.wrong.append(
                f"{path or 'the config'} is {reprlib.repr(values)}, not an object"
            )
            values = {}
        self._values: Mapping[Any, Any] = values
        self._taken: set[str] = set()
        self._findings.check_unknown.append(self._unknown)

    def __contains__(self, key: str) -> bool:
        """Whether the field is present and not null."""
        return self._values.get(key) is not None

    def section(self, key: str) -> "StrictReader":
        """The object under `key`, which must be there."""
        value = self._take(key)
        if value is None:
            self._findings.missing.append(self._name(key))
            return StrictReader({})  # what it would lack goes without saying
        return StrictReader(value, self._name(key), self._findings)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to 2**31 - 1."""
        value = self._take(key)
        if value is None:
            return self._default(key, default, stand_in=1)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SIZE:
            self._findings.wrong.append(f"{self._name(key)} is {reprlib.repr(value)}, not a size")
            return 1
        return value

    def sizes(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers from 0 to 2**31 - 1."""
        value = self._take(key)
        if value is None:
            return self._default(key, default, stand_in=())
        if not isinstance(value, list | tuple) or not all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _MAX_SIZE
            for item in value
        ):
            self._findings.wrong.append(
                f"{self._name(key)} is {reprlib.repr(value)}, not a list of sizes"
            )
            return ()
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._take(key)
        if value is None:
            return self._default(key, default, stand_in=1.0)
        try:
            if isinstance(value, int | float) and not isinstance(value, bool):
                number = float(value)
                if math.isfinite(number):
                    return number
        except OverflowError:
            pass
        self._findings.wrong.append(
            f"{self._name(key)} is {reprlib.repr(value)}, not a finite number"
        )
        return 1.0

    def expect(self, key: str, expected: Any) -> None:
        """A field that may be absent, but has only one value that this package computes."""
        value = self._take(key)
        if value is not None and value != expected:
            self.refuse(key, f"only {expected!r} is supported")

    def refuse(self, key: str, reason: str) -> None:
        """Record that the value of `key` can't be used."""
        value = reprlib.repr(self._values.get(key))
        self._findings.wrong.append(f"{self._name(key)} is {value}, but {reason}")

    def ignore(self, keys: Collection[str]) -> None:
        """Fields that are known not to change the computation."""
        self._taken.update(keys)

    def finish(self) -> None:
        """Raise `ConfigError` with all missing, unknown and wrong fields by dotted name."""
        findings = self._findings
        unknown = [name for check in findings.check_unknown for name in check()]
        complaints = []
        if findings.missing:
            complaints.append(f"missing: {', '.join(sorted(findings.missing))}")
        if unknown:
            complaints.append(f"unknown: {', '.join(sorted(unknown))}")
        complaints += findings.wrong
        if complaints:
            raise ConfigError("; ".join(complaints))

    def _unknown(self) -> list[str]:
        return [self._name(str(key)) for key in self._values if key not in self._taken]

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _take(self, key: str) -> Any:
        self._taken.add(key)
        return self._values.get(key)

    def _default(self, key: str, default: _T | None, stand_in: _T) -> _T:
        if default is None:
            self._findings.missing.append(self._name(key))
            return stand_in
        return default

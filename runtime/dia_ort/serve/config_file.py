"""The server's settings as TOML: read from a file, and written for ``--print-config``."""

import codecs
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dia_ort.errors import InvalidConfigError
from dia_ort.serve.settings import SETTINGS, ServerSettings, is_text, parse_size

KEYS = (*SETTINGS, "api_key_file")
_SIZES = ("max_upload", "memory_limit")


def read_config(file: str) -> dict[str, Any]:
    """The settings that a file gives, checked but otherwise as they stand there.

    Raises:
        InvalidConfigError: It cannot be read, is no TOML in UTF-8, or a key is unknown, of the
            wrong type or out of its range.
    """
    _check_name("config", file)
    content = _read_text(file, file)
    try:
        given = tomllib.loads(content)
    except ValueError as error:  # it says where
        raise InvalidConfigError(f"{file} is no TOML: {error}") from error
    try:
        _check(given)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{file}: {error}") from error
    return given


def _check(given: Mapping[str, Any]) -> None:
    there_are = f"there are {', '.join(sorted(KEYS))}"
    for name, value in given.items():
        if isinstance(value, dict):
            raise InvalidConfigError(f"[{name}] is a section, and there are none; {there_are}")
        if name not in KEYS:
            raise InvalidConfigError(f"there is no setting {name!r}; {there_are}")
    values = dict(given)
    if "api_key_file" in values:
        _check_name("api_key_file", values.pop("api_key_file"))
    for name in _SIZES:
        if isinstance(value := values.get(name), str):
            values[name] = parse_size(name, value)
    ServerSettings(**values)


def _check_name(setting: str, file: object) -> None:
    if not is_text(file):
        raise InvalidConfigError(f"{setting} is {file!r}: give the name of a file")


def read_keys(file: str) -> list[str]:
    """The API keys in a file: one to the line, without blank lines and those that begin with #.

    Raises:
        InvalidConfigError: It cannot be read, is not in UTF-8, or has no key.
    """
    _check_name("api_key_file", file)
    lines = _read_text(file, f"the API keys in {file}").splitlines()
    keys = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise InvalidConfigError(f"there is no API key in {file}: put one on a line of its own")
    return keys


def _read_text(file: str, what: str) -> str:
    """What a file says in UTF-8; Windows' editors may begin it with a byte order mark."""
    try:
        return Path(file).read_text("utf-8-sig")
    except OSError as error:
        raise InvalidConfigError(f"cannot read {what}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        is_utf16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        problem = "in UTF-16" if is_utf16 else f"not UTF-8 at byte {error.start}"
        raise InvalidConfigError(f"{file} is {problem}: save it as UTF-8") from None


def to_toml(values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Settings as a file that :func:`read_config` takes, in ASCII: stdout may have any encoding.

    Args:
        values: By name; None is left out of the file, but for a comment.
        sources: Where each came from, for the comments.
    """
    rows = [_escape(_row(name, value)) for name, value in values.items()]
    width = max(map(len, rows))
    return "".join(
        f"{row:{width}}  # {_escape(sources[name])}\n"
        for name, row in zip(values, rows, strict=True)
    )


def _row(name: str, value: Any) -> str:
    return f"# {name} is not set" if value is None else f"{name} = {_literal(value)}"


def _literal(value: Any) -> str:
    """Numbers, switches and lists are the same in TOML and JSON; so are printable texts."""
    return json.dumps(value, ensure_ascii=False)


def _escape(text: str) -> str:
    """What is not printable ASCII, as TOML has it in strings."""
    return re.sub("[^ -~]", lambda match: f"\\U{ord(match[0]):08X}", text)

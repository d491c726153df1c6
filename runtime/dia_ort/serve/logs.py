"""Logs of the server: one record to the line, as JSON or as text, with the request that it is of.

Fields come with ``extra``: ``logger.info("spoke", extra={"seconds": 1.5})``. Nothing that a client
sends can begin a line of its own: all that is not printable is escaped.
"""

import json
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from dia_ort.serve.settings import ServerSettings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered; None outside of requests."""

_NO_FIELDS = {
    *vars(logging.makeLogRecord({})),
    *("message", "asctime", "taskName"),
    "color_message",  # uvicorn's copy of its message for terminals
}
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII but ", = and \\


class JsonFormatter(logging.Formatter):
    """An object to the line: time (UTC), level, logger, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line, in ASCII."""
        return json.dumps(dict(_describe(record)), default=str)


class TextFormatter(logging.Formatter):
    """The same for people: ``TIME LEVEL LOGGER message key=value ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        time, level, logger, message, *rest = _describe(record)
        head = f"{time[1]} {level[1].upper():7} {logger[1]} {_escape(message[1])}"
        return " ".join([head, *(f"{name}={_show(value)}" for name, value in rest)])


def configure_logging(settings: ServerSettings) -> None:
    """Send the logs of all libraries, and Python's warnings, to stderr in one format.

    uvicorn's log of requests is silenced: the server writes its own. Calling this again replaces
    what was set before.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    warnings.showwarning = _log_warning
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = name != "uvicorn.access"


def text_field(text: str, settings: ServerSettings) -> dict[str, Any]:
    """What a log may tell of a user's text: how long it is, and itself only if asked to."""
    fields: dict[str, Any] = {"characters": len(text)}
    return fields | {"text": text} if settings.log_text else fields


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - as warnings.showwarning has it
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Log a warning, without the line of the source that logging.captureWarnings would add."""
    fields = {"category": category.__name__, "source": f"{filename}:{lineno}"}
    logging.getLogger("py.warnings").warning("%s", message, extra=fields)


def _describe(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """A record's fields by name, the four that all have first."""
    moment = datetime.fromtimestamp(record.created, UTC)
    yield "time", moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    yield "level", record.levelname.lower()
    yield "logger", record.name
    yield "message", record.getMessage()
    if (request := request_id.get()) is not None:
        yield "request_id", request
    for name, value in vars(record).items():
        if name not in _NO_FIELDS:
            is_number = not isinstance(value, float) or math.isfinite(value)
            yield name, value if is_number else str(value)  # JSON has no infinity
    if record.exc_info:
        yield "error", logging.Formatter().formatException(record.exc_info)


def _show(value: object) -> str:
    """A value, in quotes if it is more than a word."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""Keeps what a test does to Python's logging away from the others."""

import logging
import warnings
from contextlib import contextmanager

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@contextmanager
def kept_logging():
    """All that :func:`dia_ort.serve.logs.configure_logging` changes is put back at the end."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in _UVICORN]
    level, handlers, root.handlers = root.level, root.handlers, []
    kept = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        for logger, (before, propagate, own) in zip(loggers, kept, strict=True):
            logger.setLevel(before)
            logger.propagate, logger.handlers = propagate, own

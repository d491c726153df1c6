"""Waits that Ctrl-C ends on every system."""

import math
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import TypeVar

_T = TypeVar("_T")

# On Windows, Python up to 3.13 sees Ctrl-C only when the wait for a lock is over.
_SLICE = 0.2 if sys.platform == "win32" else threading.TIMEOUT_MAX


def as_completed(futures: Collection[Future[_T]]) -> Iterator[Future[_T]]:
    """As :func:`concurrent.futures.as_completed`: each future when it is done."""
    done: SimpleQueue[Future[_T]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    left = len(futures)
    while left:
        try:
            future = done.get(timeout=_SLICE)
        except Empty:
            continue
        left -= 1
        yield future


def wait_for(future: Future[_T], timeout: float | None = None) -> _T:
    """As :meth:`concurrent.futures.Future.result`."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not future.done() and (left := end - time.monotonic()) > 0:
        wait([future], min(left, _SLICE))
    return future.result(0)

"""Waits that Ctrl-C ends on every system, and work in several threads."""

import math
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
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


def for_each(work: Callable[[_T], None], items: Sequence[_T], threads: int) -> None:
    """Call something for each item, in this thread and in others, which end with it.

    Works as Python ends too, when no thread can be started: then in this one alone.

    Args:
        work: What to call; it is called in several threads at once.
        items: For what, in the order in which the calls begin; none is None.
        threads: How many, this one included.

    Raises:
        BaseException: What a call raised; what had not begun then does not begin.
    """
    left: SimpleQueue[_T | None] = SimpleQueue()
    for item in [*items, *[None] * threads]:
        left.put(item)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for item in iter(left.get, None):
                if errors:
                    break
                work(item)
        except BaseException as error:  # noqa: BLE001 - for the caller
            errors.append(error)

    helpers: list[threading.Thread] = []
    try:
        with suppress(RuntimeError):
            for _ in range(min(threads, len(items)) - 1):
                helper = threading.Thread(target=run, name="dia-ort-helper")
                helper.start()
                helpers.append(helper)
        run()
    except BaseException as error:  # Ctrl-C, between the calls
        errors.append(error)
        raise
    finally:
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]

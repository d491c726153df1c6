"""Waits of the main thread, Ctrl-C, and work in several threads."""

import os
import signal
import threading
import time
from concurrent.futures import Future

import pytest

from dia_ort import waiting
from dia_ort.waiting import as_completed, for_each, wait_for


@pytest.mark.parametrize("seconds", [threading.TIMEOUT_MAX, 0.001], ids=["plain", "slices"])
def test_futures_come_as_they_end(monkeypatch, seconds):
    monkeypatch.setattr(waiting, "_SLICE", seconds)
    first, second, failed = Future(), Future(), Future()
    threading.Timer(0.05, first.set_result, (1,)).start()
    second.set_result(2)
    assert [future.result() for future in as_completed([first, second])] == [2, 1]
    failed.set_exception(TimeoutError("of its own"))
    with pytest.raises(TimeoutError, match="of its own"):
        wait_for(failed)
    with pytest.raises(TimeoutError):
        wait_for(Future(), 0.01)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
def test_ctrl_c_ends_a_wait_where_it_does_not_wake_the_main_thread(monkeypatch):
    """As on Windows: another thread takes the signal, and the main one sees it when it runs."""
    monkeypatch.setattr(waiting, "_SLICE", 0.01)
    future, sigint = Future(), {signal.SIGINT}

    def press():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, sigint)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, sigint)
    late = threading.Timer(2, future.set_result, (None,))
    try:
        late.start()
        threading.Timer(0.1, press).start()
        with pytest.raises(KeyboardInterrupt):
            wait_for(future)
        assert not future.done()
    finally:
        late.cancel()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("threads", [1, 2, 3, 50])
def test_each_item_is_worked_on_once(threads):
    """At the same time, as far as there are threads."""
    together = threading.Barrier(min(threads, 3))
    done = []

    def work(item):
        if item < 3 // together.parties * together.parties:
            together.wait(10)
        done.append(item)

    for_each(work, range(20), threads)
    assert sorted(done) == list(range(20))
    assert not [t for t in threading.enumerate() if t.name == "dia-ort-helper"]
    for_each(work, [], threads)


@pytest.mark.parametrize("is_helper", [False, True])
def test_an_error_ends_the_others(is_helper):
    done, failed = [], threading.Event()

    def work(item):
        if (threading.current_thread().name == "dia-ort-helper") == is_helper:
            failed.set()
            raise ValueError(item)
        assert failed.wait(10)
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match=r"[01]"):
        for_each(work, range(1000), 2)
    assert len(done) < 500


def test_it_works_where_no_thread_can_be_started(monkeypatch):
    """As Python ends."""

    def refuse(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    for_each(done.append, range(5), 3)
    assert done == list(range(5))

"""What holds for all tests."""

import gc
import os
import signal
from pathlib import Path

import pytest

# Whoever started pytest in the background may have left SIGINT ignored, and programs under test
# would inherit that; a Ctrl-C is to reach them.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure():
    """A process of `pytest -n` keeps to cores of its own: torch's and onnxruntime's threads spin
    while they wait for each other, and would wait for those of other processes besides."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        first, step = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[first::step] or cores)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """No gc.collect() goes through the millions of objects that PyTorch's earlier traces left."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """How many processes `pytest -n auto` has: no more than there is work for."""
    return min(os.cpu_count() or 1, 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A process takes a folder at a time: its tests share what is slow to make."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - there may be none

    class FolderScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "/".join(Path(nodeid.split("::")[0]).parts[:2])

    config.option.loadscopereorder = False  # tests/export first, which takes longest
    return FolderScheduling(config, log)

"""What holds for all tests."""

import gc
import signal
from pathlib import Path

import pytest

# Whoever started pytest in the background may have left SIGINT ignored, and programs under test
# would inherit that; a Ctrl-C is to reach them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """No gc.collect() goes through the millions of objects that PyTorch's earlier traces left."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n`, a process takes whole folders: their tests share what is slow to make."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - there may be none

    class FolderScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "/".join(Path(nodeid.split("::")[0]).parts[:2])

    return FolderScheduling(config, log)

"""What holds for all tests."""

import gc
import signal

import pytest

# Whoever started pytest in the background may have left SIGINT ignored, and programs under test
# would inherit that; a Ctrl-C is to reach them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """No gc.collect() goes through the millions of objects that PyTorch's earlier traces left."""
    gc.freeze()

"""Settings for all tests."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    # The models are tiny: threads would only wait for each other, and slowest on a busy machine.
    torch.set_num_threads(1)

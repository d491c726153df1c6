"""What holds for all tests."""

import signal

# Whoever started pytest in the background may have left SIGINT ignored, and programs under test
# would inherit that; a Ctrl-C is to reach them.
signal.signal(signal.SIGINT, signal.default_int_handler)

"""`dia-ort` as a program of its own, that says at its end when it stepped and what memory it took.

The last line on stdout is a JSON object: ``first_step`` and ``last_step``, the moments (seconds
since the epoch) at which those began, ``peak_rss_gb``, and ``peak_anonymous_gb`` where the system
tells it: without the pages of files, which it may drop at any time.
"""

import json
import sys
import threading
import time
from pathlib import Path

from benchmark.endless import speak_endlessly
from dia_ort import cli

_STATUS = Path("/proc/self/status")
_SAMPLE_S = 0.02


class _MemoryWatch(threading.Thread):
    """Samples the anonymous memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, read_status("RssAnon"))
            time.sleep(_SAMPLE_S)


def read_status(field: str) -> int:
    """A field of this process's status on Linux, in bytes."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main() -> None:
    started: list[float] = []
    speak_endlessly(lambda: started.append(time.time()))
    watch = _MemoryWatch()
    if _STATUS.exists():
        watch.start()
    try:
        cli.main()
    except SystemExit as leaving:
        if leaving.code:
            raise
    figures = {"first_step": started[0], "last_step": started[-1]}
    if _STATUS.exists():
        figures |= {
            "peak_rss_gb": read_status("VmHWM") / 1e9,
            "peak_anonymous_gb": watch.peak / 1e9,
        }
    sys.stdout.write(f"\n{json.dumps(figures)}\n")


if __name__ == "__main__":
    main()

"""The user's side of a long command: messages and a progress bar on stderr, and Ctrl-C."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self


class Terminal:
    """Writes to stderr, so that stdout is free for audio.

    Args:
        quiet: Leave out notes and the bar; warnings stay.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._update: Callable[[str, str, int, int | None], None] | None = None

    def note(self, message: str) -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            sys.stderr.write(f"{message}\n")

    def warn(self, message: str) -> None:
        """Print a warning, in one line."""
        sys.stderr.write(f"warning: {' '.join(message.split())}\n")

    def show(self, doing: str, figures: str = "", done: int = 0, most: int | None = None) -> None:
        """Update the bar, if there is one; ``most`` is what ``done`` cannot exceed."""
        if self._update:
            self._update(doing, figures, done, most)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Keep a bar on the last line where stderr is a terminal; it leaves nothing behind."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console  # noqa: PLC0415 - slow to load, and needed only here
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

        console = Console(stderr=True)
        columns = (
            SpinnerColumn("line" if console.options.ascii_only else "dots"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
        )
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
            task = bar.add_task("loading", total=None, figures="")

            def update(doing: str, figures: str, done: int, most: int | None) -> None:
                is_new = bar.tasks[0].description != doing  # seen at once, however short it is
                bar.update(
                    task,
                    description=doing,
                    figures=figures,
                    completed=done,
                    total=most,
                    refresh=is_new,
                )

            self._update = update
            try:
                yield
            finally:
                self._update = None


class CtrlC:
    """Ctrl-C is noted instead of raised, so that work can be kept; the second one raises.

    Where Ctrl-C is ignored, as in a shell's background, it stays ignored.

    Attributes:
        pressed: Whether it came.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

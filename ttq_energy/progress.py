"""What a long job tells while it runs: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO, Any

BAR_WIDTH = 24


class Progress:
    """Silent progress; the base of the ones that print.

    A job calls :meth:`stage` when it begins something, :meth:`update` while it goes on and
    :meth:`note` for a line that should stay.
    """

    def stage(self, title: str) -> None:
        """Something new begins."""

    def update(self, text: str) -> None:
        """How far the stage has come."""

    def bar(self, fraction: float, text: str) -> None:
        """How much of the stage is done, 0 to 1; shown in a terminal alone."""

    def note(self, text: str) -> None:
        """A line to keep."""

    def close(self) -> None:
        """Nothing more follows."""


class ConsoleProgress(Progress):
    """Prints to a stream: a spinner with the latest update in a terminal, else lines.

    Without a terminal an update is printed at most every ``every_s`` seconds. A stream that nobody
    reads any more, such as a closed pipe or terminal, ends the telling and not the job.
    """

    def __init__(self, stream: IO[str] | None = None, every_s: float = 5.0) -> None:
        self._console = _console(stream or sys.stderr)
        self._live = self._console.is_terminal
        self._every_s = every_s
        self._title = ""
        self._began = time.monotonic()
        self._last = self._began
        self._status: Any = None
        self._silent = False

    def stage(self, title: str) -> None:
        self._end()
        self._title, self._began = title, time.monotonic()
        self._last = self._began
        if self._live:
            self._tell(self._begin_status)
        else:
            self._print(title)

    def update(self, text: str) -> None:
        now = time.monotonic()
        if self._status is not None:
            self._tell(lambda: self._status.update(f"{self._title}: {text}"))
        elif not self._live and now - self._last >= self._every_s:
            self._last = now
            self._print(f"  {text}")

    def bar(self, fraction: float, text: str) -> None:
        if self._status is not None:
            done = round(BAR_WIDTH * min(max(fraction, 0.0), 1.0))
            drawn = "━" * done + "─" * (BAR_WIDTH - done)
            line = f"{self._title} {drawn} {fraction:.0%}, {text}"
            self._tell(lambda: self._status.update(line))

    def note(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        self._end()

    def _begin_status(self) -> None:
        self._status = self._console.status(self._title)
        self._status.start()

    def _end(self) -> None:
        status, self._status = self._status, None
        if status is not None:
            self._tell(status.stop)
            self._print(f"{self._title}: {time.monotonic() - self._began:.1f} s")

    def _print(self, text: str) -> None:
        self._tell(lambda: self._console.print(text, markup=False))

    def _tell(self, say: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            say()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._silent, self._status = True, None


def _console(stream: IO[str]) -> Any:
    from rich.console import Console

    class Kept(Console):
        def on_broken_pipe(self) -> None:
            """rich's own points the standard output at nothing and exits."""
            self.quiet = True
            raise BrokenPipeError

    return Kept(file=stream, highlight=False, soft_wrap=True)

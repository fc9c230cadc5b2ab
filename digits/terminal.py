"""Terminal: progress bars on standard error, for the command and for the Python API."""

import sys
import threading
import time
from typing import ClassVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from digits.progress import SILENT, Bar

FILE_WIDTH = 160
"""Characters per line if the output is not a terminal, so that nothing is cut off in a log."""

LOG_SECONDS = 25.0
"""Seconds between the lines of a bar if the output is not a terminal."""

MIN_RATE_SHOWN = 10
"""Smallest rate, in steps per second, that a bar shows."""

err = Console(
    stderr=True, force_jupyter=False, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else FILE_WIDTH
)
"""Console of standard error. A notebook gets lines of text, as a log does: bars would need another library there."""


def print_notice(text: str) -> None:
    """Print a message that is not the result of the command, to standard error."""
    err.print(text, markup=False)


class _RateColumn(ProgressColumn):
    """Column of a bar with the steps per second; empty below `MIN_RATE_SHOWN`."""

    def render(self, task: Task) -> Text:
        """Return the rate as text."""
        rate = task.speed or 0
        return Text(f"{rate:,.0f}/s" if rate >= MIN_RATE_SHOWN else "")


class _TerminalBar:
    def __init__(self, drawing: Progress, task: TaskID) -> None:
        self._drawing, self._task = drawing, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._drawing.update(self._task, advance=steps, note=note)

    def close(self, note: str = "") -> None:
        self._drawing.update(self._task, note=note)
        self._drawing.stop()


class _LoggedBar:
    """Bar that also prints a line every `seconds`, for a log. A thread prints it, because a step may take longer."""

    def __init__(self, bar: _TerminalBar, label: str, total: int, seconds: float) -> None:
        self._bar, self._label, self._total, self._seconds = bar, label, total, seconds
        self._done, self._note, self._began = 0, "", time.monotonic()
        self._closed = threading.Event()
        threading.Thread(target=self._print_lines, daemon=True).start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + steps, note
        self._bar.advance(steps, note)

    def close(self, note: str = "") -> None:
        self._closed.set()
        self._bar.close(note)

    def _print_lines(self) -> None:
        while not self._closed.wait(self._seconds):
            seconds = time.monotonic() - self._began
            print_notice(describe_state(self._label, self._done, self._total, self._note, seconds))


def describe_state(label: str, done: int, total: int, note: str, seconds: float) -> str:
    """Return the state of a bar as a line of a log: `export: 2 of 6 after 30 s, drawing digits`."""
    return f"{label}: {done:,} of {total:,} after {seconds:.0f} s" + (f", {note}" if note else "")


class TerminalProgress:
    """Progress bars on standard error, one per call of `start`.

    If standard error is not a terminal, the last state of each bar is printed, and before that a line every
    `LOG_SECONDS`. With `is_shown` set to False, nothing is printed.
    """

    is_shown: ClassVar[bool] = True

    def __init__(self, log_seconds: float = LOG_SECONDS) -> None:
        self._log_seconds = log_seconds

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:  # noqa: ARG002 - a bar per part
        """Start a bar."""
        if not self.is_shown:
            return SILENT.start(label, total)
        drawing = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=err,
        )
        task = drawing.add_task(label, total=total, note="")
        drawing.start()
        bar = _TerminalBar(drawing, task)
        return bar if err.is_terminal else _LoggedBar(bar, label, total, self._log_seconds)

"""Output of the commands on the terminal: text, tables, JSON and progress bars.

Results go to standard output, notices and bars to standard error.
"""

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Console
from rich.markup import escape
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
from rich.table import Table
from rich.text import Text

from digits.progress import SILENT, Bar

FILE_WIDTH = 160
"""Characters per line if the output is not a terminal, so that nothing is cut off in a log."""

LOG_SECONDS = 25.0
"""Seconds between the lines of a bar if the output is not a terminal."""

MIN_RATE_SHOWN = 10
"""Smallest rate, in steps per second, that a bar shows."""

DEPLOYMENT_COLUMNS = {"name": "name", "schedule": "schedule", "next run": "following", "last run": "last", "": "note"}
RUN_COLUMNS = {name: name for name in ("name", "deployment", "state")} | {"started": "when", "message": "message"}
"""Columns of `print_status`: the field of each, by its title."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else FILE_WIDTH)


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


def print_notice(text: str) -> None:
    """Print a message that is not the result of the command, to standard error."""
    err.print(text, markup=False)


def print_json(value: Any, console: Console = out) -> None:
    """Print a result as JSON; values of other types than JSON's are written as strings."""
    console.file.write(json.dumps(value, indent=1, default=str) + "\n")


def print_pairs(title: str, pairs: Mapping[str, Any], console: Console = out) -> None:
    """Print a title, and below it one line per name and value."""
    console.print(f"[bold]{escape(title)}[/bold]")
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        console.print(f"  {name:<{width}}  {value}", markup=False)


def print_facts(title: str, facts: Mapping[str, Any], *, json: bool) -> None:
    """Print facts by name, as JSON if asked."""
    if json:
        print_json(facts)
    else:
        print_pairs(title, facts)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with a header."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


def print_status(status: Mapping[str, Any]) -> None:
    """Print the status of a system: what needs attention, then its parts, deployments and last runs.

    Args:
        status: fields of a `digits.server.status.SystemStatus`, as JSON values.
    """
    for sentence in status["attention"]:
        out.print(f"[bold red]needs attention[/bold red]: {escape(sentence)}")
    if not status["attention"]:
        out.print("[bold green]nothing needs attention[/bold green]")
    parts = ("api", "server", "worker", "champion", *(["slots"] if status["slots"] else []))
    print_pairs("System", {name: status[name] or "none" for name in parts})
    for title, columns, rows in (
        ("Deployments", DEPLOYMENT_COLUMNS, status["deployments"]),
        ("Last runs", RUN_COLUMNS, status["runs"]),
    ):
        if rows:
            out.print(f"[bold]{title}[/bold]")
            print_table(list(columns), [[escape(str(row[name])) for name in columns.values()] for row in rows])

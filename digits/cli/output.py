"""What the console command draws and prints: bars, tables, summaries."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

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

from digits.progress import Bar

UNLIMITED = 160
"""Characters a line where the output is no terminal, so that nothing in a log is cut off."""

SHOWN_RATE = 10
"""Steps a second that are worth telling."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else UNLIMITED)
err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else UNLIMITED)


class _Rate(ProgressColumn):
    """How many steps a second are done, where they are many."""

    def render(self, task: Task) -> Text:
        """Draw it."""
        rate = task.speed or 0
        return Text(f"{rate:,.0f}/s" if rate >= SHOWN_RATE else "")


class _TerminalBar:
    def __init__(self, drawing: Progress, task: TaskID, label: str) -> None:
        self._drawing, self._task, self._label = drawing, task, label

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._drawing.update(self._task, advance=steps, note=note)

    def close(self, note: str = "") -> None:
        self._drawing.update(self._task, note=note)
        self._drawing.stop()


class TerminalProgress:
    """A bar on standard error for each piece of work; where that is no terminal, its last state only."""

    def start(self, label: str, total: int, *, part: tuple[int, int] = (0, 1)) -> Bar:  # noqa: ARG002 - a bar a part
        """Begin a bar below what was printed so far."""
        drawing = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=err,
        )
        task = drawing.add_task(label, total=total, note="")
        drawing.start()
        return _TerminalBar(drawing, task, label)


def print_notice(text: str) -> None:
    """Tell the user something that is not the command's result, on standard error."""
    err.print(text, markup=False)


def join_counts(counts: Mapping[str, int]) -> str:
    """Return counts as one line: `ok: 1,204, uncertain: 3`."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def print_json(value: Any) -> None:
    """Print a result for programs."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    """Print a summary: a title and one line a fact."""
    out.print(f"[bold]{title}[/bold]")
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        out.print(f"  {name:<{width}}  {value}", markup=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


def print_status(status: Mapping[str, Any]) -> None:
    """Print the state of a system: what needs a person first, then the facts, deployments, and last runs."""
    for sentence in status["attention"]:
        out.print(f"[bold red]needs attention[/bold red]: {escape(sentence)}")
    if not status["attention"]:
        out.print("[bold green]all is well[/bold green]")
    print_pairs("System", {name: status[name] or "none" for name in ("api", "server", "worker", "champion")})
    for title, rows in (("Deployments", status["deployments"]), ("Last runs", status["runs"])):
        if rows:
            out.print(f"[bold]{title}[/bold]")
            print_table(list(rows[0]), [[escape(str(value)) for value in row.values()] for row in rows])

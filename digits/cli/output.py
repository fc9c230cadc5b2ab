"""Output of the commands on the terminal: text, tables, JSON and progress bars.

Results go to standard output, notices and bars to standard error.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digits.terminal import FILE_WIDTH, err

DEPLOYMENT_COLUMNS = {"name": "name", "schedule": "schedule", "next run": "following", "last run": "last", "": "note"}
RUN_COLUMNS = {name: name for name in ("name", "deployment", "state")} | {"started": "when", "message": "message"}
"""Columns of `print_status`: the field of each, by its title."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)


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


def print_attention(sentences: Sequence[str]) -> None:
    """Print what needs attention, or that nothing does."""
    for sentence in sentences:
        out.print(f"[bold red]needs attention[/bold red]: {escape(sentence)}")
    if not sentences:
        out.print("[bold green]nothing needs attention[/bold green]")


def print_status(status: Mapping[str, Any]) -> None:
    """Print the status of a system: what needs attention, then its parts, deployments and last runs.

    Args:
        status: fields of a `digits.server.status.SystemStatus`, as JSON values.
    """
    print_attention(status["attention"])
    parts = ("api", "server", "worker", "champion", *(["slots"] if status["slots"] else []))
    print_pairs("System", {name: status[name] or "none" for name in parts})
    for title, columns, rows in (
        ("Deployments", DEPLOYMENT_COLUMNS, status["deployments"]),
        ("Last runs", RUN_COLUMNS, status["runs"]),
    ):
        if rows:
            out.print(f"[bold]{title}[/bold]")
            print_table(list(columns), [[escape(str(row[name])) for name in columns.values()] for row in rows])

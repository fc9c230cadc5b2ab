"""Output of the commands on the terminal: text, tables, JSON, and the summary of a prediction.

Results go to standard output, notices and bars to standard error.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digits.cli.app import OUTPUT
from digits.terminal import FILE_WIDTH, err

if TYPE_CHECKING:
    from digits.outputs.summary import PredictionSummary

DEPLOYMENT_COLUMNS = {"name": "name", "schedule": "schedule", "next run": "following", "last run": "last", "": "note"}
RUN_COLUMNS = {name: name for name in ("name", "deployment", "state")} | {"started": "when", "message": "message"}
"""Columns of `print_status`: the field of each, by its title."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)


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


def print_summary(summary: "PredictionSummary", *, json: bool) -> None:
    """Print the summary of a prediction, the result of a single image first, or with `json` all of its values.

    If the table is on standard output, the summary goes to standard error.
    """
    from digits.wording import count

    console = err if summary.out == OUTPUT else out
    if json:
        print_json(summary_values(summary), console)
    else:
        title = f"{count(summary.images, 'image')} predicted with model version {summary.model_version}"
        print_single(summary, console)
        print_pairs(title, describe_summary(summary), console)
    exit_if_unread(summary)


def summary_values(summary: "PredictionSummary") -> dict[str, Any]:
    """Return the values of `--json`: those of the summary, after the result of a single image if there is one."""
    return {**(vars(summary.single) if summary.single else {}), **summary.as_record()}


def print_single(summary: "PredictionSummary", console: Console) -> None:
    """Print the result of a single image; nothing for several images."""
    if summary.single:
        print_pairs(summary.single.sentence, {}, console)


def exit_if_unread(summary: "PredictionSummary") -> None:
    """Exit with `NOTHING_READ` if no image was read, after saying why: there is none, or none of them can be read."""
    from digits.outputs.skipped import NOTHING_READ, describe_nothing, describe_skipped
    from digits.outputs.summary import count_failures
    from digits.run_log import failure_line

    if count_failures(summary.statuses) < summary.images:
        return
    failures = failure_line(summary)
    reasons = [failures, describe_skipped(summary.skipped)] if failures else [describe_nothing(summary.skipped)]
    sys.stderr.write(f"digits: {'; '.join(filter(None, reasons))}\n")
    sys.exit(NOTHING_READ)


def describe_summary(summary: "PredictionSummary") -> dict[str, object]:
    """Return the facts about a prediction by name, without those that are zero or empty."""
    from digits.outputs.skipped import describe_skipped
    from digits.outputs.summary import first_frames_line, join_counts, picture_path, report_path
    from digits.run_log import failure_line
    from digits.wording import count

    done = summary.images - summary.reused - summary.unchanged
    unchanged = count(summary.unchanged, "image, whose row was", "images, whose rows were")
    counts = {
        "unchanged": summary.unchanged and f"{unchanged} kept from the previous table",
        "predicted": summary.images and f"{count(done, 'image')}, {summary.images_per_second:,.0f} per second",
        "reused": summary.reused and f"{count(summary.reused, 'image')} that an interrupted run had predicted",
        "classes": summary.images and join_counts(summary.predictions),
        "statuses": join_counts(summary.statuses),
        "failures": failure_line(summary),
        "skipped": describe_skipped(summary.skipped),
        "frames": summary.more_frames and first_frames_line(summary),
        ("drift" if summary.drift and summary.drift.is_alarm else "test images"): summary.drift
        and summary.drift.sentence,
    }
    shadow = summary.shadow
    is_file = summary.out != OUTPUT
    places = {
        "shadow": shadow and f"version {shadow['version']} differs on {shadow['differing']:,}: {shadow['table']}",
        "table": is_file and summary.out,
        "report": is_file and report_path(summary.out).exists() and report_path(summary.out),
        "least certain": is_file and summary.least_certain and picture_path(summary.out),
    }
    return {name: value for name, value in (counts | places).items() if value}

"""Reports of runs: promotion decisions and predicted folders as markdown for the Prefect UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from digits.outputs.drawing import data_uri
from digits.outputs.page import Table, facts_table, in_words, markdown_list, markdown_table, markdown_text
from digits.store.decisions import Check, Decision, SetRow

MAX_ROWS = 20


def decision_markdown(
    decision: Decision, *, version: int, champion: int | None, policy: Mapping[str, Any], picture: bytes | None
) -> str:
    """Return a promotion decision as markdown.

    Args:
        decision: decision with its reasons and figures.
        version: number of the version to promote or not.
        champion: number of the version that it was compared with, if there was one.
        policy: promotion policy that was applied.
        picture: PNG of images that only one of the two models predicts correctly, or None.
    """
    against = f" against version {champion}" if champion else ""
    parts = [
        f"# Version {version}{against}: {'promoted' if decision.promote else 'not promoted'}",
        markdown_list(decision.reasons),
    ]
    if decision.sets:
        parts += ["## Test sets", markdown_table(_sets_table(decision.sets))]
    if decision.checks:
        parts += ["## Behaviour", markdown_table(_checks_table(decision.checks))]
    if picture is not None:
        caption = "Images that only one of the two models classifies correctly; green: the challenger is right."
        parts += ["## Changed predictions", f"![{caption}]({data_uri(picture)})", caption]
    return "\n\n".join([*parts, "## Policy", markdown_table(facts_table(policy))]) + "\n"


def _sets_table(rows: Sequence[SetRow]) -> Table:
    header = ("test set", "images", "challenger", "champion", "gained", "lost", "p")
    return header, [(row.name, f"{row.count:,}", f"{row.challenger:.2%}", *_compared(row)) for row in rows]


def _checks_table(checks: Sequence[Check]) -> Table:
    header = ("check", "challenger", "champion", "the policy allows", "passed")
    return header, [
        (one.name, one.challenger, one.champion, one.limit, "yes" if one.passed else "no") for one in checks
    ]


def prediction_markdown(summary: Mapping[str, Any], picture: bytes | None) -> str:
    """Return the summary of a prediction run as markdown.

    Args:
        summary: values by name, in the order in which they are shown; `_` in names is shown as a space. A plain value
            becomes a row of the first table (`source`, `out`, `images`, ...), unless it is None. A mapping of counts
            becomes a table of its own (`statuses`, `predictions`, `skipped`). A list of mappings becomes a table of at
            most 20 rows, with the keys of the first mapping as columns (`failures`: `path`, `status`, `error`), without
            those that have no value in any row, such as `page`.
        picture: PNG of the least certain images, or None; it follows their table if `least_certain` is the last entry
            of the summary.
    """
    plain = {key: value for key, value in summary.items() if not _is_section(value)}
    parts = [markdown_table(facts_table({_spaced(key): value for key, value in plain.items() if value is not None}))]
    for key, value in summary.items():
        if key not in plain and value:
            parts += [f"## {markdown_text(_spaced(key).capitalize())}", _section(value)]
    if picture is not None:
        parts += [*_picture_heading(summary), f"![The least certain predictions]({data_uri(picture)})"]
    return "\n\n".join(parts) + "\n"


def _compared(row: SetRow) -> tuple[str, str, str, str]:
    if row.champion is None or row.p is None:
        return "none", "none", "none", "none"
    return f"{row.champion:.2%}", f"{row.gained:,}", f"{row.lost:,}", f"{row.p:.4f}"


def _picture_heading(summary: Mapping[str, Any]) -> list[str]:
    last = next(iter([*summary][-1:]), "")
    return [] if last == "least_certain" and summary[last] else ["## Least certain"]


def _is_section(value: object) -> bool:
    rows = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(row, Mapping) for row in rows)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _section(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(value, Mapping):
        return markdown_table((("", "count"), [(str(name), in_words(count)) for name, count in value.items()]))
    rows = value[:MAX_ROWS]
    columns = [column for column in value[0] if any(row.get(column) is not None for row in rows)]
    shown = [["" if row.get(column) is None else in_words(row[column]) for column in columns] for row in rows]
    more = f"\n\nOnly the first {MAX_ROWS} are shown." if len(value) > MAX_ROWS else ""
    return markdown_table((columns, shown)) + more

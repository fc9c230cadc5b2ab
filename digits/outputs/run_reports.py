"""Run reports: promotion decisions and predicted folders as markdown for the Prefect UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from digits.outputs.drawing import data_uri
from digits.outputs.model_report import _compared, alt_text, is_section, markdown_section, picture_heading
from digits.outputs.page import Table, facts_table, markdown_list, markdown_table, markdown_text
from digits.store.decisions import Check, Decision, SetRow


def decision_markdown(
    decision: Decision, *, version: int, champion: int | None, policy: Mapping[str, Any], picture: bytes | None
) -> str:
    """Return a decision on a promotion as markdown.

    Args:
        decision: verdict, reasons and figures.
        version: number of the version that was decided on.
        champion: number of the version that it was compared with, if there was one.
        policy: what was asked of the version.
        picture: a PNG of images that changed their answer, or None.
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
        caption = "The surest of the images that only one of the two gets right; green: the challenger is right."
        parts += ["## Changed answers", f"![{caption}]({data_uri(picture)})", caption]
    return "\n\n".join([*parts, "## Policy", markdown_table(facts_table(policy))]) + "\n"


def _sets_table(rows: Sequence[SetRow]) -> Table:
    header = ("test set", "images", "challenger", "champion", "gained", "lost", "p")
    return header, [(row.name, f"{row.count:,}", f"{row.challenger:.2%}", *_compared(row)) for row in rows]


def _checks_table(checks: Sequence[Check]) -> Table:
    header = ("what", "challenger", "champion", "the policy allows", "kept")
    return header, [
        (one.name, one.challenger, one.champion, one.limit, "yes" if one.passed else "no") for one in checks
    ]


def prediction_markdown(summary: Mapping[str, Any], picture: bytes | None) -> str:
    """Give the summary of a prediction as markdown.

    Args:
        summary: what is to be said, in this order, `_` in names being shown as spaces. A plain value is a row of the
            first table (`folder`, `output`, `images`, `seconds`, `images_per_second`, `model_version`, ...); a mapping
            of counts is a table of its own (`by_status`, `by_class`, `skipped`); a list of mappings is a table
            with the first one's keys as columns, of at most 20 rows (`failures`: `path`, `status`, `error`).
        picture: a PNG of the least certain images, or None; it follows the table of them, when `least_certain` is the
            last of the summary.
    """
    plain = {key: value for key, value in summary.items() if not is_section(value)}
    parts = [markdown_table(facts_table({alt_text(key): value for key, value in plain.items()}))]
    for key, value in summary.items():
        if key not in plain and value:
            parts += [f"## {markdown_text(alt_text(key).capitalize())}", markdown_section(value)]
    if picture is not None:
        parts += [*picture_heading(summary), f"![The least certain predictions]({data_uri(picture)})"]
    return "\n\n".join(parts) + "\n"

"""Reports of runs: promotion decisions as markdown for the Prefect UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from digits.outputs.drawing import data_uri
from digits.outputs.page import Table, facts_table, markdown_list, markdown_table
from digits.store.decisions import Check, Decision, SetRow


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


def _compared(row: SetRow) -> tuple[str, str, str, str]:
    if row.champion is None or row.p is None:
        return "none", "none", "none", "none"
    return f"{row.champion:.2%}", f"{row.gained:,}", f"{row.lost:,}", f"{row.p:.4f}"

"""The flow that makes a former champion the champion again."""

from pathlib import Path

from prefect import flow

from digits.store.registry import Promotion
from flows.runs import WATCHED, told
from tasks.reporting import publish_versions
from tasks.rollback import roll_back

LONGEST_SECONDS = 600


@flow(name="rollback", flow_run_name="roll back", timeout_seconds=LONGEST_SECONDS, **WATCHED)
@told
def rollback(version: int | None = None, reason: str = "", artifacts: Path | None = None) -> tuple[Promotion, str]:
    """Make a former champion the champion again.

    Args:
        version: Which of the former champions; empty: the one before the present one.
        reason: Why; it is kept with the change.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    entry = roll_back(version, reason, artifacts)
    publish_versions(artifacts)
    return entry, f"version {entry.version} is the champion now: {', '.join(entry.reasons)}"

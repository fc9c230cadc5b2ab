"""Rollback flow: make a former champion the champion again."""

from pathlib import Path

from prefect import flow

from digits.store.registry import Promotion
from flows.runs import HOOKS, with_final_message
from tasks.reporting import publish_versions
from tasks.rollback import roll_back

TIMEOUT_SECONDS = 600


@flow(name="rollback", flow_run_name="roll back", timeout_seconds=TIMEOUT_SECONDS, **HOOKS)
@with_final_message
def rollback(version: int | None = None, reason: str = "", artifacts: Path | None = None) -> tuple[Promotion, str]:
    """Make a former champion the champion again.

    Args:
        version: Number of a former champion. Empty: the previous champion.
        reason: Reason, recorded with the change.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
    """
    promotion = roll_back(version, reason, artifacts)
    publish_versions(artifacts)
    return promotion, f"version {promotion.version} is the champion now: {', '.join(promotion.reasons)}"

"""Task of rolling back to a former champion."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.run_log import rollback_lines
from digits.store.registry import Promotion, Registry
from tasks.edge import emit, log_lines, open_store


@task(name="roll back", task_run_name="roll back", cache_policy=NO_CACHE)
def roll_back(version: int | None, reason: str, root: Path | None) -> Promotion:
    """Make a former champion the champion again, and emit an event about it."""
    promotion = Registry(open_store(root)).roll_back(version, reason=reason)
    emit(
        "digits.model.rolled-back",
        f"digits.model.{promotion.version}",
        f"model version {promotion.version}",
        champion=promotion.version,
        reasons=list(promotion.reasons),
    )
    log_lines(rollback_lines(promotion))
    return promotion

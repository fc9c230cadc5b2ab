"""The Prefect step of rolling back."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.store.registry import Promotion, Registry
from tasks.edge import open_store, tell


@task(name="roll back", task_run_name="roll back", cache_policy=NO_CACHE)
def roll_back(version: int | None, reason: str, root: Path | None) -> Promotion:
    """Make a former champion the champion again, and tell of it."""
    entry = Registry(open_store(root)).rollback(version, reason=reason)
    tell(
        "digits.model.rolled-back",
        f"digits.model.{entry.version}",
        f"model version {entry.version}",
        champion=entry.version,
        reasons=list(entry.reasons),
    )
    return entry

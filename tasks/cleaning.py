"""Task of retention."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.maintenance import retention
from digits.maintenance.retention import Removed, RetentionConfig
from tasks.edge import open_store


@task(name="sweep", task_run_name="sweep the artifact store", cache_policy=NO_CACHE)
def sweep_store(config: RetentionConfig, root: Path | None) -> list[Removed]:
    """Remove what is older than its retention period from the artifact store."""
    return retention.sweep_store(open_store(root), config)

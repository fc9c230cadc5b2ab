"""Task of cleaning the artifact store."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.maintenance import retention
from digits.maintenance.retention import Removed, RetentionConfig
from tasks.edge import open_store


@task(name="sweep", task_run_name="sweep the artifact store", cache_policy=NO_CACHE)
def sweep_store(config: RetentionConfig, root: Path | None) -> list[Removed]:
    """Remove unused files from the artifact store after their retention period."""
    return retention.sweep_store(open_store(root), config)

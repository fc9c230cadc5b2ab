"""Tasks of the janitor: clean the artifact store, and end dead runs."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.maintenance import retention
from digits.maintenance.retention import Removed, RetentionConfig
from digits.server.dead_runs import sweep_dead_runs
from digits.server.logs import rotate_logs
from digits.server.services import state_directory
from tasks.edge import log_to_run, open_store


@task(name="sweep", task_run_name="sweep the artifact store", cache_policy=NO_CACHE)
def sweep_store(config: RetentionConfig, root: Path | None) -> list[Removed]:
    """Remove unused files from the artifact store after their retention period, and rotate the logs of `digits up`."""
    store = open_store(root)
    rotate_logs(state_directory(None, store.root))
    return retention.sweep_store(store, config)


@task(name="sweep runs", task_run_name="sweep dead runs", cache_policy=NO_CACHE)
def sweep_runs() -> list[str]:
    """Set dead runs to Crashed, and return their names."""
    log_to_run()
    return sweep_dead_runs()

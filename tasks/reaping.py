"""The Prefect step of reaping."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.server import reaping
from tasks.edge import log_to_run


@task(name="reap", task_run_name="reap runs whose process is gone", cache_policy=NO_CACHE)
def reap_runs() -> list[dict[str, object]]:
    """Set the runs to Crashed whose process is gone; give a row for each, and for each that can't be judged."""
    log_to_run()
    return reaping.reap()

"""Task of setting runs to Crashed."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from digits.server import reaping
from digits.server.reaping import ReapedRun
from tasks.edge import log_to_run


@task(name="reap", task_run_name="reap runs whose process is gone", cache_policy=NO_CACHE)
def reap_runs() -> list[ReapedRun]:
    """Set runs whose process is gone to Crashed."""
    log_to_run()
    return reaping.reap_runs()

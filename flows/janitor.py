"""Janitor flow: set dead runs to Crashed, and remove unused files from the artifact root."""

from pathlib import Path

from prefect import flow

from digits.maintenance.retention import RetentionConfig
from digits.wording import FILES_OR_DIRECTORIES, count
from flows.runs import HOOKS, with_final_message
from tasks.cleaning import sweep_runs, sweep_store
from tasks.reporting import publish_cleaning

TIMEOUT_SECONDS = 3600


@flow(
    name="janitor",
    flow_run_name="janitor",
    timeout_seconds=TIMEOUT_SECONDS,
    **HOOKS,
)
@with_final_message
def clean_up(
    retention: RetentionConfig = RetentionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> tuple[int, str]:
    """Set dead runs to Crashed, and remove files that nothing has used for a long time.

    Prediction tables and images of the inbox are removed only if you set a period for them. Whatever a model version or
    its report refers to is never removed.

    Args:
        retention: Retention periods.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
    """
    runs = sweep_runs()
    removed = sweep_store(retention, artifacts)
    publish_cleaning(runs, removed, artifacts)
    paths = count(len(removed), *FILES_OR_DIRECTORIES)
    return len(runs) + len(removed), f"{count(len(runs), 'run')} set to Crashed, {paths} removed"

"""The janitor: runs whose process is gone are told to be crashed, and what nobody needs any more is removed."""

from pathlib import Path

from prefect import flow

from digits.maintenance.retention import RetentionConfig
from flows.runs import WATCHED, told
from tasks.cleaning import sweep_store
from tasks.reaping import reap_runs
from tasks.reporting import publish_cleaning

LONGEST_SECONDS = 3600


@flow(
    name="janitor",
    flow_run_name="janitor",
    timeout_seconds=LONGEST_SECONDS,
    **WATCHED,
)
@told
def clean_up(
    retention: RetentionConfig = RetentionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> tuple[int, str]:
    """Set runs to Crashed whose process is gone, and remove what nothing refers to and nobody has used for long.

    What a model version or its report refers to is never removed, and no table of predictions is.

    Args:
        retention: How long things are kept.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    rows = reap_runs()
    removed = sweep_store(retention, artifacts)
    publish_cleaning(rows, removed)
    crashed = sum(row["what"] == "crashed" for row in rows)
    return crashed + len(removed), f"{crashed} runs set to Crashed, {len(removed)} things removed"

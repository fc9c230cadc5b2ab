"""What the operator reads in the Prefect UI: Prefect artifacts made from reports and tables of the library."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from digits import stages
from digits.listing import version_rows
from digits.registry import Registry
from digits.reports import prediction_markdown
from digits.stages import Outcome
from digits.summaries import PredictionSummary, read_picture
from tasks.edge import open_store

NEWEST = 50
"""Model versions in the table; the older ones are in `digits models`."""


@task(name="publish report", task_run_name="publish report", cache_policy=NO_CACHE)
def publish_training(outcome: Outcome, root: Path | None) -> None:
    """Put the model's report, headed by the decision on it, where the UI shows it."""
    report = stages.decided_report(open_store(root), outcome)
    create_markdown_artifact(report, key="model-report", description=f"Model version {outcome.version}")


@task(name="publish versions", task_run_name="publish versions", cache_policy=NO_CACHE)
def publish_versions(root: Path | None) -> None:
    """Put the table of model versions where the UI shows it."""
    rows = version_rows(Registry(open_store(root)))
    create_table_artifact(rows[-NEWEST:], key="model-versions", description="Model versions, newest last")


@task(name="publish predictions", task_run_name="publish predictions", cache_policy=NO_CACHE)
def publish_predictions(summary: PredictionSummary) -> None:
    """Put the summary of a prediction run where the UI shows it."""
    report = prediction_markdown(summary.as_record(), read_picture(summary))
    create_markdown_artifact(report, key="predictions", description=str(summary.out))

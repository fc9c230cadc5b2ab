"""Tasks of reporting: publish reports and tables of the library as Prefect artifacts, and emit events."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import Artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from digits.maintenance.retention import Removed
from digits.model.drift import FEATURE_NAMES, Drift
from digits.outputs.drawing import data_uri
from digits.outputs.prediction_report import prediction_markdown
from digits.outputs.summary import PredictionSummary, draw_trend, read_picture
from digits.outputs.version_tables import promotion_rows, version_rows
from digits.pipeline import champion
from digits.pipeline.champion import Outcome
from digits.run_log import cleaning_lines
from digits.store.artifacts import ArtifactRef
from digits.store.registry import Registry
from digits.wording import count
from tasks.edge import artifact_key, emit, library_log, log_lines, open_store

MAX_ROWS = 50
"""Largest number of rows in a published table; `digits models` lists all model versions."""

RETRIES = 5
BACKOFF = exponential_backoff(backoff_factor=2)
"""Waiting times of 2, 4, 8, 16 and 32 seconds before retries. Publishing tasks are retried, because the Prefect server
may be restarting."""


@task(
    name="publish report",
    task_run_name="publish report",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_training(outcome: Outcome, arrays: ArtifactRef, root: Path | None) -> None:
    """Publish the report of a model and the promotion decision, and emit an event about the decision."""
    store = open_store(root)
    report = champion.report_with_decision(store, outcome)
    create_markdown_artifact(
        report, key=artifact_key("model-report", root), description=f"Model version {outcome.version}"
    )
    if outcome.decision is None:
        return
    made = champion.load_decision(store, outcome.decision)
    verdict = "promoted" if outcome.promoted else "refused"
    page = champion.render_decision(store, made, arrays)
    create_markdown_artifact(
        page, key=artifact_key("decision", root), description=f"Model version {outcome.version}: {verdict}"
    )
    emit(
        f"digits.model.{verdict}",
        f"digits.model.{outcome.version}",
        f"model version {outcome.version}",
        accuracy=outcome.facts.accuracy,
        reasons=list(outcome.reasons),
        champion=outcome.champion,
        compared_with=made.champion,
        test_sets=[asdict(row) for row in made.decision.sets],
        checks=[asdict(check) for check in made.decision.checks],
    )


@task(
    name="publish versions",
    task_run_name="publish versions",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_versions(root: Path | None) -> None:
    """Publish the tables of model versions and of promotions."""
    registry = Registry(open_store(root))
    rows, promotions = version_rows(registry), promotion_rows(registry)
    create_table_artifact(
        rows[-MAX_ROWS:], key=artifact_key("model-versions", root), description="Model versions, newest last"
    )
    create_table_artifact(
        promotions[-MAX_ROWS:], key=artifact_key("promotions", root), description="Changes of the champion, newest last"
    )


@task(
    name="publish predictions",
    task_run_name="publish predictions",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_predictions(summary: PredictionSummary, root: Path | None) -> None:
    """Publish the summary of a prediction run, and emit events about its table and about drift from its baseline."""
    report = prediction_markdown(summary, read_picture(summary))
    create_markdown_artifact(report, key=artifact_key("predictions", root), description=str(summary.out))
    Artifact(
        type="json",
        key=artifact_key("prediction-summary", root),
        description=str(summary.out),
        data=summary.as_record(),
    ).create()
    emit(
        "digits.predictions.written",
        f"digits.predictions.{summary.source.name}",
        str(summary.out),
        images=summary.images,
        model_version=summary.model_version,
        statuses=dict(summary.statuses),
    )
    if summary.drift:
        _publish_drift(summary, summary.drift, root)


def _publish_drift(summary: PredictionSummary, drift: Drift, root: Path | None) -> None:
    """Publish the drift of a run as a table and of the last runs as a chart; emit an event if it is an alarm."""
    rows = [{**asdict(shift), "feature": FEATURE_NAMES[shift.feature]} for shift in drift.shifts]
    create_table_artifact(rows, key=artifact_key("drift", root), description=f"{summary.out}: {drift.description}")
    if picture := draw_trend(summary):
        markdown = f"![Drift (PSI) of the last runs]({data_uri(picture)})\n"
        create_markdown_artifact(markdown, key=artifact_key("drift-trend", root), description=str(summary.out))
    if drift.is_alarm:
        library_log.warning("drift: %s", drift.sentence)
        emit(
            "digits.drift",
            f"digits.predictions.{summary.source.name}",
            str(summary.out),
            features={shift.feature: shift.psi for shift in drift.drifted},
            images=drift.images,
            model_version=summary.model_version,
            table=str(summary.out),
        )


@task(
    name="publish janitor",
    task_run_name="publish janitor",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_cleaning(runs: Sequence[str], removed: Sequence[Removed], root: Path | None) -> None:
    """Publish what the janitor did, one row per run or removed file."""
    rows: list[dict[str, Any]] = [
        *({"what": "crashed", "which": run, "why": "nobody worked on it"} for run in runs),
        *({"what": "removed", "which": one.path, "why": one.reason} for one in removed),
    ]
    create_table_artifact(
        rows[:MAX_ROWS],
        key=artifact_key("janitor", root),
        description=count(len(rows), "run or file", "runs and files"),
    )
    log_lines(cleaning_lines(runs, removed))

"""Prediction flows: predict a folder of images, or an inbox, into a table with one row per image.

An inbox is a folder of which only new and changed images are predicted.
"""

from contextlib import suppress
from pathlib import Path

from prefect import flow

from digits.errors import PlanGoneError
from digits.outputs.summary import PredictionSummary
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.run_log import no_champion_message, prediction_message
from digits.settings import artifact_root
from digits.store.artifacts import Store
from digits.wording import count
from flows.runs import HOOKS, Skipped, short_path, with_final_message
from tasks.prediction import (
    compare_tables,
    discard_plan,
    inbox_lock,
    lacks_champion,
    log_summary,
    merge_predictions,
    name_run,
    plan_predictions,
    plan_shadow,
    predict_shards,
    require_shadow,
    worker_pool,
)
from tasks.reporting import publish_predictions

TIMEOUT_SECONDS = 24 * 3600


def run_name() -> str:
    """Return the first name of a run, such as `predict scans/2026-11 with model champion`; see `name_run`."""
    from prefect.runtime import flow_run

    folder = flow_run.parameters.get("folder")
    source = short_path(Path(folder)) if folder else "inbox"
    return f"predict {source} with model {flow_run.parameters['model']}"


@flow(
    name="predict",
    flow_run_name=run_name,
    timeout_seconds=TIMEOUT_SECONDS,
    **HOOKS,
)
@with_final_message
def predict_folder(
    folder: Path,
    model: str = "champion",
    out: Path | None = None,
    shadow: str | None = None,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> tuple[PredictionSummary, str]:
    """Predict every image of a folder, and write a table with one row per image.

    A run with the same parameters as an interrupted one resumes it. Paths are those of the worker's machine.

    Args:
        folder: Folder or archive of images, or an image file. Archives are zip and tar files.
        model: Model version: `champion` or a number.
        out: Table to write: `.csv`, `.parquet` or `.jsonl`. Its extension is its format. Default:
            `predictions/<folder>-<digest>/predictions.csv` under the artifact root.
        shadow: Second model version, to compare with. It is a number or `challenger` (the newest version), and predicts
            the folder too. The images on which the two versions differ are written beside the table, to
            `<table>.shadow.csv`.
        options: Settings of the prediction: files, limits, and columns of the table.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
    """
    if shadow:
        require_shadow(folder, shadow, out, options, artifacts)
    with worker_pool(folder, model, options.processes, artifacts):
        summary = _predict(folder, model, out, options, artifacts)
        if shadow:
            plan = plan_shadow(folder, shadow, summary.out, options, artifacts)
            summary = compare_tables(summary, _carry_out(plan, artifacts), options, artifacts)
        return _publish(summary, artifacts)


@flow(
    name="predict",
    flow_run_name=run_name,
    timeout_seconds=TIMEOUT_SECONDS,
    **HOOKS,
)
@with_final_message
def predict_inbox(
    folder: Path | None = None,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> tuple[PredictionSummary | None, str] | Skipped:
    """Predict the new and changed images of an inbox, into a table with one row for each of its images.

    The run is skipped while there is no champion yet, or another run predicts the same inbox. Paths are those of the
    worker's machine.

    Args:
        folder: Inbox: an existing folder. Empty: `inbox/` under the artifact root, which is created if it is missing.
        model: Model version: `champion` or a number. All images are predicted again when it changes.
        out: Table to write: `.csv`, `.parquet` or `.jsonl`. Its extension is its format. Default:
            `predictions/<folder>-<digest>/predictions.csv` under the artifact root.
        options: Settings of the prediction: files, limits, and columns of the table. `incremental` is always on.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
    """
    folder = folder or Store(artifact_root(artifacts)).inbox
    with inbox_lock(folder, artifacts) as held:
        if not held:
            return Skipped(f"another run is predicting {folder}")
        if lacks_champion(model, artifacts):
            return Skipped(no_champion_message(folder))
        options = options.model_copy(update={"incremental": True})
        plan = plan_predictions(folder, model, out, options, artifacts)
        if plan.is_up_to_date:
            return None, discard_plan(plan)
        with worker_pool(folder, model, options.processes, artifacts):
            return _publish(_predict_plan(plan, folder, artifacts), artifacts)


def _predict(
    folder: Path, model: str, out: Path | None, options: PredictionConfig, artifacts: Path | None
) -> PredictionSummary:
    """Plan and predict; plan again if another run has published the plan and the table was replaced since."""
    while True:
        plan = plan_predictions(folder, model, out, options, artifacts)
        with suppress(PlanGoneError):
            return _predict_plan(plan, folder, artifacts)


def _predict_plan(plan: Plan, folder: Path, artifacts: Path | None) -> PredictionSummary:
    name_run(f"predict {short_path(folder)} {count(plan.images, 'image')} with model {plan.model.version}")
    return _carry_out(plan, artifacts)


def _carry_out(plan: Plan, artifacts: Path | None) -> PredictionSummary:
    started = predict_shards(plan, artifacts)
    return merge_predictions(plan, started)


def _publish(summary: PredictionSummary, artifacts: Path | None) -> tuple[PredictionSummary, str]:
    publish_predictions(summary, artifacts)
    log_summary(summary)
    return summary, prediction_message(summary)

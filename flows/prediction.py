"""The prediction flows: from a folder of images, or an inbox, to a table with one row an image."""

from contextlib import suppress
from pathlib import Path

from prefect import flow

from digits.errors import PlanGoneError
from digits.outputs.summary import PredictionSummary
from digits.prediction.config import PredictionConfig
from digits.settings import artifact_root
from digits.store.artifacts import Store
from flows.runs import WATCHED, short, told
from tasks.prediction import (
    Plan,
    compare_tables,
    inbox_lock,
    leave_as_it_is,
    merge_predictions,
    name_run,
    plan_predictions,
    plan_shadow,
    predict_shards,
    require_version,
    workers,
)
from tasks.reporting import publish_predictions

LONGEST_SECONDS = 24 * 3600


def run_name() -> str:
    """Name a run before its images are counted, such as `predict scans/2026-11 with model champion`."""
    from prefect.runtime import flow_run

    folder = flow_run.parameters.get("folder")
    what = short(Path(folder)) if folder else "inbox"
    return f"predict {what} with model {flow_run.parameters['model']}"


@flow(
    name="predict",
    flow_run_name=run_name,
    timeout_seconds=LONGEST_SECONDS,
    **WATCHED,
)
@told
def predict_folder(
    folder: Path,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
    shadow: str | None = None,
) -> tuple[PredictionSummary, str]:
    """Predict every image of a folder, and write a table with one row an image.

    A run that was killed is continued by the next one with the same parameters.

    Args:
        folder: A folder of images, a zip or tar archive of them, or one image file, on the worker.
        model: `champion`, or the number of a model version.
        out: The table to write, on the worker; its extension says its format: `.csv`, `.parquet` or `.jsonl`. Empty:
            `predictions/<folder>-<plan>/predictions.csv` under the artifact root.
        options: How the folder becomes a table.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
        shadow: Another version's number, or `challenger`, the newest version: predicts the folder too, and a table
            beside the other one, `<table>.shadow.csv`, has the images on which they differ.
    """
    if shadow:
        require_version(shadow, artifacts)
    with workers(folder, model, options.processes, artifacts):
        summary = _plan_and_carry_out(folder, model, out, options, artifacts)
        if shadow:
            planned = plan_shadow(folder, shadow, summary.out, options, artifacts)
            summary = compare_tables(summary, _shards_and_table(planned))
        return _told(summary)


@flow(
    name="predict",
    flow_run_name=run_name,
    timeout_seconds=LONGEST_SECONDS,
    **WATCHED,
)
@told
def predict_inbox(
    folder: Path | None = None,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> tuple[PredictionSummary | None, str]:
    """Predict what is new or changed in an inbox since the champion last predicted it; the table has all its images.

    While another run is at the same inbox, there is nothing to do.

    Args:
        folder: The inbox, on the worker; it is made if it is not there. Empty: `inbox/` under the artifact root.
        model: `champion`, or the number of a model version; when it is another one, all images are predicted anew.
        out: The table to keep, on the worker; its extension says its format: `.csv`, `.parquet` or `.jsonl`. Empty:
            `predictions/<folder>-<plan>/predictions.csv` under the artifact root.
        options: How images become rows; `incremental` is on.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    folder = folder or Store(artifact_root(artifacts)).inbox
    with inbox_lock(folder, artifacts) as ours:
        if not ours:
            return None, f"another run is at {folder} already"
        options = options.model_copy(update={"incremental": True})
        plan = plan_predictions(folder, model, out, options, artifacts)
        if plan.is_up_to_date:
            return None, leave_as_it_is(plan)
        with workers(folder, model, options.processes, artifacts):
            return _told(_carry_out(plan, folder))


def _plan_and_carry_out(
    folder: Path, model: str, out: Path | None, options: PredictionConfig, artifacts: Path | None
) -> PredictionSummary:
    while True:
        plan = plan_predictions(folder, model, out, options, artifacts)
        with suppress(PlanGoneError):
            return _carry_out(plan, folder)


def _carry_out(plan: Plan, folder: Path) -> PredictionSummary:
    name_run(f"predict {short(folder)} {plan.images:,} images with model {plan.model.version}")
    return _shards_and_table(plan)


def _shards_and_table(plan: Plan) -> PredictionSummary:
    started = predict_shards(plan)
    return merge_predictions(plan, started)


def _told(summary: PredictionSummary) -> tuple[PredictionSummary, str]:
    publish_predictions(summary)
    sentence = f"{summary.images:,} images are in {summary.out}"
    if shadow := summary.shadow:
        sentence += f"; version {shadow['version']} differs on {shadow['differing']:,}, which are in {shadow['table']}"
    return summary, sentence

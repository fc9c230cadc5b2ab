"""The prediction flow: from a folder of images to a table with one row an image."""

from pathlib import Path

from prefect import flow

from digits.config import PredictionConfig
from digits.summaries import PredictionSummary
from tasks.prediction import merge_predictions, plan_predictions, predict_shards, workers
from tasks.reporting import publish_predictions


@flow(name="predict", flow_run_name="predict {folder} with model {model}")
def predict_folder(
    folder: Path,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - frozen
    artifacts: Path | None = None,
) -> PredictionSummary:
    """Predict every image of a folder, and write a table with one row an image.

    A run that was killed is continued by the next one with the same parameters.

    Args:
        folder: A folder of images, a zip or tar archive of them, or one image file, on the worker.
        model: `champion`, or the number of a model version.
        out: The table to write, on the worker; its extension says its format: `.csv`, `.parquet` or `.jsonl`. Empty:
            `predictions/<folder>-<plan>/predictions.csv` under the artifact root.
        options: How the folder becomes a table.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    with workers(folder, model, options.processes, artifacts):
        plan = plan_predictions(folder, model, out, options, artifacts)
        started = predict_shards(plan)
        summary = merge_predictions(plan, started)
    publish_predictions(summary)
    return summary

"""API: prediction of a folder in one call, and the test images of a model as files."""

from pathlib import Path

import numpy as np

from digits.outputs.summary import PredictionSummary
from digits.prediction import publish
from digits.prediction.config import PredictionConfig
from digits.prediction.pool import WorkerPool, run_workers
from digits.prediction.service import compare_tables, default_table, open_model, plan_shadow
from digits.progress import SILENT, Progress
from digits.store.artifacts import Store
from digits.store.registry import Registry


def predict(  # noqa: PLR0913 - input, model, options and output
    store: Store,
    source: Path,
    *,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict every image of a folder, and write a table with one row per image.

    See `digits.prediction.publish.predict_folder`.

    Args:
        store: artifact store with the model.
        source: folder, archive or single image.
        model: `champion`, or the number of a model version.
        out: path of the table (.csv, .parquet or .jsonl); None for a path under the artifact root.
        options: prediction settings.
        progress: receiver of the progress, in images.

    Raises:
        UsageError: if the folder cannot be read, or the format of the table is unknown.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable; run the prediction again to resume it.
    """
    return publish.predict_folder(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
        progress=progress,
    )


def predict_shadow(  # noqa: PLR0913 - input, model and options
    store: Store,
    source: Path,
    summary: PredictionSummary,
    *,
    shadow: str,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict a folder with a second model version, and write the rows in which it differs.

    See `digits.prediction.service.compare_tables`.

    Args:
        store: artifact store with the models.
        source: folder, archive or single image.
        summary: summary of the prediction with the first version.
        shadow: number of the second version, or `challenger`.
        options: prediction settings.
        progress: receiver of the progress, in images.

    Returns:
        The summary with the result of the comparison.
    """
    with WorkerPool(options.processes) as pool:
        plan = plan_shadow(store, source, shadow=shadow, out=summary.out, options=options)
        run_workers(plan, pool, progress=progress)
        return compare_tables(summary, publish.merge_predictions(plan, pool))


def write_test_images(store: Store, version: int, folder: Path) -> Path:
    """Write the test images of a model version as `<folder>/<class>/<index>.png`, and return the folder."""
    from PIL import Image

    arrays = store.open(Registry(store).version(version).artifact("arrays"))
    pixels, labels = (np.load(arrays.file(f"test_{part}.npy"), allow_pickle=False) for part in ("pixels", "labels"))
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / str(label) / f"{index:05}.png"
        if not path.exists():
            Image.fromarray(image).save(path)
    return folder

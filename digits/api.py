"""Functions of the public Python API."""

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


def predict(  # noqa: PLR0913 - what, with what, how, where to
    store: Store,
    source: Path,
    *,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict every image of a folder into a table; see `digits.prediction.publish.predict_folder`.

    Args:
        store: where models are, and the work in progress.
        source: a folder, an archive, or a single image.
        model: `champion` or a version's number.
        out: the table; None for `default_table`.
        options: how.
        progress: is told of images.

    Raises:
        UsageError: the folder can't be read, or the table's format is unknown.
        RegistryError: there is no such model.
        StoreError: the disk is full, or can't be written to; run again to go on.
    """
    return publish.predict_folder(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
        progress=progress,
    )


def predict_shadow(  # noqa: PLR0913 - what, with what, how
    store: Store,
    source: Path,
    summary: PredictionSummary,
    *,
    shadow: str,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict a folder with another version too, and write where it differs; see `plan_shadow` and `compare_tables`."""
    with WorkerPool(options.processes) as crew:
        planned = plan_shadow(store, source, shadow=shadow, out=summary.out, options=options)
        run_workers(planned, crew, progress=progress)
        return compare_tables(summary, publish.merge_predictions(planned, crew))


def write_test_images(store: Store, version: int, folder: Path) -> Path:
    """Write the test images of a model as `<folder>/<class>/<index>.png`, to have real files to predict."""
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

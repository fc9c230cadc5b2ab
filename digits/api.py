"""Functions of the public Python API, which `digits` offers by name: `digits.predict`, `digits.train`, ...

All of them work without Prefect. If `artifacts` is None, they use the artifact root that the command `digits` would
use; see `digits.settings.artifact_root`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from digits.errors import ModelError
from digits.extras import require_extra
from digits.outputs import frame, table
from digits.outputs.summary import PredictionSummary
from digits.prediction import publish
from digits.prediction.config import PredictionConfig
from digits.prediction.pool import WorkerPool, run_workers
from digits.prediction.service import compare_tables, default_table, open_model, plan_shadow
from digits.progress import SILENT, Progress
from digits.settings import artifact_root
from digits.store.artifacts import Store
from digits.store.records import Record
from digits.store.registry import ModelVersion, Registry

if TYPE_CHECKING:
    import pandas as pd

    from digits.data.config import ArraysConfig
    from digits.images.formats import Mode
    from digits.model.metrics import Evaluation
    from digits.model.onnx_model import Predictor
    from digits.pipeline.champion import Outcome
    from digits.pipeline.config import Preset, PromotionPolicy
    from digits.review.inspection import Inspection
    from digits.training.config import ModelConfig, TrainingConfig


def predict(  # noqa: PLR0913 - input, output, model and options
    source: str | Path,
    *,
    out: str | Path | None = None,
    model: str = "champion",
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - immutable
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict every image of a folder, and write a table with one row per image.

    An interrupted prediction is resumed. See `digits.prediction.publish.predict_folder`.

    Args:
        source: folder, archive or single image.
        out: path of the table (.csv, .parquet or .jsonl); None for a path under the artifact root.
        model: `champion`, `challenger` or the number of a model version.
        options: prediction settings.
        artifacts: artifact root with the model.
        progress: receiver of the progress, in images.

    Raises:
        UsageError: if the folder cannot be read, the format of the table is unknown, or without `force` a file that
            Digits did not write or that was changed would be overwritten.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable; run the prediction again to resume it.
    """
    store, source = _open_store(artifacts), Path(source)
    return publish.predict_folder(
        source,
        model=open_model(store, model),
        options=options,
        out=Path(out) if out else default_table(store, source),
        work=store.workspace(store.plans),
        progress=progress,
    )


def predict_shadow(  # noqa: PLR0913 - input, models and options
    source: str | Path,
    summary: PredictionSummary,
    *,
    shadow: str,
    options: PredictionConfig = PredictionConfig(),  # noqa: B008 - immutable
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict a folder with a second model version, and write the rows in which it differs.

    See `digits.prediction.service.compare_tables`.

    Args:
        source: folder, archive or single image.
        summary: summary of the prediction with the first version.
        shadow: number of the second version, or `challenger`.
        options: prediction settings.
        artifacts: artifact root with the models.
        progress: receiver of the progress, in images.

    Returns:
        The summary with the result of the comparison.
    """
    store = _open_store(artifacts)
    with WorkerPool(options.processes) as pool:
        plan = plan_shadow(store, Path(source), shadow=shadow, out=summary.out, options=options)
        run_workers(plan, pool, progress=progress)
        return compare_tables(store, summary, publish.merge_predictions(plan, pool), force=options.force)


@overload
def read_table(path: str | Path, *, as_records: Literal[False] = False) -> "pd.DataFrame": ...
@overload
def read_table(path: str | Path, *, as_records: Literal[True]) -> list[Record]: ...
def read_table(path: str | Path, *, as_records: bool = False) -> "pd.DataFrame | list[Record]":
    """Read a prediction table as a DataFrame in which each column has the type of its values.

    Text is `string`; `prediction`, `status`, `top2` ... are `category`; probabilities and `novelty` are `float64`;
    `width`, `height`, `model_version` and `page` are `Int64`. Empty cells are missing values.

    Example:
        >>> df = digits.read_table("scans.csv")
        >>> df[df.confidence < 0.9]
        >>> df.attrs["summary"]["statuses"]
        {'ok': 98, 'not-an-image': 2}

    Args:
        path: table that Digits wrote, in any of its formats; it may have been edited.
        as_records: whether to return a list of dictionaries, which needs no pandas; an empty value is None.

    Returns:
        One row per image or page. `attrs["summary"]` holds the summary beside the table, if there is one.

    Raises:
        UsageError: if the file cannot be read or is no prediction table, or if pandas is not installed.
    """
    path = Path(path)
    return list(table.read_table(path)) if as_records else frame.read_frame(path)


def train(  # noqa: PLR0913 - the settings of a training run
    datasets: Sequence[str] = ("mnist",),
    *,
    preset: "Preset" = "default",
    model: "ModelConfig | None" = None,
    training: "TrainingConfig | None" = None,
    arrays: "ArraysConfig | None" = None,
    promotion: "PromotionPolicy | None" = None,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> "Outcome":
    """Train a model, evaluate it, register it, and promote it if it beats the champion.

    If data, configuration and code are those of an earlier run, nothing is done, and the outcome of that run is
    returned. Finished steps of an interrupted run are reused. Arguments that are None take the values of the preset.

    Args:
        datasets: names or paths of datasets, as for `digits train --dataset`.
        preset: preset that supplies every setting you do not set.
        model: network architecture and sizes.
        training: settings of the fit.
        arrays: settings of the training data.
        promotion: limits that the model must meet to become the champion.
        artifacts: artifact root.
        progress: receiver of the progress.

    Returns:
        The model version, and whether it was promoted.

    Raises:
        UsageError: if a setting or a dataset is invalid.
        DataError: if a dataset is unavailable or unsuitable for training.
        ModelError: if the extra `train` is not installed, the training diverged, or the exported model differs from the
            trained one.
        StoreError: if the disk is full or not writable.
    """
    from digits.pipeline import champion, steps
    from digits.pipeline.config import TrainingRun
    from digits.settings import parse
    from digits.training.backend import require_training

    store = _open_store(artifacts)
    settings = {"model": model, "training": training, "arrays": arrays, "promotion": promotion}
    given = {name: value for name, value in settings.items() if value is not None}
    run = parse(TrainingRun, {"datasets": tuple(datasets), "preset": preset, **given}, source="train()").resolved()
    run = steps.drop_empty_reviewed(store, run)
    if outcome := champion.find_unchanged_run(store, run):
        return outcome
    require_training()
    sources = [
        steps.download_dataset(store, source, normalize=run.arrays.normalize, progress=progress)
        for source in run.datasets
    ]
    prepared = steps.prepare_arrays(store, sources, run.arrays, progress=progress)
    parent = steps.starting_point(store, run.training)
    members = []
    for config in run.members():
        network = steps.build_network(store, prepared, run.model, seed=config.seed, parent=parent, progress=progress)
        members.append(steps.train_network(store, network, prepared, config, progress=progress))
    trained = steps.average_models(store, members, prepared, run.training)
    exported = steps.export_model(store, trained, prepared, progress=progress)
    evaluation = steps.evaluate_model(store, exported, prepared, progress=progress)
    report = steps.report_model(store, evaluation, progress=progress)
    version, new = steps.register_model(store, evaluation, report)
    return champion.promote_model(store, version, prepared, run, new=new)


def evaluate(
    dataset: str, *, model: str = "champion", artifacts: str | Path | None = None, progress: Progress = SILENT
) -> "Evaluation":
    """Return the metrics of a model on the test images of a dataset.

    Args:
        dataset: name or path of the dataset, as for `digits train --dataset`.
        model: `champion`, `challenger` or the number of a model version.
        artifacts: artifact root with the model.
        progress: receiver of the progress.

    Raises:
        UsageError: if there is no such dataset.
        DataError: if the dataset is unavailable.
        ModelError: if the classes of the dataset are not those of the model, or the extra `train` is not installed.
        RegistryError: if there is no such model version.
    """
    from digits.model.onnx_model import Predictor
    from digits.pipeline import steps

    require_extra("sklearn", "an evaluation", error=ModelError)
    store = _open_store(artifacts)
    predictor = Predictor(open_model(store, model))
    mode = predictor.model.resolve_mode("auto")
    data = steps.load_dataset(store.open(steps.download_dataset(store, dataset, normalize=mode, progress=progress)))
    evaluation, _ = steps.measure_model(predictor, data.test_pixels, data.test_labels, class_names=data.class_names)
    return evaluation


def inspect(  # noqa: PLR0913 - the image, the page, and how to predict and draw it
    image: str | Path,
    *,
    model: str = "champion",
    out: str | Path | None = None,
    mode: "Mode" = "auto",
    page: int = 1,
    force: bool = False,
    artifacts: str | Path | None = None,
) -> "tuple[Inspection, Path]":
    """Inspect how one image is predicted, and write a drawing of all steps.

    Args:
        image: path of the image file.
        model: `champion`, `challenger` or the number of a model version.
        out: path of the drawing, a PNG; None for a path under the artifact root.
        mode: normalization of the image, as in `PredictionConfig.normalize`.
        page: number of the page of a file with several, as in the table.
        force: whether `out` may overwrite a file that Digits did not write or that was changed since.
        artifacts: artifact root with the model.

    Returns:
        The inspection, and the path of the drawing.

    Raises:
        UsageError: if the file cannot be read or decoded, or has no such page, or if the drawing would overwrite a file
            of somebody else.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable.
    """
    from digits.review import inspection

    place = Path(out) if out else None
    return inspection.inspect(
        _open_store(artifacts), Path(image), model=model, out=place, mode=mode, page=page, force=force
    )


def list_models(*, artifacts: str | Path | None = None) -> list[ModelVersion]:
    """Return all registered model versions, oldest first."""
    return Registry(_open_store(artifacts)).versions()


def load_model(version: str = "champion", *, artifacts: str | Path | None = None) -> "Predictor":
    """Load a model version into ONNX Runtime.

    Its method `predict` returns the probability of each class: (N, height, width) uint8 -> (N, classes) float32. The
    images must have been normalized, as by `digits.images.normalize.normalize`.

    Args:
        version: `champion`, `challenger` or the number of a model version.
        artifacts: artifact root with the model.

    Raises:
        RegistryError: if there is no such model version.
        StoreError: if its files are missing or damaged.
        ModelError: if ONNX Runtime cannot load the model.
    """
    from digits.model.onnx_model import Predictor

    return Predictor(open_model(_open_store(artifacts), version))


def write_test_images(version: int, folder: str | Path, *, artifacts: str | Path | None = None) -> Path:
    """Write the test images of a model version as `<folder>/<class id>/<index>.png`, and return the folder."""
    import numpy as np
    from PIL import Image

    store, folder = _open_store(artifacts), Path(folder)
    arrays = store.open(Registry(store).version(version).artifact("arrays"))
    pixels, labels = (np.load(arrays.file(f"test_{part}.npy"), allow_pickle=False) for part in ("pixels", "labels"))
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / str(label) / f"{index:05}.png"
        if not path.exists():
            Image.fromarray(image).save(path)
    return folder


def _open_store(artifacts: str | Path | None) -> Store:
    return Store(artifact_root(Path(artifacts) if artifacts else None))

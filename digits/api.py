"""Functions of the public Python API, which `digits` offers by name: `digits.predict`, `digits.train`, ...

All of them work without Prefect, in scripts, threads and notebooks. If `artifacts` is None, they use the artifact root
that the command `digits` would use; see `digits.settings.artifact_root`.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from digits.errors import UsageError
from digits.outputs import frame
from digits.outputs import table as tables
from digits.outputs.skipped import describe_nothing, describe_skipped
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.prediction.service import open_model
from digits.progress import SILENT, Progress
from digits.settings import AnySettings, artifact_root, parse
from digits.sources import source_files
from digits.store.artifacts import Store
from digits.store.records import Record
from digits.store.registry import ModelVersion, Registry

if TYPE_CHECKING:
    import pandas as pd

    from digits.images.formats import Mode
    from digits.model.classifier import Model
    from digits.model.metrics import Evaluation
    from digits.model.onnx_model import OnnxModel
    from digits.pipeline.config import Preset
    from digits.pipeline.versions import ExportFormat
    from digits.review.inspection import Inspection
    from digits.review.session import ImportCounts

    ModelName = str | int | Path | Model

logger = logging.getLogger(__name__)
_LABELS = (
    tables.Column("sha256", "text"),
    tables.PAGE,
    tables.Column("label", "text"),
    tables.Column("prediction", "text"),
    tables.Column("confidence", "number"),
    tables.Column("status", "text"),
    tables.Column("model_version", "integer"),
    tables.Column("selection", "text"),
    tables.Column("by", "text"),
    tables.Column("table", "text"),
    tables.Column("when", "text"),
)
"""Columns of `read_labels`."""
_LABEL_CATEGORIES = re.compile("label|prediction|status|selection|by")
_DRIFT = (
    tables.Column("feature", "text"),
    tables.Column("baseline", "integer"),
    tables.Column("psi", "number"),
    tables.Column("p", "number"),
)
"""Columns of `read_drift`, without `drifted`."""


@overload
def predict(
    source: Any,
    *,
    model: "ModelName" = "champion",
    out: str | Path | None = None,
    max_error: float | None = None,
    top_k: int = 1,
    probabilities: bool = False,
    progress: bool = True,
    as_records: Literal[False] = False,
    artifacts: str | Path | None = None,
    **options: Any,
) -> "pd.DataFrame": ...
@overload
def predict(
    source: Any,
    *,
    model: "ModelName" = "champion",
    out: str | Path | None = None,
    max_error: float | None = None,
    top_k: int = 1,
    probabilities: bool = False,
    progress: bool = True,
    as_records: Literal[True],
    artifacts: str | Path | None = None,
    **options: Any,
) -> list[Record]: ...
def predict(  # noqa: PLR0913 - the source, the model and what people set most often
    source: Any,
    *,
    model: "ModelName" = "champion",
    out: str | Path | None = None,
    max_error: float | None = None,
    top_k: int = 1,
    probabilities: bool = False,
    progress: bool = True,
    as_records: bool = False,
    artifacts: str | Path | None = None,
    **options: Any,
) -> "pd.DataFrame | list[Record]":
    """Predict images, and return a DataFrame with one row per image.

    The rows, columns and statuses are those of the table that `digits predict` writes; `read_table` describes their
    types. The prediction runs in worker processes. If it is interrupted, the same call resumes it.

    Example:
        >>> df = digits.predict("scans", max_error=0.003)
        >>> df[df.status != "ok"][["path", "prediction", "confidence", "status"]]
        >>> df.attrs["summary"]["statuses"]
        {'ok': 95, 'uncertain': 3, 'not-an-image': 2}

    Args:
        source: folder, archive or image file; a list of paths; or images in memory: a Pillow image, an array of shape
            (H, W) or (H, W, 3 or 4), an array of N of these, or a list of images. Values of any type are read as in
            image files; 0 is black.
        model: `champion`, `challenger`, the number of a model version, the path of a folder with an exported model, or
            a loaded model.
        out: table to write: .csv, .parquet or .jsonl. None for a path under the artifact root, or for images in memory
            for none.
        max_error: flag predictions as `uncertain` so that at most this share of the others is wrong, estimated on the
            model's validation images; 0.003 is 3 in 1,000. None to flag none.
        top_k: number of most likely classes in the table, with their probabilities.
        probabilities: whether to add one column per class with its probability.
        progress: whether to show the progress on standard error.
        as_records: whether to return a list of dictionaries, which needs no pandas; an empty value is None.
        artifacts: artifact root with the model.
        **options: further settings, which are those of `digits.PredictionConfig` and of the options of `digits
            predict`: `recursive`, `include`, `exclude`, `incremental`, `force`, `processes`, ...

    Returns:
        One row per image or page: those of a folder in the order of their paths, those of a list or of images in memory
        in their order. `path` is relative to the folder, to the common folder of the list, or the number of the image.
        `attrs["summary"]` holds the summary.

    Raises:
        UsageError: if the source cannot be read, an option is unknown or invalid, pandas is not installed, or without
            `force` a file that Digits did not write or that was changed would be overwritten.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable.
    """
    if not as_records:
        frame.require_pandas()
    named = {"max_error": max_error, "top_k": top_k, "probabilities": probabilities}
    settings = _options("predict()", PredictionConfig, options, named)
    store = _open_store(artifacts)
    with source_files(source) as files:
        summary = service.predict_folder(
            store,
            files.place,
            out=Path(out) if out else files.table(store),
            model=_open_model(store, model),
            options=settings.model_copy(update=files.options),
            progress=_progress(shown=progress),
        )
        if files.order or not summary.images:
            _warn_of_skipped(summary.skipped, rows=summary.images)
        return files.sort(tables.read_table(summary.out)) if as_records else files.sort_frame(summary.out)


def _warn_of_skipped(skipped: Mapping[str, int], *, rows: int) -> None:
    if reasons := describe_skipped(skipped) if rows else describe_nothing(skipped):
        logger.warning(reasons)


def _progress(*, shown: bool) -> Progress:
    if not shown:
        return SILENT
    from digits.terminal import TerminalProgress

    return TerminalProgress()


def _options(
    function: str, kind: type[AnySettings], options: Mapping[str, Any], named: Mapping[str, Any]
) -> AnySettings:
    """Return settings from keyword arguments.

    Args:
        function: name of the function for messages.
        kind: class of the settings.
        options: further keyword arguments, whose names may be wrong.
        named: arguments of the function by the name of their setting.
    """
    known = sorted(kind.model_fields.keys() | named.keys())
    if unknown := next((name for name in options if name not in known), None):
        raise UsageError(f"{function}: found the option {unknown}, expected one of {', '.join(known)}")
    return parse(kind, {**options, **named}, source=function)


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
    return list(tables.read_table(path)) if as_records else frame.read_frame(path)


def train(
    dataset: str | Path | Sequence[str | Path] = "mnist",
    *,
    preset: "Preset" = "default",
    progress: bool = True,
    artifacts: str | Path | None = None,
    **settings: Any,
) -> ModelVersion:
    """Train a model, evaluate it, register it, and promote it if it beats the champion.

    If data, configuration and code are those of an earlier run, nothing is done, and the version of that run is
    returned. Finished steps of an interrupted run are reused.

    Example:
        >>> version = digits.train(["mnist", "reviewed"], epochs=5)
        >>> version.number, version.facts.accuracy
        (2, 0.9968)

    Args:
        dataset: name or path of a dataset, or several, as for `digits train --dataset`: `mnist`, `mnist-sample`,
            `fashion-mnist`, `reviewed`, an .npz file, or a folder of labelled images.
        preset: preset that supplies every setting you do not set: `default`, `quick` or `best`.
        progress: whether to show the progress and the decision on standard error.
        artifacts: artifact root.
        **settings: settings by name, which are those of `digits.ModelConfig`, `TrainingConfig`, `ArraysConfig` and
            `PromotionPolicy`: `epochs`, `architecture`, `normalize`, `min_accuracy`, ... One of these classes can be
            given as a whole, as `model`, `training`, `arrays` or `promotion`.

    Returns:
        The model version. `digits.load_model(version.number)` loads it; the champion is loaded without a number.

    Raises:
        UsageError: if a setting or a dataset is invalid.
        DataError: if a dataset is unavailable or unsuitable for training.
        ModelError: if the extra `train` is not installed, the training diverged, or the exported model differs from the
            trained one.
        StoreError: if the disk is full or not writable.
    """
    from digits.pipeline import training
    from digits.pipeline.config import TrainingRun, group_settings

    datasets = [dataset] if isinstance(dataset, str | Path) else dataset
    groups = group_settings("train()", settings)
    values = {"datasets": tuple(str(name) for name in datasets), "preset": preset, **groups}
    run, store = parse(TrainingRun, values, source="train()"), _open_store(artifacts)
    outcome = training.train(store, run, progress=_progress(shown=progress))
    for warning in outcome.warnings:
        logger.warning(warning)
    if progress:
        from digits.terminal import print_notice

        print_notice(f"model version {outcome.version}: {' '.join(outcome.reasons)}")
    return Registry(store).version(outcome.version)


def evaluate(
    model: "ModelName", dataset: str | Path, *, progress: bool = True, artifacts: str | Path | None = None
) -> "Evaluation":
    """Evaluate a model on labelled images. A notebook shows the result as a table.

    Example:
        >>> evaluation = digits.evaluate("champion", "my-digits")
        >>> evaluation.accuracy, evaluation.mistakes[0]
        >>> evaluation.to_frame()             # one row per class: precision, recall, f1, support

    Args:
        model: model, as in `digits.predict`.
        dataset: a folder of labelled images (`<folder>/<class>/*.png`), all of which are used, each once; an .npz file
            with `x_test` and `y_test`; or the name of a dataset as for `digits train --dataset`, of which the test
            images are used.
        progress: whether to show the progress on standard error.
        artifacts: artifact root with the model.

    Raises:
        UsageError: if there is no such dataset.
        DataError: if the dataset is unavailable or invalid.
        ModelError: if the dataset has classes that the model does not have, or the extra `train` is not installed.
        RegistryError: if there is no such model version.
    """
    from digits.pipeline import versions

    store = _open_store(artifacts)
    return versions.evaluate(store, _open_model(store, model), str(dataset), progress=_progress(shown=progress))


def export_model(
    model: str | int,
    path: str | Path,
    format: "ExportFormat" = "onnx",  # noqa: A002 - the word that other libraries use
    *,
    force: bool = False,
    artifacts: str | Path | None = None,
) -> Path:
    """Write a model version into a folder, for other programs, or for `digits.load_model(path)` elsewhere.

    Example:
        >>> digits.export_model("champion", "my-model")
        PosixPath('my-model')

    Args:
        model: `champion`, `challenger` or the number of a version.
        path: folder to write to, which is created when needed.
        format: `onnx` for `model.onnx`, whose input is (N, height, width, 1) float32 in 0..255 and whose output is
            (N, classes) float32; or `keras` for `model.keras`. `spec.json` beside it has the names of the classes, the
            normalization of the images, and the temperature that calibrates the probabilities.
        force: whether to overwrite files that Digits did not write or that were changed since.
        artifacts: artifact root with the model.

    Returns:
        The folder.

    Raises:
        UsageError: if the format is unknown, or a file of somebody else would be overwritten.
        RegistryError: if there is no such version.
        StoreError: if its files are missing or damaged, or the folder cannot be written.
    """
    from digits.pipeline import versions

    if format not in get_args(versions.ExportFormat):
        raise UsageError(
            f"export_model(): found the format {format!r}, expected one of {', '.join(get_args(versions.ExportFormat))}"
        )
    return versions.export_model(_open_store(artifacts), str(model), Path(path), form=format, force=force)


def inspect(  # noqa: PLR0913 - the image, the page, and how to predict and draw it
    image: Any,
    *,
    model: "ModelName" = "champion",
    out: str | Path | None = None,
    normalize: "Mode" = "auto",
    page: int = 1,
    force: bool = False,
    artifacts: str | Path | None = None,
) -> "Inspection":
    """Inspect how one image is predicted. A notebook shows the result as a picture of all steps.

    Example:
        >>> inspection = digits.inspect("scan.png")
        >>> inspection.best, inspection.status
        (Bar(name='7', share=0.998877), 'ok')
        >>> inspection.findings
        ('The ink is dark on light paper, in a box of 15 x 20 pixels (orange).',)

    Args:
        image: path of the image file, a Pillow image, or an array of shape (H, W) or (H, W, 3 or 4).
        model: model, as in `digits.predict`.
        out: path of the picture, a PNG; None to write none.
        normalize: normalization of the image, as in `digits.PredictionConfig`.
        page: number of the page of a file with several, as in the table.
        force: whether `out` may overwrite a file that Digits did not write or that was changed since.
        artifacts: artifact root with the model.

    Raises:
        UsageError: if the image cannot be read or decoded, or has no such page, or if the picture would overwrite a
            file of somebody else.
        RegistryError: if there is no such model version.
        StoreError: if the disk is full or not writable.
    """
    from digits.review import inspection

    store = _open_store(artifacts)
    found = inspection.inspect(store, image, model=_open_model(store, model), mode=normalize, page=page)
    if out is not None:
        inspection.save_drawing(store, found, Path(out), force=force)
    return found


def read_labels(*, artifacts: str | Path | None = None) -> "pd.DataFrame":
    """Return the labels that reviewers gave, one row per image, oldest first.

    Example:
        >>> labels = digits.read_labels()
        >>> labels[labels.label != labels.prediction.astype(str)]

    Returns:
        DataFrame with `sha256` (string), `page` (Int64), `label`, `prediction`, `status`, `selection` and `by`
        (category), `confidence` (float64), `model_version` (Int64), `table` (string, the SHA-256 of the table), and
        `when` (datetime64, UTC). The label is a digit, `not-a-digit` or `skip`.

    Raises:
        UsageError: if pandas is not installed.
        StoreError: if the label log cannot be read or is damaged.
    """
    from digits.data.labels import LabelLog, file_and_page

    frame.require_pandas()
    import pandas as pd

    answers = LabelLog(_open_store(artifacts).labels).answers()
    places = [file_and_page(answer.sha256) for answer in answers]
    rows = ({**vars(one), "sha256": sha256, "page": page} for one, (sha256, page) in zip(answers, places, strict=True))
    names = [column.name for column in _LABELS]
    found = frame.frame_of(
        ({name: row[name] for name in names} for row in rows), _LABELS, name="labels", categories=_LABEL_CATEGORIES
    )
    return found.assign(when=pd.to_datetime(found["when"], utc=True))


def add_labels(
    labels: "pd.DataFrame | Sequence[Mapping[str, Any]]",
    *,
    table: str | Path | None = None,
    images: str | Path | None = None,
    artifacts: str | Path | None = None,
) -> "ImportCounts":
    """Save labels of images of a table, as `digits review --import` does. A training with `reviewed` learns from them.

    Example:
        >>> df = digits.predict("scans")
        >>> df.loc[df.path == "a.png", "label"] = "7"
        >>> digits.add_labels(df)
        ImportCounts(new=1, known=0)

    Args:
        labels: rows of a table with a further column `label`, as a DataFrame or as dictionaries. A label is a digit,
            `not-a-digit` or `skip`; rows without a label are ignored. The image is found by `sha256` and `page`.
        table: table that the rows are from; None for the one in `attrs` of the DataFrame.
        images: folder or archive of the images; None for the one in the summary beside the table.
        artifacts: artifact root with the labels.

    Returns:
        The number of new labels, and of those that were known.

    Raises:
        UsageError: if a label is invalid, or an image is missing, changed, or not in the table; then none is saved. The
            message has the numbers of the rows, counted from 0.
        StoreError: if the labels cannot be written.
    """
    from digits.review.session import Review

    summary = getattr(labels, "attrs", {}).get(frame.SUMMARY, {})
    place = table or summary.get("out")
    if place is None:
        raise UsageError("add_labels(): the rows do not say which table they are from; name it with table=")
    rows = labels if isinstance(labels, Sequence) else _records_of(labels)
    if not any("label" in row for row in rows):
        raise UsageError("add_labels(): found no column `label`; add one with the right digit of some rows")
    source = Path(images) if images else None
    with Review(_open_store(artifacts), Path(place), source=source, every=True) as review:
        return review.add_labels(rows)


def _records_of(labels: "pd.DataFrame") -> list[Record]:
    filled = labels.astype(object).where(labels.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in filled.to_dict("records")]


def read_drift(path: str | Path) -> "pd.DataFrame":
    """Return how the images of the last run into a table differ from its baseline, one row per feature.

    Example:
        >>> drift = digits.read_drift("scans.csv")
        >>> drift[drift.drifted]
        >>> drift.attrs["alarm"]
        False

    Args:
        path: table that `digits.predict` wrote.

    Returns:
        DataFrame with `feature` (string), `baseline` (Int64, images in the baseline), `psi` and `p` (float64, missing
        if the feature was not compared), and `drifted` (bool). `attrs` has `alarm`, and the sentences of `digits drift
        show`: `baseline`, `last run` and `state`.

    Raises:
        UsageError: if no images of the table were measured, or pandas is not installed.
    """
    from digits.prediction.baselines import drift_state

    frame.require_pandas()
    state = drift_state(Path(path))
    rows = ({column.name: getattr(one, column.name) for column in _DRIFT} for one in state.features)
    found = frame.frame_of(rows, _DRIFT, name=str(path))
    found["drifted"] = [one.drifted for one in state.features]
    found.attrs.update(alarm=state.alarm, **state.facts())
    return found


def list_models(*, artifacts: str | Path | None = None) -> list[ModelVersion]:
    """Return all registered model versions, oldest first.

    Example:
        >>> [(version.number, version.facts.accuracy) for version in digits.list_models()]
        [(1, 0.9964)]
    """
    return Registry(_open_store(artifacts)).versions()


def load_model(
    model: "ModelName" = "champion", *, max_error: float | None = None, artifacts: str | Path | None = None
) -> "Model":
    """Load a model, to predict images in this process.

    Example:
        >>> model = digits.load_model()
        >>> model("scan.png")
        [{'label': '7', 'score': 0.998877, 'status': 'ok'}]
        >>> model.predict(x_test)             # (N, 28, 28) uint8 -> (N,) str
        >>> model.predict_proba(x_test)       # (N, 28, 28) uint8 -> (N, classes) float32
        >>> model.score(x_test, y_test)

    Args:
        model: `champion`, `challenger`, the number of a model version, or the path of a folder with an exported model.
        max_error: target error rate, as in `digits.predict`; calls less confident predictions `uncertain`.
        artifacts: artifact root with the model.

    Raises:
        RegistryError: if there is no such model version.
        StoreError: if its files are missing or damaged.
        ModelError: if ONNX Runtime cannot load the model.
        UsageError: if the model's validation images cannot support `max_error`.
    """
    from digits.model.classifier import Model

    return Model(_open_model(_open_store(artifacts), model), max_error=max_error)


def _open_model(store: Store, model: "ModelName") -> "OnnxModel":
    """Return the exported model that an argument `model` stands for."""
    from digits.model.classifier import Model

    if isinstance(model, Model):
        return model.exported
    return open_model(store, str(model) if isinstance(model, int) else model)


def _open_store(artifacts: str | Path | None) -> Store:
    return Store(artifact_root(Path(artifacts) if artifacts else None))

"""Functions of the public Python API, which `digits` offers by name: `digits.predict`, `digits.train`, ...

All of them work without Prefect, in scripts, threads and notebooks. If `artifacts` is None, they use the artifact root
that the command `digits` would use; see `digits.settings.artifact_root`.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from digits.errors import ModelError, UsageError
from digits.extras import require_extra
from digits.images.folder import escape_path
from digits.model.inputs import each_image, is_path, read_image
from digits.outputs import frame, table
from digits.outputs.skipped import describe_nothing, describe_skipped
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.prediction.service import open_model
from digits.progress import SILENT, Progress
from digits.settings import AnySettings, artifact_root, parse
from digits.store.artifacts import Store
from digits.store.records import Record, digest_of
from digits.store.registry import ModelVersion, Registry

if TYPE_CHECKING:
    import pandas as pd

    from digits.data.config import ArraysConfig
    from digits.images.formats import Mode
    from digits.model.classifier import Model
    from digits.model.metrics import Evaluation
    from digits.model.onnx_model import OnnxModel
    from digits.pipeline.champion import Outcome
    from digits.pipeline.config import Preset, PromotionPolicy
    from digits.review.inspection import Inspection
    from digits.training.config import ModelConfig, TrainingConfig

    ModelName = str | int | Path | Model

logger = logging.getLogger(__name__)


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
    with _as_files(source) as files:
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
        return files.sort(table.read_table(summary.out)) if as_records else files.sort_frame(summary.out)


@dataclass(frozen=True)
class _Files:
    """Source of a prediction as files.

    Args:
        place: folder, archive or single image.
        out: default path of the table; None for the one of the command.
        options: settings that select the files.
        order: place of each path in the result; empty for the order of the table.
    """

    place: Path
    out: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)

    def table(self, store: Store) -> Path | None:
        return self.out or (service.default_table(store, self.place / _digest(self.order)) if self.order else None)

    def sort(self, rows: Iterator[Record]) -> list[Record]:
        return sorted(rows, key=lambda row: self.order.get(row["path"], 0))

    def sort_frame(self, out: Path) -> "pd.DataFrame":
        rows = frame.read_frame(out)
        if not self.order:
            return rows
        return rows.iloc[rows["path"].map(self.order).argsort(kind="stable")].reset_index(drop=True)


def _digest(order: Mapping[str, int]) -> str:
    """Return the name of a list of files: tables of several lists in one folder must not replace each other."""
    return f"{len(order)}-files-{digest_of(sorted(order))[:12]}"


@contextmanager
def _as_files(source: Any) -> Iterator[_Files]:
    if is_path(source):
        yield _Files(Path(source).expanduser())
        return
    images = list(each_image(source))
    if not images:
        raise UsageError("predict(): found no image in the source; give a folder, paths or images")
    with tempfile.TemporaryDirectory(prefix="digits-") as name:
        yield (_list_paths if is_path(images[0]) else _write_images)(images, Path(name))


def _list_paths(paths: Sequence[Any], place: Path) -> _Files:
    if not all(map(is_path, paths)):
        raise UsageError("predict(): found paths and images in one list; predict them separately")
    names = [os.fsencode(os.path.abspath(Path(path).expanduser())) for path in paths]  # noqa: PTH100 - links stay
    folder = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - bytes
    listed = place / "files"
    listed.write_bytes(b"\0".join([*names, b""]))
    order: dict[str, int] = {}
    for number, name in enumerate(names):
        order.setdefault(escape_path(os.path.relpath(name, folder)), number)
    return _Files(Path(os.fsdecode(folder)), None, {"files_from": listed, "all_files": True}, order)


def _write_images(images: Sequence[Any], place: Path) -> _Files:
    folder, digits = place / "images", len(str(len(images) - 1))
    folder.mkdir()
    for number, image in enumerate(images):
        content, extension = read_image(image)
        (folder / f"{number:0{digits}}{extension}").write_bytes(content)
    return _Files(folder, place / "predictions.csv")


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
    from digits.pipeline import training as pipeline
    from digits.pipeline.config import TrainingRun

    settings = {"model": model, "training": training, "arrays": arrays, "promotion": promotion}
    given = {name: value for name, value in settings.items() if value is not None}
    run = parse(TrainingRun, {"datasets": tuple(datasets), "preset": preset, **given}, source="train()")
    return pipeline.train(_open_store(artifacts), run, progress=progress)


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

"""Versions: evaluation of a model on any labelled images, and export of its files for other programs."""

from pathlib import Path
from typing import Literal

import numpy as np

from digits.data import datasets
from digits.data.arrays import LabelledArrays
from digits.data.labels import LabelLog
from digits.errors import ModelError, RegistryError, StoreError, os_errors_as
from digits.extras import require_extra
from digits.images.types import Labels, Pixels
from digits.model.metrics import Evaluation
from digits.model.onnx_model import ONNX_FILE, SPEC_FILE, OnnxModel, Predictor
from digits.pipeline import steps
from digits.progress import SILENT, Progress
from digits.store.artifacts import Store
from digits.store.registry import Registry
from digits.store.written import require_own_file, write_own_file

ExportFormat = Literal["onnx", "keras"]
KERAS_FILE = "model.keras"


def evaluate(store: Store, exported: OnnxModel, dataset: str, *, progress: Progress = SILENT) -> Evaluation:
    """Return the metrics of a model on labelled images.

    They are the test images of a published dataset or of a file, and all images of a folder that you labelled yourself.

    Args:
        store: artifact store, which has the downloads and the labels of reviews.
        exported: model to evaluate.
        dataset: name or path of the dataset, as for `digits train --dataset`.
        progress: receiver of the progress.

    Raises:
        UsageError: if there is no such dataset.
        DataError: if the dataset is unavailable or invalid.
        ModelError: if the dataset has classes that the model does not have, or the extra `train` is not installed.
    """
    require_extra("sklearn", "an evaluation", error=ModelError)
    predictor = Predictor(exported)
    reviewed = LabelLog(store.labels).snapshot() if dataset == datasets.REVIEWED else None
    mode = exported.resolve_mode("auto")
    data = datasets.load(dataset, downloads=store.downloads, normalize=mode, progress=progress, reviewed=reviewed)
    pixels, labels = _images_of(data)
    ids = np.array([exported.class_names.index(name) for name in _known_classes(exported, data)], np.uint8)
    evaluation, _ = steps.measure_model(predictor, pixels, ids[labels], class_names=exported.class_names)
    return evaluation


def _images_of(data: LabelledArrays) -> tuple[Pixels, Labels]:
    if not data.is_own:
        return data.test_pixels, data.test_labels
    return (
        np.concatenate([data.train_pixels, data.test_pixels]),
        np.concatenate([data.train_labels, data.test_labels]),
    )


def _known_classes(exported: OnnxModel, data: LabelledArrays) -> tuple[str, ...]:
    """Return the classes of a dataset, each of which the model must have."""
    unknown = [name for name in data.class_names if name not in exported.class_names]
    if unknown:
        raise ModelError(
            f"the model has the classes {', '.join(exported.class_names)}, but the dataset has also "
            f"{', '.join(unknown)}; evaluate it on images of its classes"
        )
    return data.class_names


def export_model(store: Store, name: str, folder: Path, *, form: ExportFormat = "onnx", force: bool = False) -> Path:
    """Write the files of a model version into a folder, and return the folder.

    Args:
        store: artifact store.
        name: `champion`, `challenger` or the number of a version.
        folder: folder to write to, which is created when needed.
        form: `onnx` for `model.onnx`, or `keras` for `model.keras`; `spec.json` is written beside either.
        force: whether to overwrite files that Digits did not write or that were changed since.

    Raises:
        UsageError: if a file of somebody else would be overwritten.
        RegistryError: if there is no such version, or it has no Keras model.
        StoreError: if its files are missing or damaged, or the folder cannot be written.
    """
    version = Registry(store).resolve(name)
    exported = store.open(version.artifact("onnx"))
    if form == "keras" and "model" not in version.artifacts:
        raise RegistryError(f"version {version.number} has no Keras model; export it as onnx")
    file = exported.file(ONNX_FILE) if form == "onnx" else store.open(version.artifact("model")).file(KERAS_FILE)
    files = {folder / file.name: file, folder / SPEC_FILE: exported.file(SPEC_FILE)}
    with os_errors_as(StoreError, folder, "the model could not be written", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for place in () if force else files:
            require_own_file(store, place)
        for place, source in files.items():
            write_own_file(store, place, source.read_bytes(), force=force)
    return folder

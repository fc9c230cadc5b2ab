"""Prediction with a registered model: the registry and the artifact store on one side, the engine on the other."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from digits import predictions
from digits.config import Mode, PredictionConfig
from digits.errors import StoreError, UsageError
from digits.filelists import STANDARD_INPUT
from digits.files import os_errors_as, write_file
from digits.images import DecodeError
from digits.inference import ModelFiles, Predictor
from digits.inspection import Inspection, draw_inspection, inspect_image
from digits.plans import Plan
from digits.progress import SILENT, Progress
from digits.records import digest_of
from digits.registry import Registry
from digits.shadowing import shadow_path, write_differences
from digits.store import Store
from digits.summaries import PredictionSummary
from digits.tables import TableFile


def open_model(store: Store, name: str) -> ModelFiles:
    """Find the model that `champion` or a version's number stands for, verified.

    Raises:
        RegistryError: there is no such version, or no champion.
        StoreError: its files are missing or damaged.
    """
    version = Registry(store).resolve(name)
    return ModelFiles.load(store.open(version.artifact("onnx")).path, version=version.number)


def assemble_crew(store: Store, source: Path, *, model: str, processes: int | None) -> predictions.Crew:
    """Start the workers that a folder will want: they load the model while it is listed; dismiss them afterwards.

    Raises:
        RegistryError: there is no such model.
        StoreError: its files are missing or damaged, or no process can be started.
    """
    crew = predictions.Crew(processes)
    crew.prepare(source, open_model(store, model))
    return crew


def default_table(store: Store, source: Path) -> Path:
    """Say where the table of a folder goes when nobody said: the same place for the same folder."""
    source = source.absolute()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.") or "images"
    return store.predictions / f"{name[:60]}-{digest_of(ascii(str(source)))[:8]}" / "predictions.csv"


@contextmanager
def inbox_turn(store: Store, folder: Path) -> Iterator[bool]:
    """Be the only run at an inbox while the context lasts, and tell whether that is so; make the folder if it is not.

    Raises:
        UsageError: the folder is not there and can't be made.
    """
    with os_errors_as(UsageError, folder, "could not be made", "the inbox must be a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with store.lock_if_free(f"inbox-{digest_of(ascii(str(folder.absolute())))[:32]}") as free:
        yield free


def plan(store: Store, source: Path, *, model: str, out: Path | None, options: PredictionConfig) -> Plan:
    """List a folder and plan its prediction; see `digits.predictions.plan_predictions`."""
    return predictions.plan_predictions(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
    )


def predict(  # noqa: PLR0913 - what, with what, how, where to
    store: Store,
    source: Path,
    *,
    model: str = "champion",
    out: Path | None = None,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict every image of a folder into a table; see `digits.predictions.predict_folder`.

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
    return predictions.predict_folder(
        source,
        model=open_model(store, model),
        options=options,
        out=out or default_table(store, source),
        work=store.workspace(store.plans),
        progress=progress,
    )


def shadow_plan(store: Store, source: Path, *, shadow: str, out: Path, options: PredictionConfig) -> Plan:
    """Plan the prediction of a folder with another version, into a table of its own that nobody keeps.

    Args:
        store: where models are.
        source: the folder.
        shadow: a version's number, or `challenger`.
        out: the champion's table.
        options: how the champion predicts.

    Raises:
        UsageError: the list of files was read from the standard input, which can't be read twice.
        RegistryError: there is no such version.
    """
    if options.files_from == STANDARD_INPUT:
        raise UsageError("files_from: to predict with two versions, give the list of files as a file")
    alone = {"incremental": False, "verify": False, "replace_version": None}
    table = store.temporary / f"shadow-{digest_of(ascii(str(out.absolute())))[:32]}" / "predictions.jsonl"
    return plan(store, source, model=shadow, out=table, options=options.model_copy(update=alone))


def finish_shadow(summary: PredictionSummary, other: PredictionSummary) -> PredictionSummary:
    """Write where the tables of two versions differ, beside the first one; drop the second; give the first's summary.

    Raises:
        StoreError: the disk is full, or can't be written to.
    """
    place = shadow_path(summary.out)
    with os_errors_as(StoreError, place, "the differences could not be written", "run again"):
        differing = write_differences(TableFile.open(summary.out), TableFile.open(other.out), place)
    shutil.rmtree(other.out.parent, ignore_errors=True)
    return replace(summary, shadow={"version": other.model_version, "differing": differing, "table": str(place)})


def predict_shadow(  # noqa: PLR0913 - what, with what, how
    store: Store,
    source: Path,
    summary: PredictionSummary,
    *,
    shadow: str,
    options: PredictionConfig,
    progress: Progress = SILENT,
) -> PredictionSummary:
    """Predict a folder with another version too, and write where it differs; see `shadow_plan` and `finish_shadow`."""
    with predictions.Crew(options.processes) as crew:
        planned = shadow_plan(store, source, shadow=shadow, out=summary.out, options=options)
        predictions.run_workers(planned, crew, progress=progress)
        return finish_shadow(summary, predictions.finish(planned, crew))


def inspect(
    store: Store, image: Path, *, model: str = "champion", out: Path | None = None, mode: Mode = "auto"
) -> tuple[Inspection, Path]:
    """Look at how one image is predicted, and draw it.

    Args:
        store: where models are.
        image: a file.
        model: `champion` or a version's number.
        out: the picture; None: below the store, where no prediction of a folder comes across it.
        mode: as in `PredictionConfig.normalize`.

    Returns:
        What was found, and where the picture is.

    Raises:
        UsageError: the file can't be read, or gives no picture.
        RegistryError: there is no such model.
        StoreError: the disk is full, or can't be written to.
    """
    predictor = Predictor(open_model(store, model))
    with os_errors_as(UsageError, image, "could not be read", "expected an image file"):
        content = image.read_bytes()
    try:
        inspection = inspect_image(content, predictor, predictor.model.mode_for(mode))
    except DecodeError as error:
        raise UsageError(f"{image}: {error.status}: {error}") from error
    place = out or store.inspections / f"{image.name}.png"
    with os_errors_as(StoreError, place, "the picture could not be written", "choose another path with --out"):
        write_file(place, draw_inspection(inspection))
    return inspection, place


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

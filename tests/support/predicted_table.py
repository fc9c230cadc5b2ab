"""Table to review: images that a tiny model has predicted and flagged."""

import shutil
from pathlib import Path
from typing import NamedTuple

from digits.model.onnx_model import OnnxModel
from digits.prediction import publish
from digits.prediction.config import PredictionConfig
from digits.store.artifacts import Store
from tests.support.tiny_model import MakePictures, add_novelty_output, write_model

IMAGES = 60
OPTIONS = PredictionConfig(max_error=0.05)


class Table(NamedTuple):
    """A predicted folder, its table and its artifact root."""

    store: Store
    path: Path
    images: Path


def predict(
    place: Path,
    make_pictures: MakePictures,
    *,
    name: str = "table.csv",
    version: int = 1,
    options: PredictionConfig = OPTIONS,
) -> Table:
    """Predict a folder of images, some of which are uncertain and some rejected."""
    images = make_pictures(place / "scans", IMAGES)
    directory = place / "model"
    if not directory.exists():
        add_novelty_output(write_model(directory), above=2.43, temperature=1.0, steps=[[0.36, 100, 1, 0.04]])
    model = OnnxModel.load(directory, version=version)
    out = place / name
    publish.predict_folder(images, model=model, options=options, out=out, work=place / "work")
    return Table(Store(place / "artifacts"), out, images)


def pack_images(table: Table) -> Table:
    """Return the table with its images in a ZIP archive."""
    archive = shutil.make_archive(str(table.images), "zip", table.images)
    return table._replace(images=Path(archive))

"""What became of a folder of pictures: the summary that stands beside its table."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from digits.model.drift import WORDS, Drift
from digits.outputs.drawing import Cell, contact_sheet, heat_map
from digits.store.records import Record

PICTURE_COLUMNS = 5


@dataclass(frozen=True)
class Failure:
    """An image without a prediction."""

    path: str
    status: str
    error: str


@dataclass(frozen=True, eq=False)
class LeastCertain:
    """An image whose prediction is among the least certain.

    Args:
        path: as in the table.
        prediction: the class's name.
        confidence: its probability.
        pixels: what the network saw, (height, width) uint8; None when the summary was read from a file.
    """

    path: str
    prediction: str
    confidence: float
    pixels: npt.NDArray[np.uint8] | None = None

    @classmethod
    def from_seal(cls, record: Record) -> Self:
        """Read what a worker wrote into its seal."""
        pixels = np.frombuffer(base64.b64decode(record["pixels"]), np.uint8).reshape(record["shape"])
        return cls(record["path"], record["prediction"], record["confidence"], pixels)

    def as_record(self) -> Record:
        """Give it as JSON values, without the pixels."""
        return {"path": self.path, "prediction": self.prediction, "confidence": self.confidence}

    def as_seal(self) -> Record:
        """Give it as a worker writes it into its seal; the pixels must be known."""
        pixels = np.asarray(self.pixels)
        encoded = base64.b64encode(pixels.tobytes()).decode("ascii")
        return {**self.as_record(), "shape": list(pixels.shape), "pixels": encoded}


@dataclass(frozen=True, eq=False)
class PredictionSummary:
    """What became of a folder.

    Args:
        source: the folder, or the single image.
        out: the table.
        model_version: the registry's number.
        model_digest: of the exported model.
        images: rows of the table.
        reused: those that an earlier, interrupted run had done.
        seconds: from the beginning of this run's first shard to the table being in place.
        images_per_second: of those that this run did.
        predictions: rows by predicted class.
        statuses: rows by status.
        skipped: what the folder holds besides, by reason.
        more_frames: images of which only the first frame or page was looked at, in this run.
        failures: the first images without a prediction; `statuses` has the number of all.
        least_certain: the predictions with the lowest confidence, the lowest first.
        unchanged: rows that were taken over from the table as it was before.
        shadow: of a run that predicts with another version too: its `version`, how many rows are `differing`, and the
            `table` of those.
        drift: the images that were predicted, beside the model's test images; None where that can't be told.
        trend: the drift of the last runs into the same table, this one's last: `at`, `model_version`, `images`, and the
            stability index of each number.
    """

    source: Path
    out: Path
    model_version: int
    model_digest: str
    images: int
    reused: int
    seconds: float
    images_per_second: float
    predictions: Mapping[str, int]
    statuses: Mapping[str, int]
    skipped: Mapping[str, int]
    more_frames: int
    failures: tuple[Failure, ...]
    least_certain: tuple[LeastCertain, ...]
    unchanged: int = 0
    shadow: Mapping[str, Any] | None = None
    drift: Drift | None = None
    trend: tuple[Record, ...] = ()

    def as_record(self) -> Record:
        """Give the summary as JSON values."""
        return {
            **vars(self),
            "source": str(self.source),
            "out": str(self.out),
            "failures": [vars(failure) for failure in self.failures],
            "least_certain": [image.as_record() for image in self.least_certain],
            "drift": self.drift and self.drift.as_record(),
            "trend": list(self.trend),
        }

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Read a summary back."""
        fields: dict[str, Any] = {
            **{name: record[name] for name in cls.__dataclass_fields__ if name in record},
            "source": Path(record["source"]),
            "out": Path(record["out"]),
            "failures": tuple(Failure(**failure) for failure in record["failures"]),
            "least_certain": tuple(LeastCertain(**image) for image in record["least_certain"]),
            "drift": record["drift"] and Drift.from_record(record["drift"]),
            "trend": tuple(record["trend"]),
        }
        return cls(**fields)


def draw_least_certain(summary: PredictionSummary) -> bytes | None:
    """Draw the least certain images of a run as a PNG; None where there are none, or their pixels are not known."""
    seen = [(image, image.pixels) for image in summary.least_certain if image.pixels is not None]
    if not seen:
        return None
    captions = [f"{image.prediction} {image.confidence:.0%}\n{image.path}" for image, _ in seen]
    return contact_sheet([pixels for _, pixels in seen], captions, columns=PICTURE_COLUMNS)


def draw_trend(summary: PredictionSummary) -> bytes | None:
    """Draw the drift of the last runs into a table as a PNG: a row a number, a column a run; None where there is none.

    Returns:
        A PNG, the latest run at the right; red is what a run was told of.
    """
    if not summary.trend:
        return None
    names = list(summary.trend[-1]["psi"])
    cells = [[Cell(run["psi"].get(name), name in run["drifted"]) for run in summary.trend] for name in names]
    return heat_map([WORDS[name] for name in names], [run["at"][5:16] for run in summary.trend], cells)


def summary_path(out: Path) -> Path:
    """Say where a table's summary is."""
    return out.with_name(f"{out.stem}.summary.json")


def picture_path(out: Path) -> Path:
    """Say where the picture of a table's least certain images belongs; a listing leaves it out."""
    return out.with_name(f"{out.stem}.least-certain.png")


def read_picture(summary: PredictionSummary) -> bytes | None:
    """Read the picture beside a run's table; None where there is none, or it was taken away."""
    try:
        return picture_path(summary.out).read_bytes()
    except FileNotFoundError:
        return None

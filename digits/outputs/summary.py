"""Summary: counts, failures and drift of a prediction run, stored next to its table."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from digits.model.drift import FEATURE_NAMES, Drift
from digits.outputs.drawing import Cell, contact_sheet, heat_map
from digits.status import PREDICTED
from digits.store.records import Record
from digits.wording import count

PICTURE_COLUMNS = 5


@dataclass(frozen=True)
class Failure:
    """Image or page without a prediction."""

    path: str
    status: str
    error: str
    page: int | None = None

    @property
    def name(self) -> str:
        """Path, and the page if the file has several."""
        return name_page(self.path, self.page)


@dataclass(frozen=True, eq=False)
class LeastCertain:
    """Image whose prediction is among the least certain of a run.

    Args:
        path: path as in the table.
        prediction: name of the predicted class.
        confidence: probability of the predicted class, in 0..1.
        pixels: input of the network, (height, width) uint8; None if unknown, as in a summary that was read from a file.
        page: number of the page; None for a file with one page.
        thumbnail: the image itself, reduced, (height, width) uint8; None if unknown, or if it equals `pixels`.
    """

    path: str
    prediction: str
    confidence: float
    pixels: npt.NDArray[np.uint8] | None = None
    page: int | None = None
    thumbnail: npt.NDArray[np.uint8] | None = None

    @classmethod
    def from_commit_record(cls, record: Record) -> Self:
        """Return the image from the commit record of a shard; see `digits.prediction.plan`."""
        pixels = _decoded(record["pixels"], record["shape"])
        small = record.get("thumbnail")
        thumbnail = _decoded(small["pixels"], small["shape"]) if small else None
        return cls(record["path"], record["prediction"], record["confidence"], pixels, record.get("page"), thumbnail)

    def as_record(self) -> Record:
        """Return the image as JSON values, without its pixels."""
        return {"path": self.path, "prediction": self.prediction, "confidence": self.confidence, "page": self.page}

    def as_commit_record(self) -> Record:
        """Return the image as JSON values with its pixels in base64, for the commit record of a shard."""
        small = None if self.thumbnail is None else _encoded(self.thumbnail)
        return {**self.as_record(), **_encoded(np.asarray(self.pixels)), "thumbnail": small}


def _encoded(pixels: npt.NDArray[np.uint8]) -> Record:
    return {"shape": list(pixels.shape), "pixels": base64.b64encode(pixels.tobytes()).decode("ascii")}


def _decoded(pixels: str, shape: list[int]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(shape)


@dataclass(frozen=True)
class SingleResult:
    """Result of a run with one row.

    Args:
        label: name of the predicted class; None without a prediction.
        confidence: probability of the predicted class, in 0..1; None without a prediction.
        status: status of the row.
        error: why there is no prediction; None with one.
    """

    label: str | None
    confidence: float | None
    status: str
    error: str | None = None

    @property
    def sentence(self) -> str:
        """The result for people: `7 (99.8% confidence), ok`."""
        if self.label is None or self.confidence is None:
            return f"no prediction, {self.status}: {self.error}"
        return f"{self.label} ({self.confidence:.1%} confidence), {self.status}"


@dataclass(frozen=True, eq=False)
class PredictionSummary:
    """Summary of a prediction run.

    Args:
        source: folder, archive or single image that was predicted.
        out: path of the table.
        model_version: number of the model version in the registry.
        model_digest: digest of the exported model.
        images: number of rows in the table: one per image, or per page of a file with several.
        reused: number of rows reused from an earlier, interrupted run.
        seconds: time from the start of this run's first shard until the table was published.
        images_per_second: rate of the images that this run predicted itself.
        predictions: number of rows per predicted class.
        statuses: number of rows per status.
        skipped: number of files without a row, per reason.
        more_frames: number of images with several frames or pages, of which this run read only the first.
        failures: the first images without a prediction, at most 100; `statuses` counts all of them.
        least_certain: predictions with the lowest confidence, lowest first.
        unchanged: number of rows reused from the previous table.
        shadow: result of predicting with a second version: its `version`, the number of `differing` rows, and the
            path of the `table` that holds them; None without a second version.
        drift: comparison of the predicted images with the baseline of the table, or with the model's test images as
            long as there is no baseline; None if there is nothing to compare.
        follow_links: links in the folder that were followed: `no`, `inside` or `anywhere`.
        trend: drift of the last runs that wrote this table, this run last: `at`, `model_version`, `images`, the
            population stability index of each feature (`psi`), and the features that drifted from the baseline
            (`drifted`).
        flagged: the first images of each status that flags a prediction, by status; `statuses` counts all of them.
        command: command that makes the same table.
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
    follow_links: str = "no"
    flagged: Mapping[str, tuple[LeastCertain, ...]] = field(default_factory=dict)
    command: str = ""

    @property
    def single(self) -> SingleResult | None:
        """The result of the only image; None if the table has several rows or none."""
        if self.images != 1:
            return None
        status = next(iter(self.statuses))
        for image in self.least_certain:
            return SingleResult(image.prediction, image.confidence, status)
        return SingleResult(None, None, status, next((failure.error for failure in self.failures), None))

    def as_record(self) -> Record:
        """Return the summary as JSON values."""
        return {
            **vars(self),
            "source": str(self.source),
            "out": str(self.out),
            "failures": [vars(failure) for failure in self.failures],
            "least_certain": [image.as_record() for image in self.least_certain],
            "flagged": {status: [image.as_record() for image in images] for status, images in self.flagged.items()},
            "drift": self.drift and self.drift.as_record(),
            "trend": list(self.trend),
        }

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Return the summary that `as_record` wrote."""
        flagged = record.get("flagged", {}).items()
        fields: dict[str, Any] = {
            **{name: record[name] for name in cls.__dataclass_fields__ if name in record},
            "source": Path(record["source"]),
            "out": Path(record["out"]),
            "failures": tuple(Failure(**failure) for failure in record["failures"]),
            "least_certain": tuple(LeastCertain(**image) for image in record["least_certain"]),
            "flagged": {status: tuple(LeastCertain(**image) for image in images) for status, images in flagged},
            "drift": record["drift"] and Drift.from_record(record["drift"]),
            "trend": tuple(record["trend"]),
        }
        return cls(**fields)


def name_page(path: str, page: int | None) -> str:
    """Return the name of an image for people: its path, and its page if the file has several."""
    return path if page is None else f"{path} page {page}"


def join_counts(counts: Mapping[str, int]) -> str:
    """Return counts as one line: `ok: 1,204, uncertain: 3`."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def first_frames_line(summary: PredictionSummary) -> str:
    """Return of how many files only the first frame or page was read."""
    images = count(summary.more_frames, "image that has", "images that have")
    return f"only the first frame or page was read of {images} several"


def count_failures(statuses: Mapping[str, int]) -> int:
    """Return the number of images without a prediction.

    Args:
        statuses: number of images per status.
    """
    return sum(count for status, count in statuses.items() if status not in PREDICTED)


def draw_least_certain(summary: PredictionSummary) -> bytes | None:
    """Return a PNG of the least certain images of a run whose pixels are known; None if there are none."""
    seen = [(image, image.pixels) for image in summary.least_certain if image.pixels is not None]
    if not seen:
        return None
    captions = [f"{image.prediction} {image.confidence:.0%}\n{name_page(image.path, image.page)}" for image, _ in seen]
    return contact_sheet([pixels for _, pixels in seen], captions, columns=PICTURE_COLUMNS)


def draw_trend(summary: PredictionSummary) -> bytes | None:
    """Return a PNG of the drift of the last runs, one row per feature and one column per run; None without any run.

    The latest run is at the right. Cells of features that drifted from the baseline are red.
    """
    if not summary.trend:
        return None
    names = list(summary.trend[-1]["psi"])
    cells = [[Cell(run["psi"].get(name), name in run["drifted"]) for run in summary.trend] for name in names]
    return heat_map([FEATURE_NAMES[name] for name in names], [run["at"][5:16] for run in summary.trend], cells)


def summary_path(out: Path) -> Path:
    """Return the path of a table's summary."""
    return out.with_name(f"{out.stem}.summary.json")


def picture_path(out: Path) -> Path:
    """Return the path of the picture of a table's least certain images. Listings skip this file."""
    return out.with_name(f"{out.stem}.least-certain.png")


def report_path(out: Path) -> Path:
    """Return the path of the page with the result of a prediction."""
    return out.with_name(f"{out.stem}.report.html")


def removed_rows_path(table: Path, date: str) -> Path:
    """Return the path of the rows whose images the janitor removed from the inbox on a day."""
    return table.with_name(f"{table.stem}.removed-{date}{table.suffix}")


def removed_rows_paths(table: Path) -> list[Path]:
    """Return the existing files with rows of removed images, oldest first."""
    return sorted(table.parent.glob(f"{escape(table.stem)}.removed-*{table.suffix}"))


def read_picture(summary: PredictionSummary) -> bytes | None:
    """Return the picture of the least certain images of a run, as PNG; None if the file does not exist."""
    try:
        return picture_path(summary.out).read_bytes()
    except FileNotFoundError:
        return None

"""Worker: read, decode, normalize and predict the images of a plan's shards, and commit the part files.

Each worker process imports this module, so it must not import modules that are slow to load.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import DigitsError, ModelError, StoreError, os_errors_as
from digits.images.decode import MIN_SIDE, Decoded, DecodeError, SmallPngs, decode
from digits.images.folder import Entry, escape_path
from digits.images.ink.paper import opencv
from digits.images.normalize import SHAPE, have_mnist_form
from digits.images.pages import NO_PAGES, PageList, list_pages
from digits.images.screening import ScreenedImage, screen
from digits.images.source import Source, open_source
from digits.images.types import Pixels
from digits.model.baseline import join_parts
from digits.model.drift import (
    MAX_SAMPLED_IMAGES,
    Bins,
    Counts,
    bin_counts,
    measure_files,
    measure_images,
)
from digits.model.onnx_model import OnnxModel, Predictor, load_runtime
from digits.outputs.summary import LeastCertain
from digits.outputs.table import DECIMALS, FIXED_COLUMNS, Row
from digits.prediction.limits import READING, ImageLimits, NoLimits, Position
from digits.prediction.plan import Plan
from digits.status import FLAGGED, Status, combine_novelty, prediction_status
from digits.store.files import write_file
from digits.store.records import Record, write_record

SLICE = 256
"""Number of images that are read before they are predicted together."""
FAILURES_KEPT = 100
"""Largest number of failures that the commit record of a shard and the summary of a table list."""
LEAST_CERTAIN_KEPT = 25
"""Number of least certain images in the commit record of a shard and in the summary of a table."""
FLAGGED_KEPT = 12
"""Number of images per flag in the commit record of a shard and in the summary of a table."""
THUMBNAIL = 80
"""Longest side of the reduced images in commit records, in pixels."""
_NAME, _CONFIDENCE, _STATUS = map(
    [column.name for column in FIXED_COLUMNS].index, ("prediction", "confidence", "status")
)
DONE, TAKEN = b"\n", b"-"
"""Messages of a worker at the end of a request: the shard is committed, or another process works on it."""
_FAILED_ERRORS: Mapping[Status, str] = {
    "crashed": "decoding it killed the process that did, twice; convert the image",
    "timeout": "reading and decoding it took more than {:g} s; shrink the image or raise --max-seconds",
}
"""Errors in the table for images that must not be decoded again, with a place for the time limit."""
_OUT_OF_MEMORY = DecodeError("too-large", "it needs more memory than is allowed")
_WIDTH_HEIGHT = SHAPE[::-1]
_IN_FORM = ScreenedImage(np.zeros(SHAPE, np.uint8), 0.0)
"""Result of the screening for each image in MNIST's form, but for the pixels."""
Tick = Callable[[int], None]


def no_tick(count: int) -> None:
    """Do nothing; the default of `run_worker` for `tick`."""


def run_worker(plan: Plan, start: int = 0, *, tick: Tick = no_tick) -> int:
    """Predict, in this process, every shard that is neither committed nor claimed by a living process.

    There are no limits of time and memory, and an image that crashes its decoder ends this process.
    `digits.prediction.pool.run_workers` protects the calling process from both.

    Args:
        plan: plan to work on; other workers may work on it at the same time.
        start: number of the shard to begin with; several workers should begin with different shards.
        tick: function that is called every few images with the number of images predicted since the last call.

    Returns:
        The number of shards that this call committed.

    Raises:
        StoreError: if the disk is full or not writable, or the source can no longer be opened.
        ModelError: if the model cannot be run or was replaced after planning.
    """
    committed = 0
    with _open_worker(plan, NoLimits(), tick) as worker:
        for shard in [*plan.shards[start:], *plan.shards[:start]]:
            committed += worker.run_if_free(shard)
    return committed


@contextmanager
def _open_worker(plan: Plan, limits: NoLimits, tick: Tick) -> Iterator["_Worker"]:
    """Open the source for a worker; suppress errors if the plan is gone, because its table is published then."""
    try:
        with open_source(plan.source, plan.archive, plan.options.links) as source:
            yield _Worker(plan, source, limits, tick)
    except BrokenPipeError:
        raise
    except OSError:
        if plan.exists():
            remedy = "fix that and run the same command again to resume it"
            with os_errors_as(StoreError, plan.source, "the prediction stopped", remedy):
                raise


class _ReadImage(NamedTuple):
    """Image or page before its prediction. If it could not be read, `pixels` is None, and there is an error.

    Args:
        number: number of its file in the shard.
        screened: result of the screening; None for an image in MNIST's form, and for one that could not be read.
        thumbnail: the image before its normalization, reduced; None if `pixels` is the image itself.
    """

    path: str
    sha256: str | None
    pixels: Pixels | None
    width: int | None = None
    height: int | None = None
    status: Status = "ok"
    error: str | None = None
    more_frames: bool = False
    page: int | None = None
    number: int = -1
    screened: ScreenedImage | None = None
    thumbnail: Pixels | None = None


class _File(NamedTuple):
    """Content of a file that was read, its number in the shard, its path in the table and its hash."""

    number: int
    path: str
    sha256: str
    content: bytes


def _unread(path: str, sha256: str | None, fault: DecodeError) -> _ReadImage:
    return _ReadImage(path, sha256, None, fault.width, fault.height, fault.status, str(fault))


@dataclass
class _Tally:
    """Counts of a shard for its commit record."""

    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    more_frames: int = 0
    failures: list[tuple[str, Status, str | None, int | None]] = field(default_factory=list)
    least_certain: list[tuple[float, str, _ReadImage]] = field(default_factory=list)
    flagged: dict[str, list[tuple[float, str, _ReadImage]]] = field(
        default_factory=lambda: {status: [] for status in FLAGGED}
    )
    drift: tuple[Counts, ...] = ()

    def count(self, images: Sequence[_ReadImage], rows: Sequence[Row]) -> None:
        statuses = [str(row[_STATUS]) for row in rows]
        self.statuses.update(statuses)
        for status, found in self.flagged.items():
            places = [place for place, one in enumerate(statuses) if one == status][: FLAGGED_KEPT - len(found)]
            found += [(float(rows[at][_CONFIDENCE] or 0), str(rows[at][_NAME]), images[at]) for at in places]
        self.more_frames += sum(image.more_frames for image in images)
        room = FAILURES_KEPT - len(self.failures)
        self.failures += [(i.path, i.status, i.error, i.page) for i in images if i.pixels is None][:room]

    def count_predictions(
        self, images: Sequence[_ReadImage], names: Sequence[str], confidence: Sequence[float]
    ) -> None:
        self.classes.update(names)
        least = sorted(zip(confidence, names, images, strict=True), key=itemgetter(0))[:LEAST_CERTAIN_KEPT]
        self.least_certain = sorted((*self.least_certain, *least), key=itemgetter(0))[:LEAST_CERTAIN_KEPT]

    def as_record(self) -> Record:
        flagged = {status: [_as_least_certain(*image) for image in images] for status, images in self.flagged.items()}
        least_certain = [_as_least_certain(*image) for image in self.least_certain]
        return {**vars(self), "least_certain": least_certain, "flagged": flagged}


def _as_least_certain(confidence: float, name: str, image: _ReadImage) -> Record:
    return LeastCertain(image.path, name, confidence, image.pixels, image.page, image.thumbnail).as_commit_record()


def _thumbnail(pixels: Pixels) -> Pixels:
    """Return an image whose sides are at most `THUMBNAIL` pixels: itself, or reduced."""
    height, width = pixels.shape
    factor = THUMBNAIL / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    cv2 = opencv()
    reduced: Pixels = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    return reduced


class _Worker:
    """Worker that predicts shards of one plan."""

    def __init__(self, plan: Plan, source: Source, limits: NoLimits, tick: Tick) -> None:
        self._plan = plan
        self._source = source
        self._limits = limits
        self._tick = tick
        self._columns = plan.columns
        self._every = max(1, plan.images // MAX_SAMPLED_IMAGES)
        self._finds_form = plan.options.normalize == "auto" and plan.model.input_shape == SHAPE
        may_read = self._finds_form and plan.options.max_pixels >= prod(SHAPE)
        self._pngs = SmallPngs(SHAPE, SLICE if may_read else 0)

    def run_if_free(self, shard: int) -> bool:
        """Predict a shard unless it is committed or claimed by a living process; return whether it was predicted."""
        with self._plan.claim(shard) as claimed:
            if claimed:
                self._run(shard)
            return claimed

    def _run(self, shard: int) -> None:
        """Write a shard's part file and commit it."""
        started = time.time()
        planned = self._plan.model
        predictor = _load_predictor(planned.directory, planned.version, planned.digest)
        self._limits.limit_memory()
        rows, tally = list[Row](), _Tally()
        for images, files in self._slices(self._plan.entries(shard), self._plan.failed_images(shard)):
            self._limits.end_images()
            rows += self._rows(images, predictor, tally)
            self._tick(files)
        part = self._plan.format.encode(rows, self._columns)
        _commit(self._plan, shard, part, {"rows": len(rows), "started": started, **tally.as_record()})

    def _slices(
        self, entries: Sequence[Entry], failed: Mapping[Position, Status]
    ) -> Iterator[tuple[list[_ReadImage], int]]:
        """Yield the images of files and the number of these files, about `SLICE` images at a time."""
        images, first = list[_ReadImage](), 0
        for number, entry in enumerate(entries, 1):
            images += self._read(number - 1, entry, failed)
            if len(images) >= SLICE or number == len(entries):
                yield self._screen_small(images), number - first
                images, first = [], number

    def _read(self, number: int, entry: Entry, failed: Mapping[Position, Status]) -> Sequence[_ReadImage]:
        """Return the image of a file, or one image per page if it has several."""
        path, options = escape_path(entry.path), self._plan.options
        if failed and (status := failed.get(Position(number, READING))):
            return [_unread(path, None, self._failure(status))]
        self._limits.begin_image(number, options.max_seconds)
        try:
            content = self._source.read(entry, max_bytes=options.max_bytes)
        except DecodeError as fault:
            return [_unread(path, None, fault)]
        except MemoryError:
            return [_unread(path, None, _OUT_OF_MEMORY)]
        digest = hashlib.sha256(content).hexdigest()
        pages = list_pages(content, pdf="PDF" in options.others) if options.pages == "all" else NO_PAGES
        if pages.several:
            return list(self._read_pages(_File(number, path, digest, content), pages, failed))
        self._limits.begin_decoding(number)
        place = pages.places[0] if pages.places else None
        status = failed.get(Position(number)) if failed else None
        return [self._decode(_File(number, path, digest, content), place, status)]

    def _read_pages(self, file: _File, pages: PageList, failed: Mapping[Position, Status]) -> Iterator[_ReadImage]:
        for page, place in enumerate(pages.places, 1):
            self._limits.begin_image(file.number, self._plan.options.max_seconds, page)
            yield self._decode(file, place, failed.get(Position(file.number, page)))._replace(page=page)
        if pages.fault:
            fault = DecodeError("too-many-pages", pages.fault)
            yield _unread(file.path, file.sha256, fault)._replace(page=len(pages.places) + 1)

    def _decode(self, file: _File, place: int | None, failed: Status | None) -> _ReadImage:
        if failed:
            return _unread(file.path, file.sha256, self._failure(failed))
        try:
            pixels, width, height, more = self._decode_content(file.content, place)
        except DecodeError as fault:
            return _unread(file.path, file.sha256, fault)
        except MemoryError:
            return _unread(file.path, file.sha256, _OUT_OF_MEMORY)
        image = _ReadImage(file.path, file.sha256, pixels, width, height, "ok", None, more, None, file.number)
        return image if self._finds_form and pixels.shape == SHAPE else self._screen(image)

    def _decode_content(self, content: bytes, place: int | None) -> Decoded:
        """Decode an image. Those of small PNG files get their pixels in `_screen_small`."""
        small = self._pngs.add(content)
        if small is not None:
            return Decoded(small, *_WIDTH_HEIGHT)
        limit, others = self._plan.options.max_pixels, self._plan.options.others
        return decode(content, max_pixels=limit, min_side=MIN_SIDE, others=others, place=place)

    def _failure(self, status: Status) -> DecodeError:
        """Return the error for an image that ended two worker processes."""
        return DecodeError(status, _FAILED_ERRORS[status].format(self._plan.options.max_seconds))

    def _screen_small(self, images: list[_ReadImage]) -> list[_ReadImage]:
        """Decode the small PNG files, and screen the images that were not screened, except those in MNIST's form."""
        self._pngs.decode()
        small = [place for place, image in enumerate(images) if image.pixels is not None and image.screened is None]
        if small:
            forms = have_mnist_form(np.stack([np.asarray(images[place].pixels) for place in small]))
            for place in (place for place, form in zip(small, forms.tolist(), strict=True) if not form):
                image = images[place]
                self._limits.begin_image(image.number, self._plan.options.max_seconds, image.page or 0)
                images[place] = self._screen(image)
        return images

    def _screen(self, image: _ReadImage) -> _ReadImage:
        """Return an image with its normalized pixels, or with the error if it cannot be normalized."""
        try:
            screened = self._normalize(np.asarray(image.pixels))
        except DecodeError as fault:
            return _unread(image.path, image.sha256, fault)._replace(page=image.page)
        except MemoryError:
            return _unread(image.path, image.sha256, _OUT_OF_MEMORY)._replace(page=image.page)
        thumbnail = _thumbnail(np.asarray(image.pixels))
        return image._replace(pixels=screened.pixels, screened=screened, thumbnail=thumbnail)

    def _normalize(self, pixels: Pixels) -> ScreenedImage:
        try:
            return screen(pixels, self._plan.options.normalize, shape=self._plan.model.input_shape)
        except MemoryError:
            raise
        except Exception as error:  # one image must not fail the other images of its shard
            raise DecodeError("unreadable", f"it could not be normalised: {type(error).__name__}") from error

    def _rows(self, images: Sequence[_ReadImage], predictor: Predictor, tally: _Tally) -> list[Row]:
        answers = iter(self._predict([image for image in images if image.pixels is not None], predictor, tally))
        none: Row = (None,) * (2 + len(self._columns) - len(FIXED_COLUMNS))
        version = self._plan.model.version
        rows: list[Row] = []
        for image in images:
            path, digest, pixels, width, height, read_status, error, *_ = image
            status, name, confidence, novelty, *more = (read_status, *none) if pixels is None else next(answers)
            fixed = (path, name, confidence, status, error, width, height, digest, novelty, version)
            rows.append((*fixed, *more, image.page))
        tally.count(images, rows)
        return rows

    def _predict(self, images: Sequence[_ReadImage], predictor: Predictor, tally: _Tally) -> list[Row]:
        """Return status, class, confidence and novelty of each image, then the columns that the options add."""
        if not images:
            return []
        pixels = np.stack([np.asarray(image.pixels) for image in images])
        probabilities, novelty = predictor.predict_with_novelty(pixels)
        if not np.isfinite(probabilities).all():
            raise ModelError(f"{self._plan.model.onnx}: the network returns NaN or infinite values; train it again")
        ranked = _rank(probabilities, self._plan.options.top_k)
        rounded = probabilities.astype(np.float64).round(DECIMALS).tolist()
        novelties = combine_novelty(novelty, [(image.screened or _IN_FORM).screening_score for image in images])
        answers = [self._answer(*answer) for answer in zip(rounded, ranked, novelties, strict=True)]
        tally.count_predictions(images, [str(a[1]) for a in answers], [float(a[2] or 0) for a in answers])
        if self._plan.bins:
            some = slice(None, None, self._every)
            known = None if novelty is None else novelties[some]
            counts = _drift_counts(images[some], pixels[some], probabilities[some], known, self._plan.bins)
            tally.drift = join_parts([*tally.drift, counts])
        return answers

    def _answer(self, probabilities: list[float], order: list[int], novelty: float | None) -> Row:
        names = self._plan.model.class_names
        (name, confidence), *others = [(names[index], probabilities[index]) for index in order]
        status = prediction_status(confidence, novelty, self._plan.options.threshold)
        added = probabilities if self._plan.options.probabilities else ()
        return (status, name, confidence, novelty, *added, *(value for other in others for value in other))


def _rank(probabilities: npt.NDArray[np.float32], count: int) -> list[list[int]]:
    """Return the most likely classes of each image, the first of equally likely ones first: (N, classes) -> N lists."""
    if count == 1:
        return [[index] for index in probabilities.argmax(axis=1).tolist()]
    ranked: list[list[int]] = np.argsort(-probabilities, axis=1, kind="stable")[:, :count].tolist()
    return ranked


def _drift_counts(
    images: Sequence[_ReadImage],
    pixels: Pixels,
    probabilities: npt.NDArray[np.float32],
    novelty: Sequence[float | None] | None,
    bins: Bins,
) -> Counts:
    screened = [image.screened or _IN_FORM for image in images]
    values = measure_images(pixels, probabilities, None if novelty is None else np.array(novelty, np.float64))
    levels = pixels.reshape(len(pixels), -1).max(axis=1).tolist()
    files = measure_files(
        [max(image.width or 0, image.height or 0) for image in images],
        [image.dark_on_light for image in screened],
        [own if image.contrast is None else image.contrast for image, own in zip(screened, levels, strict=True)],
    )
    return bin_counts({**values, **files}, bins)


@lru_cache(maxsize=1)
def _load_predictor(directory: Path, version: int, digest: str) -> Predictor:
    """Load the model of a plan; the model that was loaded last is kept in memory."""
    model = OnnxModel.load(directory, version=version)
    if model.digest != digest:
        raise ModelError(
            f"{directory}: the model was replaced after the prediction was planned; run the same command again"
        )
    return Predictor(model)


def _commit(plan: Plan, shard: int, part: bytes, counts: Record) -> None:
    """Write the part file of a shard, then its commit record.

    Neither is flushed to the disk. If a power failure damages a file, its hash shows the damage, and the shard is
    predicted again.
    """
    write_file(plan.part_path(shard, ".part"), part, durable=False)
    digest = hashlib.sha256(part).hexdigest()
    write_record(plan.part_path(shard, ".json"), {**counts, "bytes": len(part), "sha256": digest}, durable=False)


def main(arguments: Sequence[str]) -> int:
    """Run a worker process, which reads requests from standard input until its end.

    Each request is a line of JSON. For `{"plan": path, "shard": number}`, the worker predicts the shard, and writes to
    standard output a `.` for each predicted image, then `DONE` if it committed the shard, or `TAKEN` if another process
    has it. For `{"model": [directory, version, digest], "photos": bool}`, it loads the model, and writes nothing.

    Args:
        arguments: one argument, the descriptor of the file from `digits.prediction.limits.open_position_file`.

    Returns:
        The exit code: 0 at the end of the input, or that of the error, whose message is on standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    limits = ImageLimits(int(arguments[0]))
    load_runtime()
    try:
        _handle_requests(sys.stdin.buffer, limits)
    except (BrokenPipeError, FileNotFoundError):  # the parent, or the plan, is gone
        return 0
    except DigitsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:  # another worker may succeed
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _handle_requests(requests: Iterable[bytes], limits: ImageLimits) -> None:
    current, worker = None, None
    with ExitStack() as stack:
        for request in requests:
            values = json.loads(request)
            if "model" in values:
                preload(*values["model"], photos=values["photos"])
                continue
            if worker is None or values["plan"] != current:
                stack.close()
                current = values["plan"]
                plan = Plan.open(Path(current))
                worker = stack.enter_context(_open_worker(plan, limits, lambda count: _send_to_parent(b"." * count)))
            _send_to_parent(DONE if worker.run_if_free(values["shard"]) else TAKEN)


def preload(directory: str, version: int, digest: str, *, photos: bool) -> None:
    """Load a model, and the libraries that photos need, before the first shard.

    Args:
        directory: directory of the exported model.
        version: number of its version in the registry.
        digest: expected digest of the model.
        photos: whether to load OpenCV, too; images in MNIST's form do not need it.
    """
    with suppress(DigitsError):  # the first shard raises it again, where it is reported
        _load_predictor(Path(directory), version, digest)
    if photos:
        opencv()


def _send_to_parent(message: bytes) -> None:
    os.write(1, message)

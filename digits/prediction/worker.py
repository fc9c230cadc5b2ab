"""The worker that carries out a plan's shards: reads, hashes, decodes, normalises, predicts, writes, commits.

This module is what a worker process imports: it stays away from everything that is slow to load.
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
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import DigitsError, ModelError, StoreError, os_errors_as
from digits.images.decode import MIN_SIDE, Decoded, DecodeError, decode
from digits.images.folder import Entry, escape_path
from digits.images.normalize import opencv
from digits.images.screening import ScreenedImage, screen
from digits.images.source import Source, open_source
from digits.model.drift import MOST_IMAGES, Counts, Reference, add_counts, bin_counts, measure, measure_files
from digits.model.onnx_model import ModelFiles, Predictor, load_runtime
from digits.outputs.summary import LeastCertain
from digits.outputs.table import DECIMALS, FIXED_COLUMNS, Row
from digits.prediction.limits import ImageLimits, NoLimits
from digits.prediction.plan import Plan
from digits.status import Status, novelty_of, verdict
from digits.store.files import write_file
from digits.store.records import Record, write_record

SLICE = 256
FAILURES_KEPT = 100
LEAST_CERTAIN_KEPT = 25
_STATUS = [column.name for column in FIXED_COLUMNS].index("status")
DONE, TAKEN = b"\n", b"-"
_BLAMES: Mapping[Status, str] = {
    "crashed": "decoding it killed the process that did, twice; convert the image",
    "timeout": "reading and decoding it took more than {:g} s; shrink the image or raise --max-seconds",
}
Tick = Callable[[int], None]


def no_tick(count: int) -> None:
    """Tell nobody that so many images more are done."""


def run_worker(plan: Plan, start: int = 0, *, tick: Tick = no_tick) -> int:
    """Carry out, in this process, every shard that is neither committed nor being worked on by a living process.

    No limit protects this process from an image that kills its decoder: `digits.prediction.pool` has other ones do this.

    Args:
        plan: any number of workers may be at it, here or in other processes.
        start: the shard to begin with, so that workers don't follow each other.
        tick: is told after every few images how many more are done.

    Returns:
        The number of shards it committed.

    Raises:
        StoreError: the disk is full or can't be written to, or the folder can't be opened any more.
        ModelError: the model can't be run, or is not the one that the plan was made for.
    """
    committed = 0
    with _at_work_on(plan, NoLimits(), tick) as worker:
        for shard in [*plan.shards[start:], *plan.shards[:start]]:
            committed += worker.run_if_free(shard)
    return committed


@contextmanager
def _at_work_on(plan: Plan, guard: NoLimits, tick: Tick) -> Iterator["_Worker"]:
    """Open what a worker needs; it just ends when the plan is gone, which is when another run has carried it out."""
    try:
        with open_source(plan.source, plan.archive) as source:
            yield _Worker(plan, source, guard, tick)
    except BrokenPipeError:
        raise
    except OSError:
        if plan.exists():
            remedy = "fix that and run the same command again: it resumes from here"
            with os_errors_as(StoreError, plan.source, "the prediction stopped", remedy):
                raise


class _Seen(NamedTuple):
    """What is known of an image before the network has seen it; `pixels` is None where there is no picture."""

    path: str
    sha256: str | None
    pixels: npt.NDArray[np.uint8] | None
    width: int | None = None
    height: int | None = None
    status: Status = "ok"
    error: str | None = None
    more_frames: bool = False
    looked: ScreenedImage | None = None


@dataclass
class _Tally:
    """What a shard's seal tells besides the part's hash."""

    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    more_frames: int = 0
    failures: list[tuple[str, Status, str | None]] = field(default_factory=list)
    least_certain: list[tuple[float, str, _Seen]] = field(default_factory=list)
    drift: Counts = field(default_factory=dict)

    def count(self, images: Sequence[_Seen], statuses: Iterable[str]) -> None:
        self.statuses.update(statuses)
        self.more_frames += sum(image.more_frames for image in images)
        room = FAILURES_KEPT - len(self.failures)
        self.failures += [(i.path, i.status, i.error) for i in images if i.pixels is None][:room]

    def count_predictions(self, images: Sequence[_Seen], names: Sequence[str], confidence: Sequence[float]) -> None:
        self.classes.update(names)
        least = sorted(zip(confidence, names, images, strict=True), key=itemgetter(0))[:LEAST_CERTAIN_KEPT]
        self.least_certain = sorted((*self.least_certain, *least), key=itemgetter(0))[:LEAST_CERTAIN_KEPT]

    def as_record(self) -> Record:
        return {**vars(self), "least_certain": [_as_least_certain(*image) for image in self.least_certain]}


def _as_least_certain(confidence: float, name: str, image: _Seen) -> Record:
    return LeastCertain(image.path, name, confidence, image.pixels).as_seal()


class _Worker:
    """A model at work on a plan."""

    def __init__(self, plan: Plan, source: Source, guard: NoLimits, tick: Tick) -> None:
        self._plan = plan
        self._source = source
        self._guard = guard
        self._tick = tick
        self._columns = plan.columns
        self._every = max(1, plan.images // MOST_IMAGES)

    def run_if_free(self, shard: int) -> bool:
        """Carry out a shard, unless it is done or somebody else is at it."""
        with self._plan.claim(shard) as mine:
            if mine:
                self._run(shard)
            return mine

    def _run(self, shard: int) -> None:
        """Make a shard's part, and commit it."""
        started = time.time()
        planned = self._plan.model
        predictor = _predictor(planned.directory, planned.version, planned.digest)
        self._guard.limit_memory()
        entries, blamed = self._plan.entries(shard), self._plan.failed_images(shard)
        rows, tally = list[Row](), _Tally()
        for first in range(0, len(entries), SLICE):
            images = [
                self._see(number, entry, blamed.get(number))
                for number, entry in enumerate(entries[first : first + SLICE], first)
            ]
            self._guard.leave()
            rows += self._rows(images, predictor, tally)
            self._tick(len(images))
        part = self._plan.format.encode(rows, self._columns)
        _commit(self._plan, shard, part, {"rows": len(rows), "started": started, **tally.as_record()})

    def _see(self, number: int, entry: Entry, blame: Status | None) -> _Seen:
        path, options, digest = escape_path(entry.path), self._plan.options, None
        self._guard.enter(number, options.max_seconds)
        try:
            content = self._source.read(entry, max_bytes=options.max_bytes)
            digest = hashlib.sha256(content).hexdigest()
            if blame:
                return _Seen(path, digest, None, status=blame, error=_BLAMES[blame].format(options.max_seconds))
            picture = decode(content, max_pixels=options.max_pixels, min_side=MIN_SIDE, others=options.others)
            looked = self._looked_at(picture)
        except DecodeError as error:
            return _Seen(path, digest, None, error.width, error.height, error.status, str(error))
        except MemoryError:
            return _Seen(path, digest, None, status="too-large", error="it needs more memory than is allowed")
        more, pixels = picture.more_frames, looked.pixels
        return _Seen(path, digest, pixels, picture.width, picture.height, more_frames=more, looked=looked)

    def _looked_at(self, picture: Decoded) -> ScreenedImage:
        try:
            return screen(picture.pixels, self._plan.options.normalize, shape=self._plan.model.input_shape)
        except MemoryError:
            raise
        except Exception as error:  # one image must not take its neighbours with it
            raise DecodeError("unreadable", f"it could not be normalised: {type(error).__name__}") from error

    def _rows(self, images: Sequence[_Seen], predictor: Predictor, tally: _Tally) -> list[Row]:
        answers = iter(self._predict([image for image in images if image.pixels is not None], predictor, tally))
        none: Row = (None,) * (3 + len(self._columns) - len(FIXED_COLUMNS))
        version = self._plan.model.version
        rows: list[Row] = []
        for image in images:
            path, digest, pixels, width, height, seen, error, *_ = image
            status, name, confidence, novelty, *more = (seen, *none) if pixels is None else next(answers)
            rows.append((path, name, confidence, status, error, width, height, digest, novelty, version, *more))
        tally.count(images, [str(row[_STATUS]) for row in rows])
        return rows

    def _predict(self, images: Sequence[_Seen], predictor: Predictor, tally: _Tally) -> list[Row]:
        """Give for each image status, class, confidence and novelty, then the columns that options add."""
        if not images:
            return []
        pixels = np.stack([np.asarray(image.pixels) for image in images])
        probabilities, novelty = predictor.answer(pixels)
        if not np.isfinite(probabilities).all():
            raise ModelError(f"{self._plan.model.onnx}: the network gives values that are no numbers; train it again")
        ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._plan.options.top_k].tolist()
        rounded = probabilities.astype(np.float64).round(DECIMALS).tolist()
        looks = [image.looked for image in images if image.looked]
        novelties = novelty_of(novelty, [seen.screening_score for seen in looks])
        answers = [self._answer(*answer) for answer in zip(rounded, ranked, novelties, strict=True)]
        tally.count_predictions(images, [str(a[1]) for a in answers], [float(a[2] or 0) for a in answers])
        if self._plan.model.reference:
            some = slice(None, None, self._every)
            known = None if novelty is None else novelties[some]
            counts = _drift_counts(images[some], pixels[some], probabilities[some], known, self._plan.model.reference)
            tally.drift = add_counts([tally.drift, counts])
        return answers

    def _answer(self, chances: list[float], order: list[int], novelty: float | None) -> Row:
        names = self._plan.model.class_names
        (name, confidence), *others = [(names[index], chances[index]) for index in order]
        status = verdict(confidence, novelty, self._plan.options.threshold)
        added = chances if self._plan.options.probabilities else ()
        return (status, name, confidence, novelty, *added, *(value for other in others for value in other))


def _drift_counts(
    images: Sequence[_Seen],
    pixels: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32],
    novelty: Sequence[float | None] | None,
    reference: Reference,
) -> Counts:
    looks = [image.looked for image in images if image.looked]
    values = measure(pixels, probabilities, None if novelty is None else np.array(novelty, np.float64))
    levels = pixels.reshape(len(pixels), -1).max(axis=1).tolist()
    files = measure_files(
        [max(image.width or 0, image.height or 0) for image in images],
        [seen.dark_on_light for seen in looks],
        [own if seen.contrast is None else seen.contrast for seen, own in zip(looks, levels, strict=True)],
    )
    return bin_counts({**values, **files}, reference)


@lru_cache(maxsize=1)
def _predictor(directory: Path, version: int, digest: str) -> Predictor:
    """Load the model that a prediction was planned with, or give the one that was loaded before."""
    model = ModelFiles.load(directory, version=version)
    if model.digest != digest:
        raise ModelError(f"{directory}: the model was replaced after the prediction was planned; start again")
    return Predictor(model)


def _commit(plan: Plan, shard: int, part: bytes, seal: Record) -> None:
    """Write a shard's part, then the record that makes it count.

    Neither waits for the disk: what a power failure damages is found by its hash before it is used, and made again.
    """
    write_file(plan.part_path(shard, ".part"), part, durable=False)
    digest = hashlib.sha256(part).hexdigest()
    write_record(plan.part_path(shard, ".json"), {**seal, "bytes": len(part), "sha256": digest}, durable=False)


def main(arguments: Sequence[str]) -> int:
    """Be a worker process: take requests from standard input, with the file of `guards.open_position_file` as argument.

    A request is a line of JSON. `{"plan": path, "shard": number}` is answered on standard output by a `.` for every
    image that is done, then `DONE` for a shard that is committed, or `TAKEN` for one that somebody else has.
    `{"model": [directory, version, digest], "photos": bool}` has no answer: it says what to load while there is nothing
    to do yet.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    guard = ImageLimits(int(arguments[0]))
    load_runtime()
    try:
        _serve(sys.stdin.buffer, guard)
    except (BrokenPipeError, FileNotFoundError):  # the parent, or the plan, is gone
        return 0
    except DigitsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:  # the next worker may fare better
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _serve(requests: Iterable[bytes], guard: ImageLimits) -> None:
    current, worker = None, None
    with ExitStack() as stack:
        for request in requests:
            told = json.loads(request)
            if "model" in told:
                preload(*told["model"], photos=told["photos"])
                continue
            if worker is None or told["plan"] != current:
                stack.close()
                current = told["plan"]
                plan = Plan.open(Path(current))
                worker = stack.enter_context(_at_work_on(plan, guard, lambda count: _tell_parent(b"." * count)))
            _tell_parent(DONE if worker.run_if_free(told["shard"]) else TAKEN)


def preload(directory: str, version: int, digest: str, *, photos: bool) -> None:
    """Load a model, and what photos need, before there is a shard to do.

    Args:
        directory: of the exported model.
        version: the registry's number.
        digest: of the model that is expected there.
        photos: whether pictures are to be expected that are not in MNIST's form.
    """
    with suppress(DigitsError):  # it comes again with the first shard, where somebody hears it
        _predictor(Path(directory), version, digest)
    if photos:
        opencv()


def _tell_parent(words: bytes) -> None:
    os.write(1, words)

"""The worker that carries out a plan's shards: reads, hashes, decodes, normalises, predicts, writes, commits.

This module is what a worker process imports: it stays away from everything that is slow to load.
"""

import base64
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import DigitsError, ModelError, StoreError
from digits.folders import Entry, escape_path
from digits.images import Decoded, DecodeError, Status, decode
from digits.inference import ModelFiles, Predictor
from digits.normalization import normalize
from digits.plans import Plan
from digits.records import Record, replacing, write_record
from digits.sources import Source, open_source
from digits.tables import DECIMALS, FIXED_COLUMNS, Row

SLICE = 256
FAILURES_KEPT = 100
LEAST_CERTAIN_KEPT = 25
Tick = Callable[[int], None]


def no_tick(count: int) -> None:
    """Tell nobody that so many images more are done."""


def run_worker(plan: Plan, start: int = 0, *, tick: Tick = no_tick) -> int:
    """Carry out every shard that is neither committed nor being worked on by a living process.

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
    try:
        with open_source(plan.source, plan.archive) as source:
            worker = _Worker(plan, source)
            for shard in [*plan.shards[start:], *plan.shards[:start]]:
                committed += worker.run_if_free(shard, tick)
    except BrokenPipeError:
        raise
    except OSError as error:
        if plan.exists():
            raise _stopped(plan, error) from error
    return committed


def _stopped(plan: Plan, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or plan.source}: the prediction stopped ({error.strerror}); "
        "mend that and run the same command again: it goes on from here"
    )


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


@dataclass
class _Tally:
    """What a shard's seal tells besides the part's hash."""

    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    more_frames: int = 0
    failures: list[tuple[str, Status, str | None]] = field(default_factory=list)
    least_certain: list[Record] = field(default_factory=list)

    def count(self, images: Sequence[_Seen]) -> None:
        self.statuses.update(image.status for image in images)
        self.more_frames += sum(image.more_frames for image in images)
        room = FAILURES_KEPT - len(self.failures)
        self.failures += [(i.path, i.status, i.error) for i in images if i.pixels is None][:room]

    def count_predictions(self, images: Sequence[_Seen], names: Sequence[str], confidence: Sequence[float]) -> None:
        self.classes.update(names)
        order = sorted(range(len(images)), key=confidence.__getitem__)[:LEAST_CERTAIN_KEPT]
        self.least_certain += [_as_least_certain(images[i], names[i], confidence[i]) for i in order]
        self.least_certain.sort(key=lambda record: float(record["confidence"]))
        del self.least_certain[LEAST_CERTAIN_KEPT:]


def _as_least_certain(image: _Seen, name: str, confidence: float) -> Record:
    pixels = np.asarray(image.pixels)
    return {
        "path": image.path,
        "prediction": name,
        "confidence": confidence,
        "shape": list(pixels.shape),
        "pixels": base64.b64encode(pixels.tobytes()).decode("ascii"),
    }


class _Worker:
    """A model at work on a plan."""

    def __init__(self, plan: Plan, source: Source) -> None:
        self._plan = plan
        self._source = source
        self._columns = plan.columns

    @cached_property
    def _predictor(self) -> Predictor:
        """The model, loaded when there is something to do."""
        planned = self._plan.model
        model = ModelFiles.load(planned.directory, version=planned.version)
        if model.digest != planned.digest:
            raise ModelError(f"{model.directory}: the model was replaced after the prediction was planned; start again")
        return Predictor(model)

    def run_if_free(self, shard: int, tick: Tick) -> bool:
        """Carry out a shard, unless it is done or somebody else is at it."""
        with self._plan.claim(shard) as mine:
            if mine:
                self._run(shard, tick)
            return mine

    def _run(self, shard: int, tick: Tick) -> None:
        """Make a shard's part, and commit it."""
        started = time.time()
        entries, rows, tally = self._plan.entries(shard), [], _Tally()
        for first in range(0, len(entries), SLICE):
            images = [self._see(entry) for entry in entries[first : first + SLICE]]
            rows += self._rows(images, tally)
            tick(len(images))
        part = self._plan.format.encode(rows, self._columns)
        _commit(self._plan, shard, part, {"rows": len(rows), "started": started, **vars(tally)})

    def _see(self, entry: Entry) -> _Seen:
        path, options, digest = escape_path(entry.path), self._plan.options, None
        try:
            content = self._source.read(entry, max_bytes=options.max_bytes)
            digest = hashlib.sha256(content).hexdigest()
            picture = decode(content, max_pixels=options.max_pixels)
            pixels = self._normalized(picture)
        except DecodeError as error:
            return _Seen(path, digest, None, error.width, error.height, error.status, str(error))
        return _Seen(path, digest, pixels, picture.width, picture.height, more_frames=picture.more_frames)

    def _normalized(self, picture: Decoded) -> npt.NDArray[np.uint8]:
        try:
            return normalize(picture.pixels, self._plan.options.normalize, shape=self._plan.model.input_shape)
        except Exception as error:  # one image must not take its neighbours with it
            raise DecodeError("unreadable", f"it could not be normalised: {type(error).__name__}") from error

    def _rows(self, images: Sequence[_Seen], tally: _Tally) -> list[Row]:
        pictured = [image for image in images if image.pixels is not None]
        answers = iter(self._predict(pictured, tally))
        tally.count(images)
        none: Row = (None,) * (2 + len(self._columns) - len(FIXED_COLUMNS))
        version = self._plan.model.version
        rows: list[Row] = []
        for image in images:
            path, digest, pixels, width, height, status, error, _ = image
            name, confidence, *more = none if pixels is None else next(answers)
            rows.append((path, name, confidence, status, error, width, height, digest, None, version, *more))
        return rows

    def _predict(self, images: Sequence[_Seen], tally: _Tally) -> list[Row]:
        """Give for each image the class's name, the confidence, and the columns that options add."""
        if not images:
            return []
        probabilities = self._predictor.predict(np.stack([np.asarray(image.pixels) for image in images]))
        if not np.isfinite(probabilities).all():
            raise ModelError(f"{self._plan.model.onnx}: the network gives values that are no numbers; train it again")
        ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._plan.options.top_k].tolist()
        rounded = probabilities.astype(np.float64).round(DECIMALS).tolist()
        answers = [self._answer(chances, order) for chances, order in zip(rounded, ranked, strict=True)]
        tally.count_predictions(images, [str(a[0]) for a in answers], [float(a[1] or 0) for a in answers])
        return answers

    def _answer(self, chances: list[float], order: list[int]) -> Row:
        names = self._plan.model.class_names
        best, *others = [(names[index], chances[index]) for index in order]
        added = chances if self._plan.options.probabilities else ()
        return (*best, *added, *(value for other in others for value in other))


def _commit(plan: Plan, shard: int, part: bytes, seal: Record) -> None:
    """Write a shard's part, then the record that makes it count."""
    with replacing(plan.part(shard, ".part")) as file:
        file.write(part)
    digest = hashlib.sha256(part).hexdigest()
    write_record(plan.part(shard, ".json"), {**seal, "bytes": len(part), "sha256": digest})


def main(arguments: Sequence[str]) -> int:
    """Be a worker process: `PLAN START`; a byte to standard output for every image that is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    path, start = arguments
    try:
        run_worker(Plan.open(Path(path)), int(start), tick=_tell_parent)
    except (BrokenPipeError, FileNotFoundError):  # the parent, or the plan, is gone
        return 0
    except DigitsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _tell_parent(count: int) -> None:
    os.write(1, b"." * count)

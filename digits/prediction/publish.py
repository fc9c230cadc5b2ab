"""Batch prediction: a folder of pictures to a table, one row an image, whatever is in it and whenever we are killed.

Three steps that can be called by themselves, also from different processes: `plan_predictions` lists the folder and
cuts it into shards, `run_workers` (or any number of `run_worker`) makes their parts, `merge_predictions` publishes the table.
Called again after a kill, with the same folder, model and options, they go on where they were.
"""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from digits.errors import CorruptArtifactError, PlanGoneError, StoreError, os_errors_as
from digits.model.drift import Counts, add_counts, find_drift
from digits.model.onnx_model import ModelFiles
from digits.outputs.summary import (
    Failure,
    LeastCertain,
    PredictionSummary,
    draw_least_certain,
    picture_path,
    summary_path,
)
from digits.prediction.config import PredictionConfig
from digits.prediction.incremental import NewLedger, merged_rows
from digits.prediction.plan import FormerRows, IncrementalRows, Plan, ReplacedRows, remove_plan
from digits.prediction.planning import plan_predictions
from digits.prediction.pool import WorkerPool, run_workers
from digits.prediction.worker import FAILURES_KEPT, LEAST_CERTAIN_KEPT
from digits.progress import SILENT, Progress
from digits.status import STATUSES
from digits.store.files import hash_file, locked, remove_temporary_files, replacing, write_file
from digits.store.records import Record, read_record, write_record

RUNS_KEPT = 20
"""In the trend of a table's drift."""

logger = logging.getLogger(__name__)


def predict_folder(  # noqa: PLR0913 - what, with what, how, where to
    source: Path, *, model: ModelFiles, options: PredictionConfig, out: Path, work: Path, progress: Progress = SILENT
) -> PredictionSummary:
    """Predict every image of a folder into a table, and draw the least certain ones beside it.

    Args:
        source: a folder, an archive, or a single image.
        model: the exported model.
        options: how.
        out: the table, `.csv`, `.parquet` or `.jsonl`.
        work: a directory for what outlives a kill.
        progress: is told of images.

    Raises:
        UsageError: the folder can't be read, or the table's format is unknown.
        ModelError: the model can't be used.
        StoreError: the disk is full, or can't be written to; run again to go on.
    """
    with WorkerPool(options.processes) as crew:
        crew.prepare(source, model)
        while True:
            plan = plan_predictions(source, model=model, options=options, out=out, work=work)
            started = time.time()
            run_workers(plan, crew, progress=progress)
            with suppress(PlanGoneError):
                return merge_predictions(plan, crew, started=started)


def merge_predictions(plan: Plan, crew: WorkerPool, *, started: float | None = None) -> PredictionSummary:
    """Publish the table of a plan whose shards are all committed, and remove the plan.

    A part that was damaged since then is made again; `merge` has the arguments and the errors.
    """
    try:
        return merge_parts(plan, started=started)
    except CorruptArtifactError as error:
        logger.warning("%s; it is made again", error)
        run_workers(plan, crew)
        return merge_parts(plan, started=started)


def merge_parts(plan: Plan, *, started: float | None = None) -> PredictionSummary:
    """Verify the parts, publish the table, the picture and the summary beside it, and remove the plan.

    Args:
        plan: every shard must be committed.
        started: when this run began: what was done before counts as taken over; None: nothing was.

    Returns:
        The summary; when another run of the same has published it meanwhile, the one that it wrote.

    Raises:
        CorruptArtifactError: a part was damaged; its shard is waiting again, so run the workers once more.
        PlanGoneError: another run of the same has published it, and a run of something else has replaced it since.
        StoreError: a shard is not done, or the disk is full.
    """
    remedy = "fix that and run the same command again: it resumes from here"
    with os_errors_as(StoreError, plan.out, "the table could not be written", remedy), _merging(plan) as ours:
        if not ours:
            return _published_by_another(plan)
        with _publishing(plan):
            return _published(plan, started)


@contextmanager
def _merging(plan: Plan) -> Iterator[bool]:
    """Wait until nobody else merges the plan; tell whether it is still there."""
    path = plan.path / "merge.lock"
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(path))
            ours = path.exists() and path.stat().st_ino == os.fstat(lock.descriptor).st_ino
        except FileNotFoundError:
            ours = False
        yield ours


@contextmanager
def _publishing(plan: Plan) -> Iterator[None]:
    """Wait until no other plan is being published, so that table, picture and summary are of one run."""
    with locked(plan.path.parent, flags=os.O_RDONLY):
        yield


def _published_by_another(plan: Plan) -> PredictionSummary:
    with suppress(FileNotFoundError):
        record = read_record(summary_path(plan.out))
        if record.pop("plan") == plan.digest and plan.out.exists():
            return PredictionSummary.from_record(record)
    raise PlanGoneError(f"{plan.path}: the plan was removed before it was carried out; run the same command again")


def _published(plan: Plan, started: float | None) -> PredictionSummary:
    waiting = plan.pending_shards()
    if waiting:
        raise StoreError(
            f"{plan.path}: {len(waiting)} of {len(plan.shards)} shards are not done; run the workers first"
        )
    remove_temporary_files(plan.out, picture_path(plan.out), summary_path(plan.out))
    totals = _Totals()
    if isinstance(plan.former, ReplacedRows):
        _write_replaced(plan, plan.former, totals)
    elif isinstance(plan.former, IncrementalRows):
        _write_incremental(plan, plan.former, totals)
    else:
        with replacing(plan.out) as file:
            plan.format.join(_verified_parts(plan, totals), plan.columns, file)
    summary = _with_trend(totals.summary(plan, started), plan.digest)
    _write_picture(summary)
    write_record(summary_path(plan.out), {**summary.as_record(), "plan": plan.digest})
    remove_plan(plan.path)
    return summary


def _with_trend(summary: PredictionSummary, plan: str) -> PredictionSummary:
    """Add a run's drift to that of the runs before into the same table; the same run once more counts once."""
    former: Record = {}
    with suppress(FileNotFoundError, CorruptArtifactError):
        former = read_record(summary_path(summary.out))
    again = former.get("plan") == plan and former.get("drift")
    runs = former.get("trend", [])[: -1 if again else None]
    if summary.drift is None:
        return replace(summary, trend=tuple(runs))
    latest = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_version": summary.model_version,
        "images": summary.drift.images,
        "psi": {shift.feature: shift.psi for shift in summary.drift.shifts},
        "drifted": [shift.feature for shift in summary.drift.drifted],
    }
    return replace(summary, trend=(*runs, latest)[-RUNS_KEPT:])


def _write_picture(summary: PredictionSummary) -> None:
    """Write the picture of the least certain images; that of an earlier run goes where there is none."""
    picture = draw_least_certain(summary)
    if picture is None:
        picture_path(summary.out).unlink(missing_ok=True)
    else:
        write_file(picture_path(summary.out), picture)


def _write_incremental(plan: Plan, former: IncrementalRows, totals: "_Totals") -> None:
    """Write a table of rows that were known and rows that were predicted, and its ledger just before it."""
    ledger = NewLedger(plan, former)
    totals.remember(former.least_certain)
    with replacing(plan.out) as file:
        parts = _verified_parts(plan, totals)
        plan.table_format.join(_shards_of(plan, former, ledger.merged(parts), totals), plan.columns, file)
        file.flush()
        digest = hash_file(Path(file.name))
        ledger.commit(digest, totals.pictures())
    ledger.forget_others(digest)


def _write_replaced(plan: Plan, former: ReplacedRows, totals: "_Totals") -> None:
    """Write a table of which some rows were predicted anew, over the one that they were to be replaced in."""
    totals.remember(())
    with replacing(plan.out) as file:
        rows = (json.loads(row) for _, row in merged_rows(plan, former, _verified_parts(plan, totals)))
        plan.table_format.join(_shards_of(plan, former, rows, totals), plan.columns, file)
        if hash_file(plan.out) != former.table:
            raise StoreError(f"{plan.out}: the table was changed meanwhile and is left so; run the same command again")


def _shards_of(plan: Plan, former: FormerRows, rows: Iterator[Record], totals: "_Totals") -> Iterator[bytes]:
    """Encode rows as the parts that a run from nothing would have."""
    while shard := list(islice(rows, former.shard_size)):
        totals.count(shard)
        yield plan.table_format.encode([tuple(row.values()) for row in shard], plan.columns)


def _verified_parts(plan: Plan, totals: "_Totals") -> Iterator[bytes]:
    for shard in plan.shards:
        try:
            seal, part = read_part(plan, shard)
        except (CorruptArtifactError, FileNotFoundError) as error:
            plan.uncommit(shard)
            raise CorruptArtifactError(f"shard {shard} must be made again: {error}") from error
        totals.add(seal)
        yield part


def read_part(plan: Plan, shard: int) -> tuple[Record, bytes]:
    """Give the seal and the rows of a shard that is done.

    Raises:
        CorruptArtifactError: one of them was damaged.
        FileNotFoundError: one of them is missing.
    """
    seal = read_record(plan.part_path(shard, ".json"))
    part = plan.part_path(shard, ".part").read_bytes()
    if hashlib.sha256(part).hexdigest() != seal["sha256"]:
        raise CorruptArtifactError(f"{plan.part(shard, '.part')}: damaged after it was written")
    return seal, part


class _Totals:
    """The sum of what the shards' seals tell; of an incremental run, what the rows tell."""

    def __init__(self) -> None:
        self._predictions: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._rows: list[tuple[float, int]] = []
        self._more_frames = 0
        self._failures: list[Failure] = []
        self._least_certain: list[LeastCertain] = []
        self._seen: dict[str, LeastCertain] | None = None
        self._drift: Counts = {}

    def remember(self, least_certain: Sequence[Record]) -> None:
        """Count rows from now on, and take the pixels of the least certain from here and from the seals."""
        self._seen = {image.path: image for image in map(LeastCertain.from_seal, least_certain)}

    def add(self, seal: Record) -> None:
        self._rows.append((seal["started"], seal["rows"]))
        self._more_frames += seal["more_frames"]
        self._drift = add_counts([self._drift, seal["drift"]])
        least_certain = map(LeastCertain.from_seal, seal["least_certain"])
        if self._seen is not None:
            self._seen |= {image.path: image for image in least_certain}
            return
        self._predictions.update(seal["classes"])
        self._statuses.update(seal["statuses"])
        self._fail(Failure(*failure) for failure in seal["failures"])
        self._doubt(least_certain)

    def count(self, rows: Sequence[Record]) -> None:
        """Count rows of a table."""
        predicted = [row for row in rows if row["prediction"] is not None]
        self._predictions.update(row["prediction"] for row in predicted)
        self._statuses.update(row["status"] for row in rows)
        self._fail(Failure(r["path"], r["status"], r["error"]) for r in rows if r["prediction"] is None)
        predicted.sort(key=lambda row: float(row["confidence"]))
        least = predicted[:LEAST_CERTAIN_KEPT]
        self._doubt(LeastCertain(row["path"], row["prediction"], row["confidence"]) for row in least)

    def _fail(self, failures: Iterable[Failure]) -> None:
        self._failures += islice(failures, FAILURES_KEPT - len(self._failures))

    def _doubt(self, images: Iterable[LeastCertain]) -> None:
        self._least_certain += images
        self._least_certain.sort(key=lambda image: image.confidence)
        del self._least_certain[LEAST_CERTAIN_KEPT:]

    def pictures(self) -> list[Record]:
        """Give the least certain images of which the pixels are known, as in a seal."""
        return [image.as_seal() for image in self._pictured() if image.pixels is not None]

    def _pictured(self) -> list[LeastCertain]:
        seen = self._seen or {}
        return [image if image.pixels is not None else self._with_pixels(image, seen) for image in self._least_certain]

    @staticmethod
    def _with_pixels(image: LeastCertain, seen: Mapping[str, LeastCertain]) -> LeastCertain:
        known = seen.get(image.path)
        return known if known and known.as_record() == image.as_record() else image

    def summary(self, plan: Plan, started: float | None) -> PredictionSummary:
        """Give the summary, now that the table is in place."""
        now, since = time.time(), started or 0
        begun = min((start for start, _ in self._rows if start >= since), default=now)
        seconds = max(now - begun, 1e-6)
        reused = sum(rows for start, rows in self._rows if start < begun)
        names = {name: self._predictions[name] for name in plan.model.class_names}
        return PredictionSummary(
            source=plan.source,
            out=plan.out,
            model_version=plan.model.version,
            model_digest=plan.model.digest,
            images=plan.rows,
            reused=reused,
            seconds=round(seconds, 3),
            images_per_second=round((plan.images - reused) / seconds, 1),
            predictions=names,
            statuses={status: self._statuses[status] for status in STATUSES if self._statuses[status]},
            skipped=dict(plan.skipped),
            more_frames=self._more_frames,
            failures=tuple(self._failures),
            least_certain=tuple(self._pictured()),
            unchanged=plan.former.unchanged if plan.former else 0,
            drift=find_drift(self._drift, plan.model.reference),
        )

"""Publication: merge the part files of a plan into one table with one row per image or page.

A prediction has three steps, which may run in different processes: `plan_predictions` lists the folder and cuts it
into shards; `run_workers`, or any number of processes that call `run_worker`, predicts the shards; `merge_predictions`
publishes the table. After a kill, the same steps with the same folder, model and options resume where they stopped.
"""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from digits.errors import CorruptArtifactError, PlanGoneError, StoreError, os_errors_as
from digits.model.baseline import Run, join_parts
from digits.model.drift import Counts
from digits.model.onnx_model import OnnxModel
from digits.outputs.prediction_report import prediction_page
from digits.outputs.summary import (
    Failure,
    LeastCertain,
    PredictionSummary,
    draw_least_certain,
    picture_path,
    report_path,
    summary_path,
)
from digits.prediction.baselines import record_path, record_run
from digits.prediction.config import PredictionConfig
from digits.prediction.incremental import NewLedger, ledger_directory, merged_rows
from digits.prediction.own_files import FILES, OwnFiles, announce, announce_more, lock_publication, require_own_files
from digits.prediction.plan import FormerRows, IncrementalRows, Plan, ReplacedRows, remove_plan
from digits.prediction.planning import plan_predictions
from digits.prediction.pool import WorkerPool, run_workers
from digits.prediction.worker import FAILURES_KEPT, FLAGGED_KEPT, LEAST_CERTAIN_KEPT
from digits.progress import SILENT, Progress
from digits.status import FLAGGED, STATUSES
from digits.store.files import hash_file, locked, remove_temporary_files, replacing, write_file
from digits.store.records import Record, read_record, write_record

RUNS_KEPT = 20
"""Number of runs in the drift trend of a table."""

logger = logging.getLogger(__name__)


def predict_folder(  # noqa: PLR0913 - what, with what, how, where to
    source: Path, *, model: OnnxModel, options: PredictionConfig, out: Path, work: Path, progress: Progress = SILENT
) -> PredictionSummary:
    """Predict every image of a folder into a table, and draw the least certain images next to it.

    Args:
        source: folder, archive or single image.
        model: exported model.
        options: options of the prediction.
        out: path of the table, `.csv`, `.parquet` or `.jsonl`.
        work: directory of the plans, which survive a kill.
        progress: receiver of the number of predicted images.

    Returns:
        The summary of the table.

    Raises:
        UsageError: as in `plan_predictions`.
        ModelError: if the model cannot be run.
        StoreError: if the disk is full or not writable; the same call resumes the prediction.
    """
    with WorkerPool(options.processes) as pool:
        pool.prepare(source, model)
        while True:
            plan = plan_predictions(source, model=model, options=options, out=out, work=work)
            started = time.time()
            run_workers(plan, pool, progress=progress)
            with suppress(PlanGoneError):
                return merge_predictions(plan, pool, started=started)


def merge_predictions(plan: Plan, pool: WorkerPool, *, started: float | None = None) -> PredictionSummary:
    """Publish the table of a plan whose shards are all committed, and remove the plan.

    If a part file is damaged, its shard is predicted again. The errors are those of `merge_parts`.

    Args:
        plan: plan whose shards are all committed.
        pool: pool that supplies a worker for a damaged shard.
        started: time at which this run began, as in `merge_parts`.
    """
    try:
        return merge_parts(plan, started=started)
    except CorruptArtifactError as error:
        logger.warning("%s; predicting it again", error)
        run_workers(plan, pool)
        return merge_parts(plan, started=started)


def merge_parts(plan: Plan, *, started: float | None = None) -> PredictionSummary:
    """Verify the part files, publish the table with its picture and summary, and remove the plan.

    Args:
        plan: plan whose shards are all committed.
        started: time at which this run began, in seconds since the epoch. Shards that began earlier count as reused.
            If None, no shard counts as reused.

    Returns:
        The summary; if another run of the same plan has published the table meanwhile, the summary of that run.

    Raises:
        CorruptArtifactError: if a part file is damaged; its shard is pending again, so run the workers once more.
        PlanGoneError: if another run has published the table and a third run has replaced it since.
        UsageError: if a file in the place of the table was not written by Digits, or was changed, without `Plan.force`;
            the plan remains.
        StoreError: if a shard is not committed or the disk is full.
    """
    remedy = "fix that and run the same command again to resume the prediction"
    with os_errors_as(StoreError, plan.out, "the table could not be written", remedy), _lock_merge(plan) as exists:
        if not exists:
            return _published_by_another(plan)
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        with lock_publication(plan.out, plan.path.parent):
            return _publish(plan, started)


@contextmanager
def _lock_merge(plan: Plan) -> Iterator[bool]:
    """Wait until no other process merges the plan, and yield whether the plan still exists."""
    path = plan.path / "merge.lock"
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(path))
            exists = path.exists() and path.stat().st_ino == os.fstat(lock.descriptor).st_ino
        except FileNotFoundError:
            exists = False
        yield exists


def _published_by_another(plan: Plan) -> PredictionSummary:
    with suppress(FileNotFoundError):
        record = read_record(summary_path(plan.out))
        if record.pop("plan") == plan.digest and plan.out.exists():
            return PredictionSummary.from_record(record)
    raise PlanGoneError(f"{plan.path}: the plan was removed before its table was published; run the same command again")


def _publish(plan: Plan, started: float | None) -> PredictionSummary:
    pending = plan.pending_shards()
    if pending:
        raise StoreError(
            f"{plan.path}: {len(pending)} of {len(plan.shards)} shards are not predicted; call run_workers first"
        )
    remove_temporary_files(
        plan.out, record_path(plan.out), picture_path(plan.out), report_path(plan.out), summary_path(plan.out)
    )
    totals = _Totals()
    with replacing(plan.out) as file:
        ledger = _write_table(plan, totals, file)
        file.flush()
        digest = hash_file(Path(file.name))
        summary = totals.summary(plan, started)
        picture = draw_least_certain(summary)
        files = _announce(plan, digest, picture, summary)
        if ledger:
            ledger.commit(digest, totals.pictures())
    if ledger:
        ledger.remove_others(digest)
    run = Run(plan.model.digest, plan.bins, totals.parts())
    drift = record_run(plan.out, run, plan=plan.digest, reference=plan.model.reference)
    summary = _with_trend(replace(summary, drift=drift), plan.digest)
    _write_beside(picture_path(plan.out), picture)
    files = _write_report(plan, summary, files)
    write_record(summary_path(plan.out), {**summary.as_record(), "plan": plan.digest, FILES: files})
    remove_plan(plan.path)
    return summary


def _write_table(plan: Plan, totals: "_Totals", file: BinaryIO) -> NewLedger | None:
    """Write the rows of a plan into a file; return the ledger, to be committed, of an incremental run."""
    if isinstance(plan.former, ReplacedRows):
        _write_replaced(plan, plan.former, totals, file)
        return None
    if isinstance(plan.former, IncrementalRows):
        return _write_incremental(plan, plan.former, totals, file)
    plan.format.join(_verified_parts(plan, totals), plan.columns, file)
    return None


def _announce(plan: Plan, table: str, picture: bytes | None, summary: PredictionSummary) -> dict[str, list[str]]:
    """Check that the files to write overwrite only files of Digits, and record the hashes of table and picture.

    Args:
        plan: plan of the table.
        table: SHA-256 of the new table.
        picture: new picture, if any.
        summary: summary of the new table.

    Returns:
        The hashes of all files that Digits wrote beside the table.
    """
    files = OwnFiles(plan.out, ledger_directory(plan.path.parent, plan.source, plan.out))
    places = (plan.out, picture_path(plan.out), report_path(plan.out))
    if not plan.force:
        require_own_files(files, places[1:] if isinstance(plan.former, ReplacedRows) else places)
    pictures = {picture_path(plan.out).name: hashlib.sha256(picture).hexdigest()} if picture else {}
    return announce(files, {plan.out.name: table, **pictures}, summary.as_record())


def _with_trend(summary: PredictionSummary, plan: str) -> PredictionSummary:
    """Return the summary with the drift of the earlier runs that wrote the same table; a repeated run counts once."""
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
        "drifted": [shift.feature for shift in summary.drift.drifted if summary.drift.is_alarm],
    }
    return replace(summary, trend=(*runs, latest)[-RUNS_KEPT:])


def _write_beside(path: Path, content: bytes | None) -> None:
    """Write a file beside the table, or remove that of an earlier run if this run has none."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_file(path, content)


def _write_report(plan: Plan, summary: PredictionSummary, files: dict[str, list[str]]) -> dict[str, list[str]]:
    """Write the report of a run, if it is asked for, and return the hashes of the files of Digits beside the table."""
    path = report_path(plan.out)
    others = {name: digests for name, digests in files.items() if name != path.name}
    if not plan.report:
        _write_beside(path, None)
        return others
    page = prediction_page(summary)
    digest = hashlib.sha256(page).hexdigest()
    announce_more(plan.out, path.name, digest)
    _write_beside(path, page)
    return {**others, path.name: [digest]}


def _write_incremental(plan: Plan, former: IncrementalRows, totals: "_Totals", file: BinaryIO) -> NewLedger:
    """Write the rows that are reused and those that were predicted; return the ledger of the table."""
    ledger = NewLedger(plan, former)
    totals.count_rows_only(former.least_certain)
    with closing(ledger.merged_rows(_verified_parts(plan, totals))) as rows:
        plan.table_format.join(_shards_of(plan, former, rows, totals), plan.columns, file)
    return ledger


def _write_replaced(plan: Plan, former: ReplacedRows, totals: "_Totals", file: BinaryIO) -> None:
    """Write the rows that are kept and those that were predicted, unless the previous table has changed meanwhile."""
    totals.count_rows_only(())
    parts = _verified_parts(plan, totals)
    rows = ([json.loads(row) for row in rows] for _, rows in merged_rows(plan, former, parts))
    plan.table_format.join(_shards_of(plan, former, rows, totals), plan.columns, file)
    if hash_file(plan.out) != former.table:
        raise StoreError(
            f"{plan.out}: another program changed the table during the run, so it was not replaced; "
            "run the same command again"
        )


def _shards_of(plan: Plan, former: FormerRows, files: Iterator[list[Record]], totals: "_Totals") -> Iterator[bytes]:
    """Yield the encoded rows of files, in parts of the size that a run without an earlier table would write."""
    while shard := list(chain.from_iterable(islice(files, former.shard_size))):
        totals.count(shard)
        yield plan.table_format.encode([tuple(row.values()) for row in shard], plan.columns)


def _verified_parts(plan: Plan, totals: "_Totals") -> Iterator[bytes]:
    for shard in plan.shards:
        try:
            commit, part = read_part(plan, shard)
        except (CorruptArtifactError, FileNotFoundError) as error:
            plan.uncommit(shard)
            raise CorruptArtifactError(f"shard {shard} must be predicted again: {error}") from error
        totals.add(commit)
        yield part


def read_part(plan: Plan, shard: int) -> tuple[Record, bytes]:
    """Return the commit record and the content of the part file of a committed shard.

    Raises:
        CorruptArtifactError: if either file is damaged.
        FileNotFoundError: if either file is missing.
    """
    commit = read_record(plan.part_path(shard, ".json"))
    part = plan.part_path(shard, ".part").read_bytes()
    if hashlib.sha256(part).hexdigest() != commit["sha256"]:
        raise CorruptArtifactError(f"{plan.part_path(shard, '.part')}: damaged after it was written")
    return commit, part


_Key = tuple[str, int | None]
"""Path and page of an image."""


def _key(image: LeastCertain) -> _Key:
    return image.path, image.page


def _image_of(row: Record) -> LeastCertain:
    return LeastCertain(row["path"], row["prediction"], row["confidence"], page=row["page"])


class _Totals:
    """Totals of a table: the sum of the counts in the shards' commit records.

    If rows of an earlier table are kept, the rows of the table are counted instead; see `count_rows_only`.
    """

    def __init__(self) -> None:
        self._predictions: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._rows: list[tuple[float, int]] = []
        self._images = self._more_frames = 0
        self._failures: list[Failure] = []
        self._least_certain: list[LeastCertain] = []
        self._flagged: dict[str, list[LeastCertain]] = {status: [] for status in FLAGGED}
        self._with_pixels: dict[_Key, LeastCertain] | None = None
        self._parts: list[Counts] = []

    def count_rows_only(self, least_certain: Sequence[Record]) -> None:
        """Count predictions, statuses and failures only by `count`, not from the commit records of the shards.

        Args:
            least_certain: images whose pixels are known, as in a commit record, besides those of the commit records.
        """
        self._with_pixels = {_key(image): image for image in map(LeastCertain.from_commit_record, least_certain)}

    def add(self, commit: Record) -> None:
        """Add the counts of a shard's commit record."""
        self._rows.append((commit["started"], commit["rows"]))
        self._more_frames += commit["more_frames"]
        self._parts += commit["drift"]
        least_certain = list(map(LeastCertain.from_commit_record, commit["least_certain"]))
        flagged = {
            status: list(map(LeastCertain.from_commit_record, images)) for status, images in commit["flagged"].items()
        }
        if self._with_pixels is not None:
            self._with_pixels |= {_key(image): image for image in chain(least_certain, *flagged.values())}
            return
        self._images += commit["rows"]
        self._predictions.update(commit["classes"])
        self._statuses.update(commit["statuses"])
        self._add_failures(Failure(*failure) for failure in commit["failures"])
        self._add_least_certain(least_certain)
        for status, images in flagged.items():
            self._add_flagged(status, images)

    def count(self, rows: Sequence[Record]) -> None:
        """Count rows of a table."""
        self._images += len(rows)
        predicted = [row for row in rows if row["prediction"] is not None]
        self._predictions.update(row["prediction"] for row in predicted)
        self._statuses.update(row["status"] for row in rows)
        failed = (row for row in rows if row["prediction"] is None)
        self._add_failures(Failure(row["path"], row["status"], row["error"], row["page"]) for row in failed)
        for status in FLAGGED:
            self._add_flagged(status, (_image_of(row) for row in predicted if row["status"] == status))
        predicted.sort(key=lambda row: float(row["confidence"]))
        self._add_least_certain(map(_image_of, predicted[:LEAST_CERTAIN_KEPT]))

    def _add_failures(self, failures: Iterable[Failure]) -> None:
        self._failures += islice(failures, FAILURES_KEPT - len(self._failures))

    def _add_least_certain(self, images: Iterable[LeastCertain]) -> None:
        self._least_certain += images
        self._least_certain.sort(key=lambda image: image.confidence)
        del self._least_certain[LEAST_CERTAIN_KEPT:]

    def _add_flagged(self, status: str, images: Iterable[LeastCertain]) -> None:
        found = self._flagged[status]
        found += islice(images, FLAGGED_KEPT - len(found))

    def pictures(self) -> list[Record]:
        """Return the least certain and the flagged images whose pixels are known, as in a commit record."""
        images = self._add_pixels(chain(self._least_certain, *self._flagged.values()))
        known = {_key(image): image for image in images if image.pixels is not None}
        return [image.as_commit_record() for image in known.values()]

    def _add_pixels(self, images: Iterable[LeastCertain]) -> tuple[LeastCertain, ...]:
        known = self._with_pixels or {}
        return tuple(image if image.pixels is not None else self._find_pixels(image, known) for image in images)

    @staticmethod
    def _find_pixels(image: LeastCertain, images: Mapping[_Key, LeastCertain]) -> LeastCertain:
        known = images.get(_key(image))
        return known if known and known.as_record() == image.as_record() else image

    def parts(self) -> tuple[Counts, ...]:
        """Return the counts of the features of the predicted images, in parts of consecutive images."""
        return join_parts(self._parts)

    def summary(self, plan: Plan, started: float | None) -> PredictionSummary:
        """Return the summary of the table, without its drift."""
        now, since = time.time(), started or 0
        predicted = sum(rows for _, rows in self._rows)
        begun = min((start for start, _ in self._rows if start >= since), default=now)
        seconds = max(now - begun, 1e-6)
        reused = sum(rows for start, rows in self._rows if start < begun)
        names = {name: self._predictions[name] for name in plan.model.class_names}
        return PredictionSummary(
            source=plan.source,
            out=plan.out,
            model_version=plan.model.version,
            model_digest=plan.model.digest,
            images=self._images,
            reused=reused,
            seconds=round(seconds, 3),
            images_per_second=round((predicted - reused) / seconds, 1),
            predictions=names,
            statuses={status: self._statuses[status] for status in STATUSES if self._statuses[status]},
            skipped=dict(plan.skipped),
            more_frames=self._more_frames,
            failures=tuple(self._failures),
            least_certain=self._add_pixels(self._least_certain),
            unchanged=plan.former.unchanged if plan.former else 0,
            follow_links=plan.options.links,
            flagged={status: self._add_pixels(images) for status, images in self._flagged.items() if images},
            command=plan.command,
        )

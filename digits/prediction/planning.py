"""Making a plan of predictions: the folder is listed once, and an interrupted run's plan is found again."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from digits.errors import CorruptArtifactError, StoreError, UsageError, os_errors_as
from digits.images.archive import Archive, ArchiveListing, Identity, is_archive
from digits.images.file_list import FileList, read_file_list
from digits.images.folder import Entry, Listing, entry_for, resolve_source
from digits.images.normalize import SPEC
from digits.images.patterns import Selection
from digits.images.source import open_source
from digits.model.calibration import threshold_for
from digits.model.onnx_model import ModelFiles
from digits.outputs.summary import picture_path, summary_path
from digits.outputs.table import TableFile, format_of
from digits.outputs.table_diff import shadow_path
from digits.prediction.config import PredictionConfig
from digits.prediction.incremental import Replacement, RowReuse, find_ledger, ledger_directory, open_replaceable_table
from digits.prediction.plan import (
    KNOWN_FILE,
    LISTING_FILE,
    PLAN_FILE,
    FormerRows,
    IncrementalRows,
    Options,
    Plan,
    ReplacedRows,
    encode_entry,
    remove_plan,
)
from digits.store.code_version import code_version
from digits.store.files import hash_file, sync_directory
from digits.store.records import digest_of, read_record

MIN_SHARD_IMAGES, MIN_SHARD_BYTES = 256, 2 * 2**20
"""A shard has so many images or so many bytes of files: photos take longer than drawings."""
TARGET_SHARDS = 32
_STALE_DRAFT, _STALE_PLAN = 24 * 3600, 30 * 24 * 3600
logger = logging.getLogger(__name__)


def plan_predictions(source: Path, *, model: ModelFiles, options: PredictionConfig, out: Path, work: Path) -> Plan:
    """List a folder and cut it into shards, or find the plan of an interrupted run that was asked for the same.

    Raises:
        UsageError: the folder can't be read, or the table's format is unknown.
        StoreError: the plan can't be written.
    """
    format_of(out)
    if options.replace_version is not None and (options.incremental or options.files_from is not None):
        raise UsageError(
            "replace_version: the table says what is predicted, so nothing else can: neither incremental nor files_from"
        )
    if options.verify and not options.incremental:
        raise UsageError("there is nothing to verify: verify is about what an incremental run takes over")
    _check_recipe(model)
    remedy = "check that the folder can be read and that there is free space"
    with os_errors_as(StoreError, work, "the prediction could not be planned", remedy):
        work.mkdir(parents=True, exist_ok=True)
        remove_stale_plans(work)
        with _temporary(work) as path:
            return _publish(_draft(source, model, options, out.absolute(), path), work)


def _check_recipe(model: ModelFiles) -> None:
    made, ours = (" ".join(str(spec.get(key)) for key in ("recipe", "version")) for spec in (model.normalization, SPEC))
    if made != ours:
        logger.warning(
            "model %s was trained with normalisation %s, and this is %s: it may be less accurate than was measured; "
            "train again",
            model.version,
            made,
            ours,
        )


def remove_stale_plans(work: Path, *, plan_seconds: float = _STALE_PLAN) -> list[Path]:
    """Remove what nobody will come back for: drafts whose makers were killed, plans that were left long ago."""
    drafts = [path for path in work.glob("tmp-*") if _remove_if_older(path, path, _STALE_DRAFT)]
    plans = [path.parent for path in work.glob(f"*/{PLAN_FILE}")]
    return drafts + [path for path in plans if _remove_if_older(path, path / "parts", plan_seconds)]


def _remove_if_older(path: Path, changed: Path, seconds: float) -> bool:
    with suppress(OSError):
        if time.time() - changed.stat().st_mtime > seconds:
            remove_plan(path)
            return True
    return False


@contextmanager
def _temporary(work: Path) -> Iterator[Path]:
    path = work / f"tmp-{secrets.token_hex(8)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _draft(source: Path, model: ModelFiles, options: PredictionConfig, out: Path, path: Path) -> tuple[Plan, str]:
    """Write a plan into an empty directory; beside it, give the digest of what was asked for."""
    (path / "parts").mkdir()
    listing, listed_at = _Listed(path / LISTING_FILE), time.time_ns()
    table = None
    if options.replace_version is not None:
        table = open_replaceable_table(out, options.replace_version, model)
        kept = {"probabilities": table.probabilities, "top_k": table.top_k, "all_files": True, "recursive": True}
        options = options.model_copy(update=kept | {"include": (), "exclude": ()})
    chosen = _options_for(model, options)
    ours = (out, summary_path(out), picture_path(out), shadow_path(out), path.parent)
    former: FormerRows | None = None
    with _found(source, options, ours, path) as found:
        if table:
            former = _replaced(table, found, listing, path / KNOWN_FILE, options)
        elif options.incremental:
            past = _Past(path.parent, found, out, _digest_of_recipe(model, chosen, found.archive), listed_at)
            former = past.write(listing, path, options)
        else:
            listing.write(found.entries)
    skipped = dict(sorted(found.skipped.items()))
    size = _shard_size(listing.images, listing.bytes, options)
    offsets = listing.offsets(size)
    plan = Plan(
        path,
        found.place,
        found.archive,
        out,
        model,
        chosen,
        offsets,
        size,
        listing.images,
        skipped,
        former,
        listing.digest,
    )
    plan.write()
    return plan, _digest_of_request(plan, listing.digest)


def _shard_size(images: int, size: int, options: PredictionConfig) -> int:
    """Give the images a shard, of so many images that have so many bytes together."""
    smallest = min(MIN_SHARD_IMAGES, MIN_SHARD_BYTES * images // max(size, 1))
    return min(options.shard_size, max(1, smallest, -(-images // TARGET_SHARDS)))


def _digest_of_recipe(model: ModelFiles, options: Options, archive: Identity | None) -> str:
    """Name all that decides the row of a file besides the file."""
    code = code_version("digits.prediction.worker", "digits.prediction.incremental")
    recipe = {"model": [model.digest, model.version], "options": options._asdict(), "archive": archive, "code": code}
    return digest_of(recipe)


class _Past(NamedTuple):
    """What an incremental run has behind it."""

    work: Path
    found: "_Found"
    out: Path
    recipe: str
    listed_at: int

    def write(self, listing: "_Listed", path: Path, options: PredictionConfig) -> IncrementalRows:
        """Write the files that must be predicted into the listing, and into the plan's directory what is known."""
        directory = ledger_directory(self.work, self.found.place, self.out)
        ledger = find_ledger(directory, self.out, recipe=self.recipe)
        known = path / KNOWN_FILE
        with open_source(self.found.place, self.found.archive) as opened:
            takeover = RowReuse(known, ledger, opened, max_bytes=options.max_bytes, verify=options.verify)
            listing.write(takeover.entries_to_predict(self.found.entries))
        return IncrementalRows(
            rows=takeover.rows,
            unchanged=takeover.unchanged,
            settled=bool(ledger and takeover.settled and _is_summary_of(self.out, ledger.plan)),
            shard_size=_shard_size(takeover.rows, takeover.bytes, options),
            sha256=hash_file(known),
            recipe=self.recipe,
            directory=directory,
            listed_at=self.listed_at,
            least_certain=tuple(ledger.least_certain) if ledger else (),
        )


def _is_summary_of(out: Path, plan: str) -> bool:
    """Tell whether the summary beside a table is that of the run that wrote it; a kill may have come between."""
    try:
        return bool(read_record(summary_path(out))["plan"] == plan)
    except (FileNotFoundError, CorruptArtifactError):
        return False


def _replaced(
    table: TableFile, found: "_Found", listing: "_Listed", known: Path, options: PredictionConfig
) -> ReplacedRows:
    """Write what must be predicted of a table into the listing, and what stays into the plan's directory."""
    version, before = options.replace_version or 0, hash_file(table.path)
    members = {entry.path: entry for entry in found.entries} if found.archive else None
    replacement = Replacement(known, table, version, found.place, members)
    listing.write(replacement.entries_to_predict())
    return ReplacedRows(
        rows=replacement.rows,
        unchanged=replacement.kept,
        shard_size=table.rows_in_a_part(),
        sha256=hash_file(known),
        recipe=digest_of([before, version]),
        table=before,
    )


class _Found(NamedTuple):
    """What is to be listed, and where it is."""

    place: Path
    entries: Iterable[Entry]
    skipped: Mapping[str, int] = MappingProxyType({})
    archive: Identity | None = None


@contextmanager
def _found(source: Path, options: PredictionConfig, ours: tuple[Path, ...], scratch: Path) -> Iterator[_Found]:
    """Find what the user named: a folder or some of its files, an archive, one image."""
    root, name = resolve_source(source)
    if name is None:
        listing = _listing_of(root, source, options, ours, scratch)
        yield _Found(root, listing, listing.skipped)
        return
    if options.files_from is not None:
        raise UsageError(f"{source}: files are listed from {options.files_from}, so this must be their folder")
    image = root / os.fsdecode(name)
    if not is_archive(image):
        yield _Found(root, [entry_for(root, name)])
        return
    with Archive(image) as archive:
        members = ArchiveListing(archive, recursive=options.recursive, selection=_selection_of(options))
        yield _Found(image, members, members.skipped, archive.identity)


def _listing_of(
    root: Path, source: Path, options: PredictionConfig, ours: tuple[Path, ...], scratch: Path
) -> Listing | FileList:
    selection = _selection_of(options)
    if options.files_from is None:
        return Listing(root, recursive=options.recursive, selection=selection, ours=ours, scratch=scratch)
    names = read_file_list(options.files_from)
    aliases = (source.absolute(),)
    return FileList(root, names, aliases=aliases, recursive=options.recursive, selection=selection, ours=ours)


def _selection_of(options: PredictionConfig) -> Selection:
    return Selection(
        include=options.include,
        exclude=options.exclude,
        all_files=options.all_files or options.files_from is not None,
        by_content=options.by_content,
        others=options.other_formats,
    )


class _Listed:
    """A listing that is being written to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("Q")
        self._end = self.bytes = 0
        self.digest = ""

    def write(self, entries: Iterable[Entry]) -> None:
        digest = hashlib.sha256()
        with self._path.open("wb") as file:
            for entry in entries:
                record = encode_entry(entry)
                self._starts.append(self._end)
                self._end += file.write(record)
                self.bytes += max(entry.size, 0)
                digest.update(record)
            file.flush()
            os.fsync(file.fileno())
        self.digest = digest.hexdigest()

    @property
    def images(self) -> int:
        return len(self._starts)

    def offsets(self, size: int) -> tuple[int, ...]:
        return (*self._starts[::size], self._end)


def _options_for(model: ModelFiles, options: PredictionConfig) -> Options:
    """Take what decides the rows.

    Raises:
        UsageError: the model can't promise what is asked of it.
    """
    return Options(
        model.mode_for(options.normalize),
        options.probabilities,
        options.top_k,
        options.max_pixels,
        options.max_bytes,
        options.max_seconds,
        options.other_formats,
        0 if options.max_error is None else threshold_for(model.risk_steps, options.max_error),
    )


def _digest_of_request(plan: Plan, listing: str) -> str:
    """Name what was asked for, whatever the sizes of shards and the number of processes."""
    request = {
        "source": str(plan.source),
        "archive": plan.archive,
        "out": str(plan.out),
        "listing": listing,
        "skipped": dict(plan.skipped),
        "model": [plan.model.digest, plan.model.version],
        "options": plan.options._asdict(),
        "code": code_version("digits.prediction.worker"),
        "known": plan.former and [plan.former.sha256, plan.former.recipe, plan.former.settled],
    }
    return digest_of(request)[:32]


def _publish(draft: tuple[Plan, str], work: Path) -> Plan:
    """Give a plan its name, unless there is one of that name already: an interrupted run's, or another living one's."""
    plan, digest = draft
    target = work / digest
    with suppress(FileNotFoundError):
        if _is_usable(target, plan):
            found = Plan.open(target)
            done = found.images - sum(map(found.images_in, found.pending_shards()))
            logger.info("%s: going on with a run that had done %d of %d images", plan.source, done, found.images)
            return found
    try:
        plan.path.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another run was faster
            raise
    sync_directory(work)
    return Plan.open(target)


def _is_usable(target: Path, plan: Plan) -> bool:
    """Tell whether the plan that was found is intact; a damaged one is removed."""
    try:
        Plan.open(target)
        names = (LISTING_FILE, KNOWN_FILE) if plan.former else (LISTING_FILE,)
        if all(hash_file(target / name) == hash_file(plan.path / name) for name in names):
            return True
    except CorruptArtifactError as error:
        logger.warning("%s; the prediction starts again", error)
    remove_plan(target)
    return False

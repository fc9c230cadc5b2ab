"""Planning: list a folder once and cut the listing into shards, or find the plan of an interrupted run."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from digits.errors import CorruptArtifactError, StoreError, UsageError, os_errors_as
from digits.images.archive import Archive, ArchiveListing, Identity, is_archive
from digits.images.file_list import FileList, read_file_list
from digits.images.folder import MISSING_SIZE, Entry, Listing, entry_for, resolve_source
from digits.images.formats import EXTENSIONS, NAMING_BYTES, formats_to_read, name_unread
from digits.images.normalize import SPEC
from digits.images.patterns import Selection
from digits.images.source import open_source
from digits.model.calibration import threshold_for
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import picture_path, report_path, summary_path
from digits.outputs.table import TableFile, format_of
from digits.outputs.table_diff import shadow_path
from digits.prediction.baselines import bins_for, record_path
from digits.prediction.config import PredictionConfig, command_for
from digits.prediction.incremental import (
    Replacement,
    RowReuse,
    find_ledger,
    found_paths,
    ledger_directory,
    open_replaceable_table,
    require_rows_kept,
)
from digits.prediction.own_files import OwnFiles, lock_publication, require_own_files
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
"""Smallest size of a shard: this many images or this many bytes of files, since photos take longer than drawings."""
TARGET_SHARDS = 32
"""Number of shards of a folder, unless that makes them smaller than the smallest size or larger than `shard_size`."""
_STALE_DRAFT, _STALE_PLAN = 24 * 3600, 30 * 24 * 3600
logger = logging.getLogger(__name__)


def plan_predictions(source: Path, *, model: OnnxModel, options: PredictionConfig, out: Path, work: Path) -> Plan:
    """Return a plan: list a folder and cut the listing into shards, or find the plan of an interrupted run.

    A plan is found if source, listing, model, options, table and code are the same.

    Args:
        source: folder, archive or single image.
        model: exported model.
        options: options of the prediction.
        out: path of the table.
        work: directory of the plans.

    Raises:
        UsageError: if the source cannot be read, the format of the table is unknown, options contradict each other, or,
            without `force`, the run would overwrite a file of somebody else or drop most rows of a table.
        StoreError: if the plan cannot be written.
    """
    format_of(out, options.csv_dialect)
    if options.replace_version is not None and (options.incremental or options.files_from is not None):
        raise UsageError(
            "replace_version: the table determines which files are predicted, so neither incremental nor files_from "
            "can be combined with it"
        )
    if options.verify and not options.incremental:
        raise UsageError("verify: only rows that incremental reuses can be verified; set incremental, too")
    _check_recipe(model)
    remedy = "check that the folder can be read and that there is free space"
    with os_errors_as(StoreError, work, "the prediction could not be planned", remedy):
        work.mkdir(parents=True, exist_ok=True)
        remove_stale_plans(work)
        with _temporary(work) as path:
            plan = _publish(_draft(source, model, options, out.absolute(), path), work)
            return replace(plan, force=options.force, report=options.report)


def _check_recipe(model: OnnxModel) -> None:
    trained, current = (
        " ".join(str(spec.get(key)) for key in ("recipe", "version")) for spec in (model.normalization, SPEC)
    )
    if trained != current:
        logger.warning(
            "model version %s was trained with normalization %s, but this installation uses %s: its accuracy may be "
            "lower than measured; train again",
            model.version,
            trained,
            current,
        )


def remove_stale_plans(work: Path, *, plan_seconds: float = _STALE_PLAN) -> list[Path]:
    """Remove abandoned plans: those whose planning was killed, and those without progress for a long time.

    Args:
        work: directory of the plans.
        plan_seconds: age from which a plan without progress is abandoned, in seconds.

    Returns:
        The directories that were removed.
    """
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


def _draft(source: Path, model: OnnxModel, options: PredictionConfig, out: Path, path: Path) -> tuple[Plan, str]:
    """Write a plan into an empty directory, and return it with the digest of the request."""
    (path / "parts").mkdir()
    listing, listed_at = _ListingWriter(path / LISTING_FILE), time.time_ns()
    table, command = None, command_for(source, out, model.version, options)
    if options.replace_version is not None:
        table = open_replaceable_table(out, options.replace_version, model)
        kept = {"probabilities": table.probabilities, "top_k": table.top_k, "csv_dialect": table.dialect}
        every = {"all_files": True, "system_files": True, "recursive": True, "include": (), "exclude": ()}
        options = options.model_copy(update=kept | every)
    chosen = _options_for(model, options)
    beside = (picture_path(out), report_path(out))
    own_files = (out, summary_path(out), *beside, shadow_path(out), record_path(out), path.parent)
    former: FormerRows | None = None
    with _files_of(source, options, own_files, path) as found:
        if not options.force:
            files = OwnFiles(out, ledger_directory(path.parent, found.place, out))
            with lock_publication(out, path.parent):
                require_own_files(files, beside if table else (out, *beside))
        if table:
            former = _write_replacement(table, found, listing, path / KNOWN_FILE, options)
        elif options.incremental:
            last = _LastRun(path.parent, found, out, _digest_of_recipe(model, chosen, found.archive), listed_at)
            former = last.write(listing, path, options)
        else:
            listing.write(found.entries)
            if not (listing.found or options.force):
                require_rows_kept(out, None, (), found.place, found.skipped)
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
        bins_for(out, model.reference),
        command,
    )
    plan.write()
    return plan, _digest_of_request(plan, listing.digest)


def _shard_size(images: int, size: int, options: PredictionConfig) -> int:
    """Return the number of images per shard.

    Args:
        images: number of images.
        size: total size of their files in bytes.
        options: options of the prediction.
    """
    smallest = min(MIN_SHARD_IMAGES, MIN_SHARD_BYTES * images // max(size, 1))
    return min(options.shard_size, max(1, smallest, -(-images // TARGET_SHARDS)))


def _digest_of_recipe(model: OnnxModel, options: Options, archive: Identity | None) -> str:
    """Return the digest of everything but the file itself that determines a row."""
    code = code_version("digits.prediction.worker", "digits.prediction.incremental")
    recipe = {"model": [model.digest, model.version], "options": options._asdict(), "archive": archive, "code": code}
    return digest_of(recipe)


class _LastRun(NamedTuple):
    """Last incremental run into the same table, whose rows are reused."""

    work: Path
    found: "_Files"
    out: Path
    recipe: str
    listed_at: int

    def write(self, listing: "_ListingWriter", path: Path, options: PredictionConfig) -> IncrementalRows:
        """Write the files to predict into the listing, and the known rows into the plan's directory `path`."""
        directory = ledger_directory(self.work, self.found.place, self.out)
        last = find_ledger(directory, self.out)
        ledger = last if last and last.recipe == self.recipe else None
        if last and not ledger:
            logger.info("%s: the model, an option or the code has changed; all images are predicted again", self.out)
        known = path / KNOWN_FILE
        with open_source(self.found.place, self.found.archive, options.follow_links) as opened:
            reuse = RowReuse(known, ledger, opened, max_bytes=options.max_bytes, verify=options.verify)
            with closing(reuse.entries_to_predict(self.found.entries)) as entries:
                listing.write(entries)
        if not (options.force or (ledger and 2 * reuse.unchanged >= reuse.known)):
            require_rows_kept(self.out, last, found_paths(known), self.found.place, self.found.skipped)
        return IncrementalRows(
            rows=reuse.rows,
            unchanged=reuse.unchanged,
            settled=bool(ledger and reuse.settled and _is_summary_of(self.out, ledger.plan)),
            shard_size=_shard_size(reuse.rows, reuse.bytes, options),
            sha256=hash_file(known),
            recipe=self.recipe,
            directory=directory,
            listed_at=self.listed_at,
            least_certain=tuple(ledger.least_certain) if ledger else (),
        )


def _is_summary_of(out: Path, plan: str) -> bool:
    """Return whether the plan that wrote a table also wrote the summary next to it; a kill may have prevented that."""
    try:
        return bool(read_record(summary_path(out))["plan"] == plan)
    except (FileNotFoundError, CorruptArtifactError):
        return False


def _write_replacement(
    table: TableFile, found: "_Files", listing: "_ListingWriter", known: Path, options: PredictionConfig
) -> ReplacedRows:
    """Write the files to predict into the listing, and the rows that are kept into the file `known`."""
    version, before = options.replace_version or 0, hash_file(table.path)
    members = {entry.path: entry for entry in found.entries} if found.archive else None
    replacement = Replacement(known, table, version, found.place, members, options.follow_links)
    with closing(replacement.entries_to_predict()) as entries:
        listing.write(entries)
    return ReplacedRows(
        rows=replacement.rows,
        unchanged=replacement.kept,
        shard_size=table.rows_in_a_part(),
        sha256=hash_file(known),
        recipe=digest_of([before, version]),
        table=before,
    )


class _Files(NamedTuple):
    """Files to list, the folder or archive they are in, and the number of skipped ones by reason."""

    place: Path
    entries: Iterable[Entry]
    skipped: Mapping[str, int] = MappingProxyType({})
    archive: Identity | None = None


@contextmanager
def _files_of(source: Path, options: PredictionConfig, own_files: tuple[Path, ...], scratch: Path) -> Iterator[_Files]:
    """Yield the files of a folder, an archive or a single image that the options select.

    Args:
        source: folder, archive or image.
        options: options of the prediction.
        own_files: paths that Digits writes, which are not images to predict.
        scratch: directory for temporary files.
    """
    root, name = resolve_source(source)
    if name is None:
        listing = _listing_of(root, source, options, own_files, scratch)
        yield _Files(root, listing, listing.skipped)
        return
    if options.files_from is not None:
        raise UsageError(f"{source}: expected the folder of the files that {options.files_from} lists, found a file")
    image = root / os.fsdecode(name)
    if not is_archive(image):
        _require_no_archive(image)
        yield _Files(root, [entry_for(root, name)])
        return
    with Archive(image) as archive:
        members = ArchiveListing(archive, recursive=options.recursive, selection=_selection_of(options))
        yield _Files(image, members, members.skipped, archive.identity)


def _require_no_archive(image: Path) -> None:
    """Raise an error if a single file is an archive that is not read; any other file has a row with its status.

    Raises:
        UsageError: if the file begins like an archive and does not have the extension of an image.
    """
    if image.suffix.lower() in EXTENSIONS:
        return
    with suppress(OSError), image.open("rb") as file:
        name = name_unread(file.read(NAMING_BYTES)) or ""
        if "archive" in name:
            raise UsageError(
                f"{image}: found {name}, expected a folder, an image, or an archive whose name ends in .zip, .tar, "
                ".tar.gz, .tar.bz2 or .tar.xz; unpack it, and predict the folder"
            )


def _listing_of(
    root: Path, source: Path, options: PredictionConfig, own_files: tuple[Path, ...], scratch: Path
) -> Listing | FileList:
    chosen: Any = {
        "recursive": options.recursive,
        "selection": _selection_of(options),
        "own_files": own_files,
        "links": options.follow_links,
    }
    if options.files_from is None:
        return Listing(root, scratch=scratch, **chosen)
    return FileList(root, read_file_list(options.files_from), aliases=(source.absolute(),), **chosen)


def _selection_of(options: PredictionConfig) -> Selection:
    return Selection(
        include=options.include,
        exclude=options.exclude,
        all_files=options.all_files or options.files_from is not None,
        by_content=options.by_content,
        others=formats_to_read(options.other_formats),
        system_files=options.system_files or options.files_from is not None,
    )


class _ListingWriter:
    """Writer of a plan's listing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("Q")
        self._end = self.bytes = self.found = 0
        self.digest = ""

    def write(self, entries: Iterable[Entry]) -> None:
        digest = hashlib.sha256()
        with self._path.open("wb") as file:
            for entry in entries:
                record = encode_entry(entry)
                self._starts.append(self._end)
                self._end += file.write(record)
                self.bytes += max(entry.size, 0)
                self.found += entry.size != MISSING_SIZE
                digest.update(record)
            file.flush()
            os.fsync(file.fileno())
        self.digest = digest.hexdigest()

    @property
    def images(self) -> int:
        return len(self._starts)

    def offsets(self, size: int) -> tuple[int, ...]:
        return (*self._starts[::size], self._end)


def _options_for(model: OnnxModel, options: PredictionConfig) -> Options:
    """Return the options that determine the contents of the rows.

    Raises:
        UsageError: if the model's validation images cannot support `max_error`.
    """
    return Options(
        model.resolve_mode(options.normalize),
        options.probabilities,
        options.top_k,
        options.max_pixels,
        options.max_bytes,
        options.max_seconds,
        formats_to_read(options.other_formats),
        0 if options.max_error is None else threshold_for(model.risk_steps, options.max_error),
        options.pages,
        options.follow_links,
        options.csv_dialect,
    )


def _digest_of_request(plan: Plan, listing: str) -> str:
    """Return the digest of the request, which does not depend on the size of shards or the number of processes."""
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
    """Rename a plan to its digest; if an interrupted or concurrent run has made the same plan, return that one."""
    plan, digest = draft
    target = work / digest
    with suppress(FileNotFoundError):
        if _is_usable(target, plan):
            found = Plan.open(target)
            done = found.images - sum(map(found.images_in, found.pending_shards()))
            logger.info("%s: resuming: %d of %d images already predicted", plan.source, done, found.images)
            return found
    try:
        plan.path.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another run was faster
            raise
    logger.debug("%s: %d images to predict with model version %s", plan.source, plan.images, plan.model.version)
    sync_directory(work)
    return Plan.open(target)


def _is_usable(target: Path, plan: Plan) -> bool:
    """Return whether a plan that was found is intact; remove it if not."""
    try:
        Plan.open(target)
        names = (LISTING_FILE, KNOWN_FILE) if plan.former else (LISTING_FILE,)
        if all(hash_file(target / name) == hash_file(plan.path / name) for name in names):
            return True
    except CorruptArtifactError as error:
        logger.warning("%s; the prediction starts from scratch", error)
    remove_plan(target)
    return False

"""Backup: write what cannot be made again into one archive, while runs are at work.

    registry/                      all versions, promotions and decisions
    KIND/DIGEST/                   the artifacts of all versions, and the artifacts that they were made from
    labels/                        the label log, and the labelled images
    studies/                       the hyperparameter searches
    work/predictions/ledgers/      the ledgers of incremental predictions
    predictions/                   the tables with what is written beside them, if asked for
    system/prefect/prefect.db      the database of the Prefect server that `digits up` starts, if it is SQLite

Records and artifacts never change once they have their name. So a lock is needed only while the registry is listed.
Tables and ledgers are replaced, never rewritten: they are linked while no table is being published, and then copied.
The label log only grows: it is copied up to its last whole line.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digits.data.labels import IMAGES, LOG_FILE, LabelLog
from digits.errors import CorruptArtifactError, StoreError, UsageError, os_errors_as
from digits.maintenance.archives import ArchiveReader, ArchiveWriter, Member
from digits.maintenance.locks import wait_for
from digits.maintenance.retention import with_ancestors
from digits.maintenance.tables import read_tables
from digits.prediction.incremental import LEDGERS, read_ledger
from digits.progress import SILENT, Progress
from digits.store.artifacts import MANIFEST, ArtifactRef, Store, reading
from digits.store.code_version import library_versions
from digits.store.files import replacing
from digits.store.records import read_record
from digits.store.registry import Registry, champion_stack

ENDING = ".tar.zst"
FORMAT = 1
"""Version of the archive's layout; `digits.maintenance.restore` reads no later one."""
DATABASE = "system/prefect/prefect.db"
"""Name of the Prefect database in an archive."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """File to back up.

    Args:
        name: name in the archive, relative to the artifact root.
        path: path of the file to read.
        sha256: expected hash; empty if it is not known before.
        size: number of bytes to read; None for the whole file.
    """

    name: str
    path: Path
    sha256: str = ""
    size: int | None = None


@dataclass(frozen=True)
class BackupResult:
    """Content of a backup.

    Args:
        path: path of the archive.
        bytes: size of the archive.
        files: number of files in it.
        content_bytes: size of these files.
        champion: number of the champion; None without one.
        versions: number of model versions.
        labelled_images: number of labelled images.
        ledgers: number of ledgers of incremental predictions.
        tables: number of prediction tables.
        database: whether it holds the Prefect database.
    """

    path: Path
    bytes: int
    files: int
    content_bytes: int
    champion: int | None
    versions: int
    labelled_images: int
    ledgers: int
    tables: int
    database: bool

    def as_record(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def back_up(  # noqa: PLR0913 - what, where to, with what
    store: Store,
    out: Path,
    *,
    tables: bool = False,
    database: Path | None = None,
    replace: bool = False,
    progress: Progress = SILENT,
) -> BackupResult:
    """Write a backup of an artifact root, and read it again to check it. Runs can be at work meanwhile.

    Args:
        store: artifact store.
        out: path of the archive.
        tables: whether to include the prediction tables under the artifact root.
        database: SQLite database of the Prefect server to include.
        replace: whether `out` may replace an existing file.
        progress: receiver of the number of files.

    Raises:
        UsageError: if `out` exists, or has another ending than `ENDING`.
        CorruptArtifactError: if a file to back up is damaged. Then there is no archive.
        StoreError: if a file cannot be read or written, or a lock is not released.
    """
    _require_free(out, replace=replace)
    _require_content(store, database)
    remedy = "check the free space and the permissions"
    with store.scratch("backup") as scratch, os_errors_as(StoreError, out, "the backup could not be written", remedy):
        sources = list(_collect(store, scratch, tables=tables, database=database))
        about = _describe(store, sources)
        with replacing(out) as file:
            os.fchmod(file.fileno(), 0o600)
            _write(ArchiveWriter(file), sources, about, progress)
            file.flush()
            found = check_archive(Path(file.name), progress=progress)
    counts = {
        name: about[name] for name in ("champion", "versions", "labelled_images", "ledgers", "tables", "database")
    }
    size = sum(entry["bytes"] for entry in found["files"].values())
    return BackupResult(out, out.stat().st_size, len(sources), size, **counts)


def _require_free(out: Path, *, replace: bool) -> None:
    if not out.name.endswith(ENDING):
        raise UsageError(f"{out}: expected a name that ends in {ENDING}")
    if out.exists() and not replace:
        raise UsageError(f"{out}: this file exists; choose another name, or replace it with --force")


def _require_content(store: Store, database: Path | None) -> None:
    """Refuse a root without anything to back up, which is probably not the root that the user means."""
    if not (store.registry.is_dir() or store.labels.is_dir() or database):
        raise UsageError(
            f"{store.root}: expected an artifact root, found neither model versions nor labels; name it with "
            "--artifacts or DIGITS_ARTIFACTS"
        )


def _collect(store: Store, scratch: Path, *, tables: bool, database: Path | None) -> Iterator[Source]:
    """Yield the files to back up. The registry comes first, because what it refers to is never removed."""
    with wait_for(store.workspace(store.locks) / "registry"):
        records = _below(store, store.registry.glob("*/[0-9]*.json"))
    for one in records:
        read_record(one.path)  # checks it
        yield one
    for ref in sorted(_artifacts(store, records), key=str):
        yield from _files_of(store, ref)
    yield from _labels(store)
    yield from _below(store, filter(_is_whole_record, store.studies.glob("*/[!.]*")))
    yield from _published(store, scratch, tables=tables)
    if database:
        yield Source(DATABASE, copy_database(database, scratch / "prefect.db"))


def _below(store: Store, paths: Iterable[Path]) -> list[Source]:
    return [Source(path.relative_to(store.root).as_posix(), path) for path in sorted(paths)]


def _artifacts(store: Store, records: Iterable[Source]) -> set[ArtifactRef]:
    """Return the artifacts of the versions among the records, and their ancestors as far as they exist."""
    versions = (read_record(one.path)["artifacts"] for one in records if one.path.parent.name == "versions")
    named = {ArtifactRef(*artifact) for artifacts in versions for artifact in artifacts.items()}
    found = with_ancestors(store, named)
    return {ref for ref in found if ref in named or store.has(ref)}


def _files_of(store: Store, ref: ArtifactRef) -> Iterator[Source]:
    place = store.path(ref)
    if not store.has(ref):
        raise CorruptArtifactError(f"{ref}: a model version needs it, but it is missing; run `digits verify`")
    with reading(store.root):
        files = read_record(place / MANIFEST)["files"]
    hashes = {name: entry["sha256"] for name, entry in files.items()}
    for name in (*hashes, MANIFEST):
        yield Source(f"{ref.kind}/{ref.digest}/{name}", place / name, hashes.get(name, ""))


def _labels(store: Store) -> Iterator[Source]:
    """Yield the label log up to its last whole line, then the images, each of which is saved before its label."""
    log = store.labels / LOG_FILE
    if log.is_file():
        LabelLog(store.labels)  # checks each line
        with wait_for(log, shared=True, flags=os.O_RDONLY):
            size = log.read_bytes().rfind(b"\n") + 1
        yield Source(f"{store.labels.name}/{LOG_FILE}", log, size=size)
    for image in sorted((store.labels / IMAGES).glob("[0-9a-f]" * 64)):
        yield Source(f"{store.labels.name}/{IMAGES}/{image.name}", image, image.name)


def _published(store: Store, scratch: Path, *, tables: bool) -> Iterator[Source]:
    """Yield the ledgers and tables as they are at one moment, linked into a scratch directory."""
    with wait_for(store.workspace(store.plans), flags=os.O_RDONLY):
        paths = [path for commit in store.plans.glob(f"{LEDGERS}/*/*.json") for path in _files_of_ledger(commit)]
        beside = (path for one in read_tables(store) for path in one.files())
        paths += filter(_is_whole_record, beside) if tables else []
        links = [Source(path.relative_to(store.root).as_posix(), _linked(store, path, scratch)) for path in paths]
    yield from links


def _files_of_ledger(commit: Path) -> tuple[Path, ...]:
    """Return the files of a ledger; none if it is damaged, because the next run makes it again."""
    try:
        _, rows = read_ledger(commit)
    except (CorruptArtifactError, FileNotFoundError) as error:
        logger.warning("%s; this ledger is not in the backup", error)
        return ()
    return rows, commit


def _is_whole_record(path: Path) -> bool:
    """Return whether a file is no damaged record; used where the next run makes such a record again."""
    try:
        return path.suffix != ".json" or bool(read_record(path))
    except (CorruptArtifactError, FileNotFoundError) as error:
        logger.warning("%s; this record is not in the backup", error)
        return False


def _linked(store: Store, path: Path, scratch: Path) -> Path:
    target = scratch / path.relative_to(store.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # another file system
        shutil.copy2(path, target)
    return target


def copy_database(database: Path, target: Path) -> Path:
    """Copy a SQLite database that may be in use, as it is at one moment, and return the path of the copy.

    Raises:
        StoreError: if it cannot be copied, or the copy is damaged.
    """
    try:
        with (
            closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
            (answer,) = copy.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        problem = f"the Prefect database could not be copied ({error}); try again, or leave it out with --no-database"
        raise StoreError(f"{database}: {problem}") from error
    if answer != "ok":
        raise StoreError(f"{database}: the Prefect database is damaged ({answer}); leave it out with --no-database")
    return target


def _describe(store: Store, sources: list[Source]) -> dict[str, Any]:
    """Return what the archive says about itself. The champion is that of the records, not a later one."""
    names = [source.name for source in sources]

    def count(start: str, end: str = "") -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in names)

    stack = champion_stack(Registry(store).promotions()[: count("registry/promotions/")])
    return {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "root": os.fspath(store.root),
        "real_root": os.path.realpath(store.root),
        "libraries": library_versions(),
        "champion": stack[-1] if stack else None,
        "versions": count("registry/versions/"),
        "labelled_images": count(f"{store.labels.name}/{IMAGES}/"),
        "ledgers": count("work/", ".json"),
        "tables": count("predictions/", ".summary.json"),
        "database": DATABASE in names,
    }


def _write(archive: ArchiveWriter, sources: list[Source], about: dict[str, Any], progress: Progress) -> None:
    bar = progress.start("Backing up", len(sources))
    for source in sources:
        with source.path.open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size if source.size is None else source.size
            found = archive.add(Member(source.name, size, status.st_mtime), file)
        if source.sha256 not in ("", found):
            raise CorruptArtifactError(
                f"{source.path}: damaged after it was written, so no backup was made; run `digits verify`, which says "
                "what to do"
            )
        bar.advance()
    archive.finish(about)
    bar.close()


def check_archive(path: Path, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Check every hash in a backup, and return what it says about itself, with its list of files.

    Raises:
        UsageError: if it cannot be read, or has another format.
        CorruptArtifactError: if it is damaged.
    """
    with ArchiveReader(path) as archive:
        bar = progress.start("Checking", archive.megabytes)
        for _, content in archive.files():
            for _ in content:
                archive.track(bar)
        archive.close(bar)
    require_format(path, archive.about)
    return archive.about


def require_format(path: Path, about: Mapping[str, Any]) -> None:
    """Check that a backup has the format of this version of Digits.

    Raises:
        UsageError: if it has another one.
    """
    if about.get("format") != FORMAT:
        raise UsageError(
            f"{path}: expected a backup of format {FORMAT}, found {about.get('format')}; use the version of Digits "
            "that made it"
        )

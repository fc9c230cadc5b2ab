"""Restore: put the content of a backup into an artifact root, which may have another path than the one it is from.

An archive is unpacked into `<root>/tmp/`, and checked completely. Only then do its files get their places, the registry
last, so that a root has either no model version or all of them. If a restore is killed, the same command completes it:
files that are already in their places are equal to those of the archive.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits.errors import CorruptArtifactError, StoreError
from digits.maintenance import integrity
from digits.maintenance.archives import ArchiveReader, Member
from digits.maintenance.backup import DATABASE, require_format
from digits.maintenance.locks import wait_for
from digits.maintenance.tables import PublishedTable, read_tables
from digits.outputs.summary import summary_path
from digits.outputs.table_diff import shadow_path
from digits.prediction.incremental import LEDGERS, ledger_directory
from digits.prediction.service import default_table
from digits.progress import SILENT, Progress
from digits.store.artifacts import Store, writing
from digits.store.files import hash_file, replacing
from digits.store.records import Record, read_record, write_record

MAX_BYTES = 100 * 10**9
"""Default limit for the content of a backup, in bytes."""
RESERVE_BYTES = 10**8
"""Space that is left free on the disk."""
_HASH = "[0-9a-f]{64}"
_NAMES = re.compile(
    rf"registry/(versions|promotions|decisions)/\d+\.json|[a-z][a-z-]*/{_HASH}/.+|labels/(log\.jsonl|images/{_HASH})"
    rf"|studies/[^/]+/[^/]+|work/predictions/{LEDGERS}/[0-9a-f]+/{_HASH}\.(json|rows)|predictions/.+|{re.escape(DATABASE)}",
    re.DOTALL,
)
"""Names that a backup can contain."""


@dataclass(frozen=True)
class RestoreResult:
    """Content that was restored.

    Args:
        root: artifact root.
        about: what the archive says about itself.
    """

    root: Path
    about: Record

    def as_record(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        return {"artifacts": str(self.root), **describe(self.about)}


def describe(about: Record) -> dict[str, Any]:
    """Return what a backup says about itself, with the number and size of its files in place of their list."""
    sizes = [entry["bytes"] for entry in about["files"].values()]
    others = {name: value for name, value in about.items() if name not in ("files", "libraries", "format", "real_root")}
    return {**others, "files": len(sizes), "bytes": sum(sizes)}


def restore(
    path: Path,
    store: Store,
    *,
    database: bool = True,
    max_bytes: int = MAX_BYTES,
    progress: Progress = SILENT,
) -> RestoreResult:
    """Restore a backup into an artifact root that has no model versions. No file is overwritten.

    Args:
        path: path of the archive.
        store: artifact store to restore into; its root need not exist.
        database: whether to restore the Prefect database, if the archive has it.
        max_bytes: largest size of the content.
        progress: receiver of the number of files.

    Raises:
        UsageError: if the archive cannot be read, or was made by a later version of Digits.
        CorruptArtifactError: if the archive is damaged. Then nothing was restored.
        StoreError: if the root has model versions, or a file with another content than in the archive, or is full.
    """
    _require_no_versions(store)
    with store.scratch("restore") as scratch:
        staged = Store(scratch)
        about = _unpack(path, staged, max_bytes, progress)
        if not database:
            (staged.root / DATABASE).unlink(missing_ok=True)
        _require_sound(path, staged, progress)
        _relocate(path, staged, about, store)
        units = list(_units(staged))
        _require_no_conflicts(units, staged, store)
        _publish(units, staged, store, progress)
    return RestoreResult(store.root, about)


def _require_no_versions(store: Store) -> None:
    if any(path.is_file() for path in store.registry.rglob("*")):
        raise StoreError(
            f"{store.root}: this artifact root has model versions; restore into an empty one: move it away, or name "
            "another with --artifacts"
        )


def _unpack(path: Path, staged: Store, max_bytes: int, progress: Progress) -> Record:
    """Write the files of an archive below a directory, check them, and return what the archive says about itself."""
    left = max_bytes
    with ArchiveReader(path) as archive, writing(staged.root):
        bar = progress.start("Unpacking", archive.megabytes)
        for member, content in archive.files():
            left -= member.size
            if left < 0:
                raise archive.damage(f"it has more than {max_bytes / 1e9:g} GB; if you trust it, raise --max-gb")
            if not is_allowed(member.name):
                raise archive.damage(f"{member.name!r} is no file of a backup")
            _require_space(staged.root, member)
            _write(staged.root / member.name, member, content)
            archive.track(bar)
        archive.close(bar)
    require_format(path, archive.about)
    return archive.about


def is_allowed(name: str) -> bool:
    """Return whether a backup can contain a file of this name; no other file is written."""
    parts = name.split("/")
    return bool(_NAMES.fullmatch(name)) and "\0" not in name and not {"", ".", ".."} & set(parts)


def _require_space(place: Path, member: Member) -> None:
    free = shutil.disk_usage(place).free - RESERVE_BYTES
    if member.size > free:
        raise StoreError(
            f"{place}: {member.name} needs {member.size:,} bytes, but only {max(free, 0):,} are free; free space, or "
            "choose another root with --artifacts"
        )


def _write(path: Path, member: Member, content: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.writelines(content)
    modified = min(max(member.modified, 0), time.time())
    os.utime(path, (modified, modified))


def _require_sound(path: Path, staged: Store, progress: Progress) -> None:
    found = integrity.verify(staged, progress=progress)
    if found.damaged:
        first = found.damaged[0]
        raise CorruptArtifactError(f"{path}: not an intact backup: {first.path}: {first.problem}; nothing was restored")


@dataclass(frozen=True)
class Root:
    """Artifact root: its path as it was given, and its path without links, under which sources are recorded."""

    path: Path
    real: Path

    def relative(self, path: Path) -> Path | None:
        """Return a path relative to the root; None if it is not below it."""
        return next((path.relative_to(root) for root in (self.path, self.real) if path.is_relative_to(root)), None)


def moved(source: Path, out: Path, old: Root, new: Root) -> tuple[Path, Path]:
    """Return where a source and its table are after the artifact root was moved.

    Args:
        source: folder or archive that was predicted.
        out: table.
        old: artifact root before.
        new: artifact root now.
    """
    inside, table = old.relative(source), old.relative(out)
    place = source if inside is None else new.real / inside
    if inside is not None and out == default_table(Store(old.path), old.path / inside):
        return place, default_table(Store(new.path), new.path / inside)
    return place, out if table is None else new.path / table


def _relocate(path: Path, staged: Store, about: Record, store: Store) -> None:
    """Change what names the old artifact root: summaries, places of default tables, and ledgers."""
    try:
        old = Root(Path(about["root"]), Path(about["real_root"]))
        new = Root(store.root, Path(os.path.realpath(store.root)))
        for table in list(read_tables(staged)):
            _relocate_table(table, staged, old, new)
        for commit in list(staged.plans.glob(f"{LEDGERS}/*/*.json")):
            _relocate_ledger(commit, staged, old, new)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifactError(
            f"{path}: not an intact backup: a record has no {error}; nothing was restored"
        ) from error


def _relocate_table(table: PublishedTable, staged: Store, old: Root, new: Root) -> None:
    source, out = moved(table.source, table.out, old, new)
    if (source, out) == (table.source, table.out):
        return
    record = read_record(summary_path(table.path))
    places: Record = {"source": str(source), "out": str(out)}
    if shadow := record.get("shadow"):
        places["shadow"] = {**shadow, "table": str(shadow_path(out))}
    write_record(summary_path(table.path), {**record, **places})
    before = old.relative(table.out)
    if before and table.path == staged.root / before:
        target = staged.root / out.relative_to(new.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in table.files():
            file.rename(target.with_name(file.name))


def _relocate_ledger(commit: Path, staged: Store, old: Root, new: Root) -> None:
    record = read_record(commit)
    if "source" not in record:  # written by an earlier version, so that the next run does not use it
        return
    before = Path(record["source"]), Path(record["out"])
    source, out = moved(*before, old, new)
    if (source, out) == before:
        return
    write_record(commit, {**record, "source": str(source), "out": str(out)})
    target = ledger_directory(staged.plans, source, out)
    target.mkdir(parents=True, exist_ok=True)
    for file in (commit, commit.with_suffix(".rows")):
        file.rename(target / file.name)


def _units(staged: Store) -> Iterator[Path]:
    """Yield what is moved as a whole, in this order: artifacts, ledgers, single files, and the registry."""
    directories = [*sorted(map(staged.path, staged.refs())), *sorted(staged.plans.glob(f"{LEDGERS}/*"))]
    inside = {path for place in (*directories, staged.registry) for path in place.rglob("*")}
    yield from directories
    yield from sorted(path for path in staged.root.rglob("*") if path.is_file() and path not in inside)
    if staged.registry.exists():
        yield staged.registry


def _require_no_conflicts(units: list[Path], staged: Store, store: Store) -> None:
    for unit in units:
        target = store.root / unit.relative_to(staged.root)
        if unit != staged.registry and target.exists() and not _is_equal(unit, target):
            raise StoreError(
                f"{target}: it exists, and differs from the one in the backup; nothing was restored; move it away, or "
                "restore into an empty root with --artifacts"
            )


def _is_equal(unit: Path, target: Path) -> bool:
    if unit.is_dir():
        return all(_is_equal(file, target / file.name) for file in unit.iterdir())
    return target.is_file() and hash_file(unit) == hash_file(target)


def _publish(units: list[Path], staged: Store, store: Store, progress: Progress) -> None:
    """Move everything to its place, the registry last."""
    bar = progress.start("Restoring", len(units))
    with writing(store.root), wait_for(store.workspace(store.locks) / "registry"):
        _require_no_versions(store)
        if staged.root / DATABASE in units:
            (staged.root / DATABASE).chmod(0o600)
            (store.root / DATABASE).parents[1].mkdir(mode=0o700, exist_ok=True)
        os.sync()  # so that nothing has its name before its content is on the disk
        for unit in units:
            _move(unit, store.root / unit.relative_to(staged.root))
            bar.advance()
        os.sync()
    bar.close()


def _move(unit: Path, target: Path) -> None:
    """Move a file or directory, unless an equal one exists; nothing is overwritten."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if unit.is_file() and not target.exists():
        _link(unit, target)
    elif not target.exists():
        unit.rename(target)


def _link(unit: Path, target: Path) -> None:
    """Link a file to its place, which does not replace another one; copy it if that is on another file system."""
    try:
        target.hardlink_to(unit)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as copy, unit.open("rb") as file:
            shutil.copyfileobj(file, copy)
        shutil.copystat(unit, target)

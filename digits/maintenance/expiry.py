"""Expiry: removal of old prediction tables, and of predicted images of the inbox. Both are options.

A table is removed with its ledgers and the files beside it, if it is still what Digits wrote, where Digits wrote it,
and no existing folder is predicted incrementally into it.

An image of the inbox is removed if it is unchanged since the published table got its row. The next run removes the row
from the table, as it does for each file that is gone. So the row is first copied to a table beside it, one per day:
`predictions.removed-2026-11-28.csv`. If a removal is interrupted, the next one completes it before it begins another.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from digits.errors import CorruptArtifactError
from digits.maintenance.locks import wait_for
from digits.maintenance.tables import PublishedTable, read_table_of, summaries
from digits.outputs.summary import removed_rows_path, removed_rows_paths
from digits.outputs.table import ROWS_AT_ONCE, TableFile, read_table
from digits.prediction.incremental import KEEP, LEDGERS, Ledger, LedgerLine, ledger_directory, read_ledger
from digits.prediction.own_files import OwnFiles
from digits.prediction.service import inbox_lock
from digits.store.artifacts import Store
from digits.store.files import hash_file, replacing

Key = tuple[str, str]
"""Path of a file as in a table, and the SHA-256 of its content."""


def remove_old_tables(store: Store, oldest: float) -> Iterator[tuple[Path, int]]:
    """Remove the tables that were last written before a time, and yield each removed file with its size.

    Args:
        store: artifact store.
        oldest: time in seconds since the epoch.
    """
    for summary in list(summaries(store)):
        with suppress(CorruptArtifactError, FileNotFoundError):  # `digits verify` reports the damage
            table = read_table_of(summary)
            if _is_removable(store, table, oldest):
                yield from _remove_table(store, table, oldest)


def _is_removable(store: Store, table: PublishedTable, oldest: float) -> bool:
    in_place = table.out == table.path and _last_change(table) < oldest
    return in_place and not _is_updated(store, table) and _is_unedited(store, table)


def _last_change(table: PublishedTable) -> float:
    return max(path.stat().st_mtime for path in table.files())


def _is_updated(store: Store, table: PublishedTable) -> bool:
    """Return whether incremental runs update the table: it has a ledger, and its source exists."""
    return any(ledger_directory(store.plans, table.source, table.out).glob("*.json")) and table.source.exists()


def _is_unedited(store: Store, table: PublishedTable) -> bool:
    """Return whether Digits wrote the table as it is, or an interrupted removal has removed it."""
    files = OwnFiles(table.path, ledger_directory(store.plans, table.source, table.out))
    return not table.path.exists() or table.path.name in files.hashes


def _remove_table(store: Store, table: PublishedTable, oldest: float) -> Iterator[tuple[Path, int]]:
    """Remove a table, its summary last, so that an interrupted removal is completed by the next."""
    with wait_for(store.workspace(store.plans), flags=os.O_RDONLY):
        if _last_change(table) >= oldest:  # a run has just written it again
            return
        ledgers = ledger_directory(store.plans, table.source, table.out)
        for path in [*ledgers.glob("*"), *table.files()]:
            size = path.stat().st_size
            path.unlink()
            yield path, size
        for directory in (ledgers, table.path.parent):
            with suppress(OSError):  # it has other files, or does not exist
                directory.rmdir()


def remove_predicted_images(store: Store, oldest: float, *, today: str = "") -> Iterator[tuple[Path, int]]:
    """Remove the images of the inbox that arrived before a time and are in its table, and yield each with its size.

    Nothing is done while a run predicts the inbox.

    Args:
        store: artifact store.
        oldest: time in seconds since the epoch.
        today: date for the name of the table of removed rows; empty for the present date.
    """
    if not store.inbox.is_dir():
        return
    with inbox_lock(store, store.inbox) as free:
        tables = _tables_of_inbox(store) if free else {}
        due = [_due_rows(ledger, store.inbox, oldest) for ledger in tables.values()]
        common = {key for key in (due[0] if due else {}) if all(key in rows for rows in due)}
        kept = [
            _keep_rows(out, {key: rows[key] for key in common}, today or f"{datetime.now(UTC):%Y-%m-%d}")
            for out, rows in zip(tables, due, strict=True)
        ]
        for key in sorted(common):
            if all(key in keys for keys in kept):
                path = store.inbox / os.fsdecode(due[0][key].entry.path)
                with suppress(FileNotFoundError):
                    path.unlink()
                    yield path, due[0][key].entry.size


def _tables_of_inbox(store: Store) -> dict[Path, Ledger]:
    """Return the published tables of the inbox with their ledgers; a table that was edited has none."""
    found = {}
    for commit in store.plans.glob(f"{LEDGERS}/*/*.json"):
        with suppress(CorruptArtifactError, FileNotFoundError):
            record, rows = read_ledger(commit)
            out = Path(record.get("out", ""))
            if record.get("source") == os.path.realpath(store.inbox) and hash_file(out) == commit.stem:
                found[out] = Ledger(rows, record["least_certain"], record["plan"], record["recipe"])
    return found


def _due_rows(ledger: Ledger, folder: Path, oldest: float) -> dict[Key, LedgerLine]:
    """Return the rows whose file is unchanged since they were predicted and arrived before a time."""
    rows = {}
    for line in ledger.lines():
        if line.mark == KEEP and _is_due(line, folder, oldest):
            first = line.rows[0]
            rows[first["path"], first["sha256"]] = line
    return rows


def _is_due(line: LedgerLine, folder: Path, oldest: float) -> bool:
    entry = line.entry
    path = folder / os.fsdecode(entry.path)
    try:
        found = path.lstat()
        if path.parent.resolve() != folder.resolve() / path.parent.relative_to(folder):
            return False  # a link leads to the file, which may be anywhere
    except OSError:
        return False
    is_same = (found.st_size, found.st_mtime_ns, found.st_ino) == (entry.size, entry.mtime_ns, entry.inode)
    return is_same and max(found.st_mtime, found.st_ctime) < oldest


def _keep_rows(out: Path, rows: Mapping[Key, LedgerLine], today: str) -> set[Key]:
    """Copy rows to the table of removed rows of today, unless it exists; return the keys of the rows that are kept."""
    written = max(removed_rows_paths(out), default=None)
    kept = {(row["path"], row["sha256"]) for row in read_table(written)} & rows.keys() if written else set()
    new = [row for key in sorted(rows.keys() - kept) for row in rows[key].rows]
    target = removed_rows_path(out, today)
    if not new or target.exists():
        return kept
    table = TableFile.open(out)
    columns, form = table.columns, table.format
    parts = (new[start : start + ROWS_AT_ONCE] for start in range(0, len(new), ROWS_AT_ONCE))
    with replacing(target) as file:
        form.join((form.encode([tuple(row.values()) for row in part], columns) for part in parts), columns, file)
    return set(rows)

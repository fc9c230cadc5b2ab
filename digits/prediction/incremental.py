"""Incremental prediction: reuse of rows of an earlier table, and replacement of the rows of one model version.

An incremental run leaves a ledger, from which the next run knows what has changed. A ledger belongs to one table and
is named after the table's SHA-256. Each pair of source and table has its own directory of ledgers:

    HASH.rows       for each file of the table, in order: a mark, the listing's record, NUL, its rows as JSON lines, NUL
    HASH.json       the commit record: a sealed record (`digits.store.records`) with the hash of HASH.rows, and the
                    paths of source and table; the ledger is committed when this file exists

The ledger is committed just before its table replaces the previous one. After a kill between the two, or before the
previous ledger is removed, there are two ledgers, and one of them matches the table. If none matches, another program
has changed the table.

The mark of a file states whether the next run may reuse its rows:

    =   reuse the rows if the listing's record of the file is unchanged
    ?   compare the content of the file first: it had just been written when it was listed, so a later write may have
        left the modification time unchanged
    !   predict the file again: a status may be transient
"""

import hashlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import CorruptArtifactError, UsageError
from digits.images.decode import DecodeError
from digits.images.file_list import FileList
from digits.images.folder import MISSING_SIZE, DirectoryReader, Entry, LinkRule, unescape_path, update_escape
from digits.images.source import Source
from digits.model.onnx_model import OnnxModel
from digits.outputs.skipped import describe_skipped
from digits.outputs.summary import removed_rows_paths
from digits.outputs.table import PAGE, TableFile, columns_of, read_table
from digits.prediction.plan import KNOWN_FILE, FormerRows, IncrementalRows, Plan, decode_entry, encode_entry
from digits.store.files import hash_file, sync_directory
from digits.store.records import Record, digest_of, read_record, write_record

SLOWEST_CLOCK_NS = 2_000_000_000
"""Coarsest resolution of modification times on the supported file systems, in nanoseconds."""

LEDGERS = "ledgers"
"""Name of the directory of the ledgers, next to the plans."""
TRANSIENT_STATUSES = frozenset({"denied", "vanished", "changed", "timeout", "crashed"})
"""Statuses of images that the next incremental run predicts again."""
KEEP, _COMPARE, _RETRY = b"=", b"?", b"!"
"""Marks of a ledger's lines; see the docstring of the module."""
MIN_KNOWN_ROWS = 20
"""Smallest number of rows of a table of which an incremental run drops no more than half."""
_FIRST_ROWS = b'"page": null}', b'"page": 1}'
"""Ends of the first row of a file as JSON: the only row, or that of the first page."""
_ONLY = b"?"
"""Mark of a file of known rows, before the numbers of the pages whose rows are predicted."""
CHUNK_BYTES = 2**20
"""Number of bytes of a ledger that are read at once."""
logger = logging.getLogger(__name__)


class LedgerLine(NamedTuple):
    """Line of a ledger: the mark, the listing's record with its NUL, and the rows of the file as JSON lines."""

    mark: bytes
    record: bytes
    text: bytes

    @property
    def rows(self) -> list[Record]:
        """Rows of the file: one, or one per page."""
        return list(map(json.loads, self.text.splitlines()))

    @property
    def entry(self) -> Entry:
        """Entry that the record describes."""
        return decode_entry(self.record[:-1])


@dataclass(frozen=True)
class Ledger:
    """Ledger that matches its table.

    Args:
        path: path of its file `HASH.rows`.
        least_certain: least certain images of the table, with their pixels, as in a shard's commit record.
        plan: digest of the plan of the table.
        recipe: digest of model, options and code.
    """

    path: Path
    least_certain: Sequence[Record]
    plan: str
    recipe: str

    def lines(self) -> Iterator[LedgerLine]:
        """Yield the lines in the order of the table."""
        with self.path.open("rb") as file:
            for marked, text in _pairs(file):
                yield LedgerLine(marked[:1], marked[1:] + b"\0", text)


def _pairs(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield consecutive pairs of strings that end with NUL."""
    rest = b""
    while chunk := file.read(CHUNK_BYTES):
        *parts, rest = (rest + chunk).split(b"\0")
        if len(parts) % 2:
            rest = parts.pop() + b"\0" + rest
        yield from zip(parts[::2], parts[1::2], strict=True)


def ledger_directory(work: Path, source: Path, out: Path) -> Path:
    """Return the directory of the ledgers of a table, below the directory of the plans."""
    return work / LEDGERS / digest_of([os.fsdecode(source), os.fsdecode(out)])[:32]


def find_ledger(directory: Path, table: Path) -> Ledger | None:
    """Return the ledger that matches a table; None if there is none.

    Args:
        directory: directory from `ledger_directory`.
        table: path of the table. If ledgers exist but none matches the table, a warning is logged.
    """
    if not any(directory.glob("*.json")):
        return None
    try:
        place = directory / hash_file(table)
        record, rows = read_ledger(place.with_suffix(".json"))
    except FileNotFoundError:
        logger.warning("%s: not the table that the last incremental run wrote; all images are predicted again", table)
        return None
    except CorruptArtifactError as error:
        logger.warning("%s; all images are predicted again", error)
        return None
    return Ledger(rows, record["least_certain"], record["plan"], record["recipe"])


def read_ledger(commit: Path) -> tuple[Record, Path]:
    """Return the commit record of a ledger, and the path of the file with its rows.

    Args:
        commit: path of the commit record.

    Raises:
        CorruptArtifactError: if either file is damaged.
        FileNotFoundError: if either file is missing.
    """
    record = read_record(commit)
    return record, _verified(commit.with_suffix(".rows"), record["sha256"])


def _verified(path: Path, digest: str) -> Path:
    if hash_file(path) != digest:
        raise CorruptArtifactError(f"{path}: damaged after it was written")
    return path


class RowReuse:
    """Reuse of rows: divides a listing into files whose row is known from the last run, and files to predict.

    Args:
        path: file of known rows to write. For each file of the listing it has the listing's record, NUL, its rows as
            JSON lines or nothing if they are not known, NUL.
        ledger: ledger of the last run, if any.
        source: folder or archive from which contents are read to compare them.
        max_bytes: largest size of a file to compare; larger files are predicted.
        verify: whether to compare the contents of all files, not only of those whose record or mark requires it.
    """

    def __init__(
        self, path: Path, ledger: Ledger | None, source: Source, *, max_bytes: int, verify: bool = False
    ) -> None:
        self._path, self._source, self._max_bytes, self._verify = path, source, max_bytes, verify
        self._lines = self._count(ledger.lines()) if ledger else iter(())
        self.rows = self.unchanged = self.bytes = self.known = 0
        self.settled = ledger is not None
        """Whether no file is new, changed or gone, so that the new table and ledger would equal the existing ones."""

    def entries_to_predict(self, entries: Iterable[Entry]) -> Generator[Entry, None, None]:
        """Write the file of known rows, and yield the entries to predict.

        The caller closes the generator, since closing the file may fail.

        Args:
            entries: entries of the listing, sorted by path like the lines of the ledger.
        """
        line = next(self._lines, None)
        with self._path.open("wb") as file:
            for entry in entries:
                record, rows = encode_entry(entry), b""
                while line and line.record != record and line.entry.path < entry.path:
                    self.settled, line = False, next(self._lines, None)
                if line and (line.record == record or line.entry.path == entry.path):
                    rows = self._known_rows(line, entry, record)
                    self.settled &= line.mark == KEEP and line.record == record
                    line = next(self._lines, None)
                file.write(record + rows + b"\0")
                self.rows += 1
                self.bytes += max(entry.size, 0)
                self.unchanged += len(rows.splitlines())
                if not rows:
                    self.settled = False
                    yield entry
            self.settled &= line is None
            deque(self._lines, maxlen=0)
            file.flush()
            os.fsync(file.fileno())

    def _count(self, lines: Iterator[LedgerLine]) -> Iterator[LedgerLine]:
        for line in lines:
            self.known += len(line.text.splitlines())
            yield line

    def _known_rows(self, line: LedgerLine, entry: Entry, record: bytes) -> bytes:
        """Return the rows of a file if the file is unchanged; empty bytes otherwise."""
        if line.mark == KEEP and line.record == record and not self._verify:
            return line.text
        if line.mark == _RETRY or line.entry.size != entry.size:
            return b""
        try:
            content = self._source.read(entry, max_bytes=self._max_bytes)
        except DecodeError:
            return b""
        same: bool = hashlib.sha256(content).hexdigest() == line.rows[0]["sha256"]
        return line.text if same else b""


def require_rows_kept(
    table: Path, ledger: Ledger | None, paths: Iterable[bytes], source: Path, skipped: Mapping[str, int]
) -> None:
    """Check that a run does not drop most rows of a table, as it would for a folder that is not mounted.

    Rows whose images the janitor has removed do not count: they are in a table of removed rows.

    Args:
        table: path of the table.
        ledger: ledger of the table; without one, the rows are read from the table, if it exists.
        paths: paths of the files that the run has found.
        source: folder or archive, for the message.
        skipped: number of skipped files by reason, for the message.

    Raises:
        UsageError: if the rows that would be dropped are too many, see `drops_too_many`.
    """
    found = _digests(paths)
    known, gone = _count_gone(_last_rows(table, ledger), found)
    if drops_too_many(known, gone, found.size):
        removed = {(row["path"], row["sha256"]) for path in removed_rows_paths(table) for row in read_table(path)}
        rows = (row for row in _last_rows(table, ledger) if (row["path"], row["sha256"]) not in removed)
        known, gone = _count_gone(rows, found)
    if drops_too_many(known, gone, found.size):
        others = f" (found: {describe_skipped(skipped)})" if any(skipped.values()) else ""
        raise UsageError(
            f"{source}: {gone:,} of the {known:,} images in {table} are gone, so their rows were not dropped and the "
            f"table was kept; check that the folder is mounted and complete{others}, or drop the rows with --force "
            "(`force` among the options of a deployment)"
        )


def drops_too_many(known: int, gone: int, found: int) -> bool:
    """Return whether a run drops more rows than usual: all of them, or more than half if they are not few.

    A run that finds files may drop all rows if they are few.

    Args:
        known: number of rows of the table.
        gone: number of those whose file is gone.
        found: number of files that the run has found.
    """
    return gone > 0 and (not found or (known >= MIN_KNOWN_ROWS and 2 * gone > known))


def _last_rows(table: Path, ledger: Ledger | None) -> Iterator[Record]:
    """Yield the rows of the last table, except those of files that were already missing."""
    if ledger:
        rows: Iterator[Record] = (row for line in ledger.lines() for row in line.rows)
    else:
        rows = read_table(table) if table.exists() else iter(())
    return (row for row in rows if row["status"] != "vanished")


def found_paths(listed: Path) -> Iterator[bytes]:
    """Yield the paths of the files that were found, from the file of known rows that `RowReuse` has written."""
    with listed.open("rb") as file:
        entries = (decode_entry(record) for record, _ in _pairs(file))
        yield from (entry.path for entry in entries if entry.size != MISSING_SIZE)


def _count_gone(rows: Iterable[Record], found: npt.NDArray[np.uint64]) -> tuple[int, int]:
    """Return the number of rows, and of those whose file is not found."""
    known = _digests(unescape_path(row["path"]) for row in rows)
    return known.size, known.size - int(np.isin(known, found).sum())


def _digests(paths: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """Return a digest of 8 bytes per path, which needs less memory than the paths."""
    numbers = (int.from_bytes(hashlib.blake2b(path, digest_size=8).digest()) for path in paths)
    return np.fromiter(numbers, np.uint64)


def merged_rows(plan: Plan, former: FormerRows, parts: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield the rows of each file of a plan's table, known or predicted: the listing's record, and each row as JSON.

    Args:
        plan: plan of the table.
        former: summary of the rows that are kept.
        parts: contents of the part files: predicted rows as JSON lines.

    Raises:
        CorruptArtifactError: if the file of known rows is damaged.
    """
    known = _verified(plan.path / KNOWN_FILE, former.sha256)
    predicted = _by_file(line for part in parts for line in part.splitlines())
    with known.open("rb") as file:
        for record, text in _pairs(file):
            if text[:1] in (b"", _ONLY):
                yield record, _chosen(next(predicted), text[1:])
            else:
                yield record, text.splitlines()


def _by_file(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the rows of each file together, from rows as JSON in the order of the files and their pages."""
    file: list[bytes] = []
    for row in rows:
        if file and row.endswith(_FIRST_ROWS):
            yield file
            file = []
        file.append(row)
    if file:
        yield file


def _chosen(rows: list[bytes], pages: bytes) -> list[bytes]:
    """Return the rows of some pages of a file, in their order; all rows if no page is named or the file has one row."""
    if not pages or rows[0].endswith(_FIRST_ROWS[0]):
        return rows
    by_page = {row[row.rindex(b" ") + 1 : -1]: row for row in rows}
    return [by_page[page] for page in pages.split() if page in by_page]


class NewLedger:
    """Ledger of a table that is being written.

    Args:
        plan: plan of an incremental run.
        former: summary of the rows that are reused.
    """

    def __init__(self, plan: Plan, former: IncrementalRows) -> None:
        self._plan, self._former = plan, former
        self._rows = plan.path / "rows"

    def merged_rows(self, parts: Iterable[bytes]) -> Generator[list[Record], None, None]:
        """Yield the rows of each file of the table in order, and write them to the ledger.

        The caller closes the generator, since closing the file may fail.

        Args:
            parts: contents of the part files: predicted rows as JSON lines.

        Raises:
            CorruptArtifactError: if the file of known rows is damaged.
        """
        with self._rows.open("wb") as rows:
            for record, texts in merged_rows(self._plan, self._former, parts):
                values = list(map(json.loads, texts))
                rows.write(b"%b%b\0%b\0" % (self._mark(record, values), record, b"\n".join(texts)))
                yield values
            rows.flush()
            os.fsync(rows.fileno())

    def _mark(self, record: bytes, rows: Sequence[Record]) -> bytes:
        if any(_is_transient(row) for row in rows):
            return _RETRY
        archive = self._plan.archive
        modified = archive[1] if archive else int(record.split(b" ", 2)[1])
        return KEEP if modified < self._former.listed_at - SLOWEST_CLOCK_NS else _COMPARE

    def commit(self, table: str, least_certain: Sequence[Record]) -> None:
        """Commit the ledger.

        Args:
            table: SHA-256 of the table.
            least_certain: least certain images of the table, with their pixels, as in a shard's commit record.
        """
        directory = self._former.directory
        directory.mkdir(parents=True, exist_ok=True)
        rows = directory / f"{table}.rows"
        digest = hash_file(self._rows)
        self._rows.rename(rows)
        sync_directory(directory)
        about = {"plan": self._plan.digest, "recipe": self._former.recipe, "least_certain": list(least_certain)}
        places = {"source": str(self._plan.source), "out": str(self._plan.out)}
        write_record(directory / f"{table}.json", {"sha256": digest, **about, **places})

    def remove_others(self, table: str) -> None:
        """Remove the ledgers of all tables but the one with this SHA-256."""
        for path in self._former.directory.iterdir():
            if path.stem != table:
                with suppress(FileNotFoundError):
                    path.unlink()


def _is_transient(row: Record) -> bool:
    return row["status"] in TRANSIENT_STATUSES or (row["status"] == "unreadable" and row["sha256"] is None)


def open_replaceable_table(path: Path, version: int, model: OnnxModel) -> TableFile:
    """Open the table in which the rows of one model version are replaced.

    Args:
        path: path of the table.
        version: number of the model version that wrote the rows.
        model: exported model that predicts them again.

    Raises:
        UsageError: if the table is missing or was edited, if that version wrote none of its rows, or if the model has
            other classes than the table.
    """
    table = TableFile.open(path)
    table.require_unedited()
    wrote = Counter(row["model_version"] for row in table.rows())
    if version not in wrote:
        known = ", ".join(f"{count:,} by version {number}" for number, count in sorted(wrote.items()))
        raise UsageError(
            f"{path}: version {version} wrote no row of this table; found {known or 'no rows'}; name another version"
        )
    columns = columns_of(classes=len(model.class_names), probabilities=table.probabilities, top_k=table.top_k)
    if table.columns not in (columns, columns[:-1]):
        raise UsageError(
            f"{path}: the columns of the table do not fit the {len(model.class_names)} classes of version "
            f"{model.version}; predict the folder again without replace_version"
        )
    return table


def _only(pages: Sequence[int | None]) -> bytes:
    """Return the mark of a file of which only some pages are replaced; nothing for a file with one row."""
    numbers = [page for page in pages if page is not None]
    return _ONLY + b" ".join(b"%d" % number for number in numbers) if numbers else b""


class Replacement:
    """Replacement of rows: divides a table into rows that are kept, and files to predict again.

    A file that no longer exists, or that the listing of a folder would skip, is listed as missing. Its row gets the
    status `vanished`. Consecutive rows of one file are replaced together, each by the row of the same page.

    Args:
        path: file of known rows to write, in the format of `RowReuse`. A row that is kept has an empty record. A file
            to predict again has its record and no row, or `_ONLY` and the numbers of the pages whose rows are replaced.
        table: table from `open_replaceable_table`.
        version: number of the model version whose rows are replaced.
        place: folder or archive of the images.
        members: entries of the archive by path; None for a folder.
        links: links in the folder to follow.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - where the rows are, and where the images are
        self,
        path: Path,
        table: TableFile,
        version: int,
        place: Path,
        members: Mapping[bytes, Entry] | None,
        links: LinkRule = "no",
    ) -> None:
        self._path, self._table, self._version, self._place, self._members = path, table, version, place, members
        self._links = links
        self.rows = self.kept = 0

    def entries_to_predict(self) -> Generator[Entry, None, None]:
        """Write the file of kept rows, and yield the entries to predict in the order of the table.

        The caller closes the generator, since closing the file may fail.

        Raises:
            UsageError: if none of the files exists.
        """
        reader: AbstractContextManager[DirectoryReader | None] = (
            nullcontext() if self._members is not None else DirectoryReader(self._place, self._links)
        )
        files = FileList(self._place, (), links=self._links)
        with reader as opened, self._path.open("wb") as file:
            listed = missing = 0
            for path, rows in groupby(self._table.rows(), self._path_to_replace):
                if path is None:
                    file.writelines(map(self._kept, rows))
                    continue
                pages = [row.get("page") for row in rows]
                entry = self._entry(unescape_path(path), files, opened)
                self.rows += len(pages)
                listed, missing = listed + 1, missing + (entry.size == MISSING_SIZE)
                file.write(encode_entry(entry) + _only(pages) + b"\0")
                yield entry
            file.flush()
            os.fsync(file.fileno())
        if missing == listed:
            raise UsageError(
                f"{self._table.path}: none of the {missing:,} files that version {self._version} predicted is in "
                f"{self._place}; expected the folder from which this table was predicted"
            )

    def _path_to_replace(self, row: Record) -> str | None:
        """Return the path of a row that is replaced, None for a row that is kept."""
        return str(row["path"]) if row["model_version"] == self._version else None

    def _kept(self, row: Record) -> bytes:
        """Return the record of a row that is kept. A row of an old table gets an empty page."""
        self.rows += 1
        self.kept += 1
        row["path"] = update_escape(row["path"])
        row.setdefault(PAGE.name, None)
        return b"\0" + json.dumps(row, ensure_ascii=False).encode() + b"\0"

    def _entry(self, path: bytes, files: FileList, reader: DirectoryReader | None) -> Entry:
        if self._members is not None or reader is None:
            return (self._members or {}).get(path, Entry(path, MISSING_SIZE, 0, 0))
        return files.entry(reader, path)

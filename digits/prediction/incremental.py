"""Ledgers: what an incremental run left behind for the next one, so that only what changed is predicted again.

A ledger belongs to one table, whose hash is its name, in a directory for each pair of source and table:

    HASH.rows       for each row a mark and the listing's record, NUL, the row as JSON, NUL; in the table's order
    HASH.json       a sealed record with the hash of that file: its presence commits the ledger

It is committed just before its table takes the former one's place. Killed in between, or after it, there are two
ledgers, and one of them fits the table. A table that none fits was changed by somebody else.

Marks: `=` the row holds as long as the record does; `?` the file was so young when it was listed that it could have
been written to again without its modification time showing it, so its content must be compared; `!` try again.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from digits.errors import CorruptArtifactError, UsageError
from digits.images.decode import DecodeError
from digits.images.file_list import FileList
from digits.images.folder import MISSING_SIZE, DirectoryReader, Entry, unescape_path
from digits.images.source import Source
from digits.model.onnx_model import ModelFiles
from digits.outputs.table import TableFile, columns_of
from digits.prediction.plan import KNOWN_FILE, FormerRows, IncrementalRows, Plan, decode_entry, encode_entry
from digits.store.files import hash_file, sync_directory
from digits.store.records import Record, digest_of, read_record, write_record

SLOWEST_CLOCK_NS = 2_000_000_000
"""File systems keep modification times in steps of at most this."""

LEDGERS = "ledgers"
"""The directory of ledgers among the plans."""
TRANSIENT_STATUSES = frozenset({"denied", "vanished", "changed", "timeout", "crashed"})
_KEEP, _COMPARE, _RETRY = b"=", b"?", b"!"
_CHUNK = 2**20
logger = logging.getLogger(__name__)


class LedgerLine(NamedTuple):
    """A row of a former table: a mark, what was listed (with NUL at its end), and the row as JSON."""

    mark: bytes
    record: bytes
    row: bytes

    @property
    def entry(self) -> Entry:
        """What was listed."""
        return decode_entry(self.record[:-1])


@dataclass(frozen=True)
class Ledger:
    """A ledger that fits its table.

    Args:
        path: its rows.
        least_certain: those images of the table, with pixels, as in a shard's seal.
        plan: the digest of the plan that the table is of.
    """

    path: Path
    least_certain: Sequence[Record]
    plan: str

    def lines(self) -> Iterator[LedgerLine]:
        """Give the rows."""
        with self.path.open("rb") as file:
            for marked, row in _pairs(file):
                yield LedgerLine(marked[:1], marked[1:] + b"\0", row)


def _pairs(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Read what is ended by NUL, two at a time."""
    rest = b""
    while chunk := file.read(_CHUNK):
        *parts, rest = (rest + chunk).split(b"\0")
        if len(parts) % 2:
            rest = parts.pop() + b"\0" + rest
        yield from zip(parts[::2], parts[1::2], strict=True)


def ledger_directory(work: Path, source: Path, out: Path) -> Path:
    """Say where the ledgers of a table are."""
    return work / LEDGERS / digest_of([os.fsdecode(source), os.fsdecode(out)])[:32]


def find_ledger(directory: Path, table: Path, *, recipe: str) -> Ledger | None:
    """Find the ledger that fits a table, if its rows are still what would be predicted.

    Args:
        directory: from `ledger_directory`.
        table: is hashed; when no ledger fits it although there are some, that is warned of.
        recipe: digest of model, options and code.
    """
    if not any(directory.glob("*.json")):
        return None
    try:
        place = directory / hash_file(table)
        record, rows = read_ledger(place.with_suffix(".json"))
    except FileNotFoundError:
        logger.warning("%s: not the table that the last incremental run wrote; all is predicted again", table)
        return None
    except CorruptArtifactError as error:
        logger.warning("%s; all is predicted again", error)
        return None
    if record["recipe"] != recipe:
        logger.info("%s: the model, an option or the code is another one; all is predicted again", table)
        return None
    return Ledger(rows, record["least_certain"], record["plan"])


def read_ledger(seal: Path) -> tuple[Record, Path]:
    """Give the record of a ledger and the file of its rows.

    Raises:
        CorruptArtifactError: one of them was damaged.
        FileNotFoundError: one of them is missing.
    """
    record = read_record(seal)
    return record, _verified(seal.with_suffix(".rows"), record["sha256"])


def _verified(path: Path, digest: str) -> Path:
    if hash_file(path) != digest:
        raise CorruptArtifactError(f"{path}: damaged after it was written")
    return path


class RowReuse:
    """Parts what is listed into what is known from the last run, and what must be predicted.

    Args:
        path: a file to write: for each file of the listing its record, NUL, the row that is known or nothing, NUL.
        ledger: of the last run, if there is one.
        source: to compare contents.
        max_bytes: files with more are not compared.
        verify: compare all contents, not only where record and mark ask for it.
    """

    def __init__(
        self, path: Path, ledger: Ledger | None, source: Source, *, max_bytes: int, verify: bool = False
    ) -> None:
        self._path, self._source, self._max_bytes, self._verify = path, source, max_bytes, verify
        self._lines = ledger.lines() if ledger else iter(())
        self.rows = self.unchanged = self.bytes = 0
        self.settled = ledger is not None
        """Whether the table and its ledger would come out as they are: nothing is new, has changed or has gone."""

    def entries_to_predict(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Write the file, and give the files that must be predicted; the listing and the ledger are by path."""
        line = next(self._lines, None)
        with self._path.open("wb") as file:
            for entry in entries:
                record, row = encode_entry(entry), b""
                while line and line.record != record and line.entry.path < entry.path:
                    self.settled, line = False, next(self._lines, None)
                if line and (line.record == record or line.entry.path == entry.path):
                    row = self._row(line, entry, record)
                    self.settled &= line.mark == _KEEP and line.record == record
                    line = next(self._lines, None)
                file.write(record + row + b"\0")
                self.rows += 1
                self.bytes += max(entry.size, 0)
                self.unchanged += bool(row)
                if not row:
                    self.settled = False
                    yield entry
            self.settled &= line is None
            file.flush()
            os.fsync(file.fileno())

    def _row(self, line: LedgerLine, entry: Entry, record: bytes) -> bytes:
        """Give the row of a file that is unchanged, else nothing."""
        if line.mark == _KEEP and line.record == record and not self._verify:
            return line.row
        if line.mark == _RETRY or line.entry.size != entry.size:
            return b""
        try:
            content = self._source.read(entry, max_bytes=self._max_bytes)
        except DecodeError:
            return b""
        same: bool = hashlib.sha256(content).hexdigest() == json.loads(line.row)["sha256"]
        return line.row if same else b""


def merged_rows(plan: Plan, former: FormerRows, parts: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Give what was listed and the row, as JSON, of each row of a plan's table: those that are known, those predicted.

    Args:
        plan: whose parts these are.
        former: its rows that are known.
        parts: the rows that were predicted, as JSON lines.

    Raises:
        CorruptArtifactError: what was known was damaged since the plan was made.
    """
    known = _verified(plan.path / KNOWN_FILE, former.sha256)
    fresh = (line for part in parts for line in part.splitlines())
    with known.open("rb") as file:
        for record, row in _pairs(file):
            yield record, row or next(fresh)


class NewLedger:
    """The ledger of the table that a plan is merged into, while it is written.

    Args:
        plan: of an incremental run.
        former: its rows that are known.
    """

    def __init__(self, plan: Plan, former: IncrementalRows) -> None:
        self._plan, self._former = plan, former
        self._rows = plan.path / "rows"

    def merged(self, parts: Iterable[bytes]) -> Iterator[Record]:
        """Give all rows of the table in order, and keep them for the ledger.

        Args:
            parts: the rows that were predicted, as JSON lines.

        Raises:
            CorruptArtifactError: what was known was damaged since the plan was made.
        """
        with self._rows.open("wb") as rows:
            for record, text in merged_rows(self._plan, self._former, parts):
                values = json.loads(text)
                rows.write(b"%b%b\0%b\0" % (self._mark(record, values), record, text))
                yield values
            rows.flush()
            os.fsync(rows.fileno())

    def _mark(self, record: bytes, values: Record) -> bytes:
        status = values["status"]
        if status in TRANSIENT_STATUSES or (status == "unreadable" and values["sha256"] is None):
            return _RETRY
        archive = self._plan.archive
        written = archive[1] if archive else int(record.split(b" ", 2)[1])
        return _KEEP if written < self._former.listed_at - SLOWEST_CLOCK_NS else _COMPARE

    def commit(self, table: str, least_certain: Sequence[Record]) -> None:
        """Have the ledger fit the table of this hash."""
        directory = self._former.directory
        directory.mkdir(parents=True, exist_ok=True)
        rows = directory / f"{table}.rows"
        digest = hash_file(self._rows)
        self._rows.rename(rows)
        sync_directory(directory)
        about = {"plan": self._plan.digest, "recipe": self._former.recipe, "least_certain": list(least_certain)}
        write_record(directory / f"{table}.json", {"sha256": digest, **about})

    def forget_others(self, table: str) -> None:
        """Remove the ledgers of former tables."""
        for path in self._former.directory.iterdir():
            if path.stem != table:
                with suppress(FileNotFoundError):
                    path.unlink()


def open_replaceable_table(path: Path, version: int, model: ModelFiles) -> TableFile:
    """Find the table of which rows are to be replaced.

    Args:
        path: the table.
        version: of the model that wrote the rows.
        model: that will predict them.

    Raises:
        UsageError: there is no such table, it is not as it was written, has no such row, or other classes.
    """
    table = TableFile.open(path)
    table.require_unedited()
    wrote = Counter(row["model_version"] for row in table.rows())
    if version not in wrote:
        known = ", ".join(f"{count:,} by version {number}" for number, count in sorted(wrote.items()))
        raise UsageError(f"{path}: version {version} wrote no row of this table; its rows are {known or 'none'}")
    columns = columns_of(classes=len(model.class_names), probabilities=table.probabilities, top_k=table.top_k)
    if columns != table.columns:
        raise UsageError(
            f"{path}: the table has columns for other classes than the {len(model.class_names)} of version "
            f"{model.version}; predict the folder anew"
        )
    return table


class Replacement:
    """Parts a table into rows that stay and files that must be predicted; see `digits.prediction.incremental.RowReuse`.

    Args:
        path: a file to write: for each row an empty record, NUL, the row as JSON, NUL; for a row that is replaced the
            listing's record, NUL, nothing, NUL.
        table: from `open_replaceable_table`.
        version: whose rows are replaced.
        place: the folder, or the archive.
        members: what is in the archive; None for a folder.

    A file that is gone, or that no folder's listing would have, is listed as missing: its row becomes `vanished`.
    """

    def __init__(
        self, path: Path, table: TableFile, version: int, place: Path, members: Mapping[bytes, Entry] | None
    ) -> None:
        self._path, self._table, self._version, self._place, self._members = path, table, version, place, members
        self.rows = self.kept = self.missing = 0

    def entries_to_predict(self) -> Iterator[Entry]:
        """Write the file, and give the files that must be predicted, in the order of the table."""
        beneath: AbstractContextManager[DirectoryReader | None] = (
            nullcontext() if self._members is not None else DirectoryReader(self._place)
        )
        named = FileList(self._place, ())
        with beneath as opened, self._path.open("wb") as file:
            for row in self._table.rows():
                self.rows += 1
                if row["model_version"] != self._version:
                    self.kept += 1
                    file.write(b"\0" + json.dumps(row, ensure_ascii=False).encode() + b"\0")
                    continue
                entry = self._entry(unescape_path(row["path"]), named, opened)
                self.missing += entry.size == MISSING_SIZE
                file.write(encode_entry(entry) + b"\0")
                yield entry
            file.flush()
            os.fsync(file.fileno())
        if self.missing == self.rows - self.kept:
            raise UsageError(
                f"{self._table.path}: none of the {self.missing:,} files that version {self._version} predicted is in "
                f"{self._place}; name the folder that this table is of"
            )

    def _entry(self, path: bytes, named: FileList, beneath: DirectoryReader | None) -> Entry:
        if self._members is not None or beneath is None:
            return (self._members or {}).get(path, Entry(path, MISSING_SIZE, 0, 0))
        return named.entry(beneath, path)

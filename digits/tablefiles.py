"""Tables that were written before: their rows, with the values that were written, from CSV, JSON lines or Parquet."""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from digits.errors import UsageError
from digits.files import hash_file
from digits.records import Record
from digits.tables import FIXED_COLUMNS, Column, Value, columns_of, format_of

ROWS_AT_ONCE = 2_000
_SECOND = 2


@dataclass(frozen=True)
class TableFile:
    """A table on disk that `digits predict` wrote.

    Args:
        path: its extension says its format.
        columns: in order.
        probabilities: whether it has a column for each class.
        top_k: to which likely class it has columns.
    """

    path: Path
    columns: tuple[Column, ...]
    probabilities: bool
    top_k: int

    @classmethod
    def open(cls, path: Path) -> "TableFile":
        """Find out which columns a table has.

        Raises:
            UsageError: there is none, or it is not one of ours.
        """
        form = format_of(path)  # which refuses other extensions
        try:
            names = _NAMES[path.suffix.lower()](path)
        except FileNotFoundError:
            raise UsageError(f"{path}: there is no such table; predict the folder, or name another table") from None
        except (OSError, ValueError, csv.Error) as error:
            raise UsageError(f"{path}: expected a table that can be read, but: {error}") from error
        classes = sum(re.fullmatch(r"p\d+", name) is not None for name in names)
        top_k = 1 + sum(re.fullmatch(r"top\d+", name) is not None for name in names)
        columns = columns_of(classes=classes or top_k, probabilities=bool(classes), top_k=top_k)
        if form is None or [column.name for column in columns] != names:
            raise UsageError(f"{path}: expected the columns that `digits predict` writes, found {', '.join(names)}")
        return cls(path, columns, bool(classes), top_k)

    def rows(self) -> Iterator[Record]:
        """Give the rows, in order; what is empty is None.

        Raises:
            UsageError: a value can't be read, or a row has too few or too many.
        """
        try:
            yield from _ROWS[self.path.suffix.lower()](self.path, self.columns)
        except (OSError, ValueError, csv.Error) as error:
            raise UsageError(f"{self.path}: expected a table that can be read, but: {error}") from error

    def rows_in_a_part(self) -> int:
        """Give the number of rows that are encoded together, which a Parquet file shows."""
        return _rows_in_a_group(self.path) if self.path.suffix.lower() == ".parquet" else ROWS_AT_ONCE

    def require_unedited(self) -> None:
        """Read a CSV or JSON lines table, and see that writing its rows again gives the same bytes.

        Raises:
            UsageError: it does not, so somebody else has written to it.
        """
        if self.path.suffix.lower() == ".parquet":
            return
        digest = _Hash()
        parts = _encoded(self.rows(), self)
        format_of(self.path).join(parts, self.columns, digest)  # type: ignore[arg-type]  # all that is asked for is write
        if digest.hexdigest() != hash_file(self.path):
            raise UsageError(
                f"{self.path}: the table is not as `digits predict` wrote it, so its rows can't be kept byte for byte; "
                "predict the folder anew"
            )


class _Hash:
    """A file that only its hash is wanted of."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._digest.update(content)

    def writelines(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._digest.update(part)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _encoded(rows: Iterator[Record], table: TableFile) -> Iterator[bytes]:
    form = format_of(table.path)
    while part := list(islice(rows, ROWS_AT_ONCE)):
        yield form.encode([tuple(row.values()) for row in part], table.columns)


# What each format knows


def _csv_names(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _csv_rows(path: Path, columns: tuple[Column, ...]) -> Iterator[Record]:
    with path.open(newline="", encoding="utf-8") as file:
        cells = csv.reader(file, strict=True)
        next(cells)
        for row in cells:
            yield {
                column.name: _read_cell(cell, column) if cell else None
                for column, cell in zip(columns, row, strict=True)
            }


def _read_cell(cell: str, column: Column) -> Value:
    if column.kind == "text":
        return cell
    return int(cell) if column.kind == "integer" else float(cell)


def _json_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        first = file.readline()
    return list(json.loads(first)) if first else [column.name for column in FIXED_COLUMNS]


def _json_rows(path: Path, columns: tuple[Column, ...]) -> Iterator[Record]:
    names = [column.name for column in columns]
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            if not isinstance(row, dict) or list(row) != names:
                raise ValueError(f"line {number} has other columns than the first")
            yield row


def _parquet_file(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


def _parquet_names(path: Path) -> list[str]:
    with _parquet_file(path) as file:
        return list(file.schema_arrow.names)


def _parquet_rows(path: Path, columns: tuple[Column, ...]) -> Iterator[Record]:  # noqa: ARG001 - its schema has them
    with _parquet_file(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _rows_in_a_group(path: Path) -> int:
    with _parquet_file(path) as file:
        return int(file.metadata.row_group(0).num_rows) if file.num_row_groups else ROWS_AT_ONCE


_NAMES = {".csv": _csv_names, ".jsonl": _json_names, ".parquet": _parquet_names}
_ROWS = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}

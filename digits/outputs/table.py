"""Table: read and write the prediction table as CSV, JSON lines and Parquet, with the same values in each format.

A table is written in parts: the rows of each shard of the folder are encoded separately, then joined into one file.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from digits.errors import UsageError, os_errors_as
from digits.extras import require_extra
from digits.store.files import hash_file
from digits.store.records import Record

Value = str | int | float | None
Row = Sequence[Value]
Kind = Literal["text", "integer", "number"]
Rows = Generator[Record, None, None]
CsvDialect = Literal["standard", "excel"]

DECIMALS = 6
ROWS_AT_ONCE = 2_000


class Column(NamedTuple):
    """Name of a column and the kind of its values."""

    name: str
    kind: Kind


FIXED_COLUMNS = (
    Column("path", "text"),
    Column("prediction", "text"),
    Column("confidence", "number"),
    Column("status", "text"),
    Column("error", "text"),
    Column("width", "integer"),
    Column("height", "integer"),
    Column("sha256", "text"),
    Column("novelty", "number"),
    Column("model_version", "integer"),
)
PAGE = Column("page", "integer")
"""Last column: number of the page, counted from 1; empty for a file with one page. Old tables lack it."""


def columns_of(*, classes: int, probabilities: bool, top_k: int) -> tuple[Column, ...]:
    """Return the table's columns in order: the fixed ones, `p0` ..., `top2`, `top2_confidence` ..., and the page."""
    chances = [Column(f"p{index}", "number") for index in range(classes)] if probabilities else []
    ranks = range(2, min(top_k, classes) + 1)
    others = [column for k in ranks for column in (Column(f"top{k}", "text"), Column(f"top{k}_confidence", "number"))]
    return (*FIXED_COLUMNS, *chances, *others, PAGE)


class Format(Protocol):
    """File format of a table."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Return some rows as one part, which `join` joins with others."""

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write a whole table from its parts."""

    def names(self, file: BinaryIO) -> list[str]:
        """Return the names of a table's columns, in order."""

    def read(self, file: BinaryIO, columns: Sequence[Column]) -> Rows:
        """Yield the rows of a table by column name; an empty value is None.

        Raises:
            ValueError: if a value or a row does not fit the columns.
        """

    def part_size(self, file: BinaryIO) -> int:
        """Return the number of rows per part of a table; a default if the file does not show it."""


def format_of(path: Path, dialect: CsvDialect = "standard") -> Format:
    """Return the format of a table by the extension of its file.

    Args:
        path: path of the table.
        dialect: dialect of a CSV table; other tables have none but the default.

    Raises:
        UsageError: if no format has this extension, or its library is not installed, or it has no dialects.
    """
    if dialect != "standard":
        if path.suffix.lower() != ".csv":
            raise UsageError(
                f"{path}: found csv_dialect {dialect}, which only a table whose name ends in .csv can have; "
                "name such a table, or leave csv_dialect out"
            )
        return Csv(dialect)
    if path.suffix.lower() == ".parquet":
        require_extra("pyarrow", f"{path}: Parquet")
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: expected a name that ends in {', '.join(FORMATS)}, found {path.suffix!r}") from None


def read_table(path: str | Path) -> Iterator[Record]:
    """Yield the rows of a table by column name; an empty value is None.

    The table may have been edited: its columns may be in another order, and additional columns are read as text. The
    rows of an old table, which has no column `page`, have the value None there.

    Raises:
        UsageError: if the file cannot be read, or lacks a column of the prediction table.
    """
    path = Path(path)
    columns = columns_in(path)
    for row in _rows(path, columns if PAGE.name in _names(path) else columns[:-1]):
        row.setdefault(PAGE.name, None)
        yield row


def columns_in(path: Path) -> list[Column]:
    """Return the columns of the rows of `read_table`, in order; its errors are the same."""
    names = _names(path)
    if missing := [column.name for column in FIXED_COLUMNS if column.name not in names]:
        raise UsageError(
            f"{path}: expected a table of `digits predict`, but it has no column {missing[0]}; restore the column"
        )
    page = [] if PAGE.name in names else [PAGE.name]
    return [Column(name, _kind_of(name)) for name in (*names, *page)]


def _names(path: Path) -> list[str]:
    form = format_of(path)
    with _reading(path), path.open("rb") as file:
        return form.names(file)


def _rows(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    with _reading(path), path.open("rb") as file, closing(format_of(path).read(file, columns)) as rows:
        yield from rows


def _dialect_of(path: Path) -> CsvDialect:
    if path.suffix.lower() != ".csv":
        return "standard"
    with _reading(path), path.open("rb") as file, _as_text(file) as text:
        return dialect_of_header(text.readline())


def dialect_of_header(header: str) -> CsvDialect:
    """Return the dialect of a CSV file by its first line. No column of the table has a separator in its name."""
    return "excel" if header.count(";") > header.count(",") else "standard"


def _kind_of(name: str) -> Kind:
    if re.fullmatch(r"p\d+|top\d+_confidence", name):
        return "number"
    return next((column.kind for column in (*FIXED_COLUMNS, PAGE) if column.name == name), "text")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise a `UsageError` if a table cannot be read."""
    remedy = "predict the folder, or name a table that `digits predict` wrote"
    with os_errors_as(UsageError, path, "the table could not be read", remedy):
        try:
            yield
        except (ValueError, TypeError, csv.Error) as error:
            raise UsageError(f"{path}: expected a complete prediction table, but: {error}; {remedy}") from error


@dataclass(frozen=True)
class TableFile:
    """Table on disk that `digits predict` wrote.

    Args:
        path: path of the file; its extension determines the format.
        columns: columns in order; those of an old table lack `PAGE`.
        probabilities: whether the table has one probability column per class.
        top_k: rank of the least likely class that has a column.
        dialect: dialect of a CSV table.
    """

    path: Path
    columns: tuple[Column, ...]
    probabilities: bool
    top_k: int
    dialect: CsvDialect = "standard"

    @classmethod
    def open(cls, path: Path) -> "TableFile":
        """Return the table at a path, with its columns read from the file.

        Raises:
            UsageError: if there is no such file, or `digits predict` did not write it.
        """
        names = _names(path)
        classes = sum(re.fullmatch(r"p\d+", name) is not None for name in names)
        top_k = 1 + sum(re.fullmatch(r"top\d+", name) is not None for name in names)
        columns = columns_of(classes=classes or top_k, probabilities=bool(classes), top_k=top_k)
        expected = [column.name for column in columns]
        if names not in (expected, expected[:-1]):
            raise UsageError(f"{path}: expected the columns that `digits predict` writes, found {', '.join(names)}")
        return cls(path, columns[: len(names)], bool(classes), top_k, _dialect_of(path))

    @property
    def format(self) -> Format:
        """Format in which the table is written."""
        return format_of(self.path, self.dialect)

    def rows(self) -> Iterator[Record]:
        """Return the rows in order; an empty value is None.

        Raises:
            UsageError: if a value cannot be read, or a row has too few or too many values.
        """
        return _rows(self.path, self.columns)

    def rows_in_a_part(self) -> int:
        """Return the number of rows per part; for formats other than Parquet, the default."""
        with _reading(self.path), self.path.open("rb") as file:
            return format_of(self.path).part_size(file)

    def require_unedited(self) -> None:
        """Check that a CSV or JSON lines table is unedited: writing its rows again must yield the same bytes.

        Raises:
            UsageError: if the bytes differ, so the table was edited.
        """
        form = self.format
        if isinstance(form, Parquet):
            return
        digest, rows = _Hash(), self.rows()
        parts = iter(lambda: [tuple(row.values()) for row in islice(rows, ROWS_AT_ONCE)], [])
        encoded = (form.encode(part, self.columns) for part in parts)
        form.join(encoded, self.columns, digest)  # type: ignore[arg-type]  # only its methods for writing are used
        if digest.hexdigest() != hash_file(self.path):
            raise UsageError(
                f"{self.path}: the table was edited after it was written, so its rows cannot be kept byte for byte; "
                "predict the folder again"
            )


class _Hash:
    """Write-only file that computes the SHA-256 of its content."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._digest.update(content)

    def writelines(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._digest.update(part)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _by_column(rows: Sequence[Row], columns: Sequence[Column]) -> Iterable[tuple[Column, Sequence[Value]]]:
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return zip(columns, values, strict=True)


class Csv:
    """CSV format: RFC 4180, but with LF line ends; UTF-8, double quotes where needed, six decimals.

    Args:
        dialect: `standard` has commas. `excel` has semicolons, decimal commas and a byte order mark: the form that
            Excel opens by a double click, on a system that writes decimal commas. Either is read, whatever this is.
    """

    def __init__(self, dialect: CsvDialect = "standard") -> None:
        self._separator, self._point, self._start = _MARKS[dialect]
        self._quoted = re.compile(rf'["{self._separator}\r\n]')

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Return the rows as lines."""
        cells = [self._cells(column.kind, values) for column, values in _by_column(rows, columns)]
        return "".join([line + "\n" for line in map(self._separator.join, zip(*cells, strict=True))]).encode()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write the header and the parts."""
        file.write((self._start + self._separator.join(column.name for column in columns)).encode() + b"\n")
        file.writelines(parts)

    def names(self, file: BinaryIO) -> list[str]:
        """Return the cells of the header."""
        with _as_text(file) as text:
            return next(_reader(text)[0], [])

    def read(self, file: BinaryIO, columns: Sequence[Column]) -> Rows:
        """Yield the rows below the header; empty lines are skipped."""
        with _as_text(file) as text:
            cells, point = _reader(text)
            next(cells)
            for row in filter(None, cells):
                try:
                    values = _read_cells(row, columns, point)
                except ValueError as error:
                    raise ValueError(f"line {cells.line_num}: {error}") from error
                yield values

    def part_size(self, file: BinaryIO) -> int:  # noqa: ARG002
        """Return the default, because the bytes of the file do not depend on its parts."""
        return ROWS_AT_ONCE

    def _cells(self, kind: Kind, values: Sequence[Any]) -> list[str]:
        if kind == "text":
            return self._text_cells(values)
        if kind == "integer":
            return ["" if value is None else str(value) for value in values]
        cells = ["" if value is None else f"{value:.{DECIMALS}f}" for value in values]
        return cells if self._point == "." else [cell.replace(".", self._point) for cell in cells]

    def _text_cells(self, values: Sequence[Any]) -> list[str]:
        """Return the cells of a text column, quoted where needed.

        The whole column is searched at once, because hardly any column needs quotes.
        """
        texts = ["" if value is None else value for value in values]
        return [self._quote(text) for text in texts] if self._quoted.search("".join(texts)) else texts

    def _quote(self, text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if self._quoted.search(text) else text


_MARKS: dict[CsvDialect, tuple[str, str, str]] = {"standard": (",", ".", ""), "excel": (";", ",", "\ufeff")}
"""Separator, decimal point and start of the file, by dialect."""


def _reader(text: io.TextIOWrapper) -> tuple[Any, str]:
    """Return a reader of the lines of a CSV file, and its decimal point."""
    header = text.readline()
    separator, point, _ = _MARKS[dialect_of_header(header)]
    return csv.reader(chain([header], text), delimiter=separator, strict=True), point


def _read_cells(row: Sequence[str], columns: Sequence[Column], point: str) -> Record:
    if len(row) != len(columns):
        raise ValueError(f"expected {len(columns)} values, found {len(row)}")
    return {
        column.name: _READ_CELLS[column.kind](cell.replace(point, ".") if column.kind == "number" else cell)
        if cell
        else None
        for column, cell in zip(columns, row, strict=True)
    }


_READ_CELLS: dict[Kind, Callable[[str], Value]] = {"text": str, "integer": int, "number": float}


@contextmanager
def _as_text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()


class JsonLines:
    """JSON lines format: one object per line, in UTF-8; an empty value is null."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Return the rows as lines."""
        names = [column.name for column in columns]
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
        return "".join([encode(dict(zip(names, row, strict=True))) + "\n" for row in rows]).encode()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:  # noqa: ARG002
        """Write the parts."""
        file.writelines(parts)

    def names(self, file: BinaryIO) -> list[str]:
        """Return the names in the first object; an empty file is a table without rows."""
        first = file.readline()
        return list(json.loads(first)) if first else [column.name for column in (*FIXED_COLUMNS, PAGE)]

    def read(self, file: BinaryIO, columns: Sequence[Column]) -> Rows:
        """Return the rows."""
        names = [column.name for column in columns]
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            if not isinstance(row, dict) or list(row) != names:
                raise ValueError(f"line {number} has other columns than the first line")
            yield row

    def part_size(self, file: BinaryIO) -> int:  # noqa: ARG002
        """Return the default, because the bytes of the file do not depend on its parts."""
        return ROWS_AT_ONCE


class Parquet:
    """Parquet format with one row group per part; an empty value is null."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Return the rows as a complete Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema(columns)
        values = [values for _, values in _by_column(rows, columns)]
        arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        return sink.getvalue()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write the row groups of all parts into one file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, _schema(columns)) as writer:
            for part in parts:
                writer.write_table(pq.read_table(pa.BufferReader(part)))

    def names(self, file: BinaryIO) -> list[str]:
        """Return the names in the schema."""
        import pyarrow.parquet as pq

        return list(pq.ParquetFile(file).schema_arrow.names)

    def read(self, file: BinaryIO, columns: Sequence[Column]) -> Rows:  # noqa: ARG002 - the schema in the file has them
        """Return the rows."""
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()

    def part_size(self, file: BinaryIO) -> int:
        """Return the number of rows in the first row group."""
        import pyarrow.parquet as pq

        metadata = pq.ParquetFile(file).metadata
        return int(metadata.row_group(0).num_rows) if metadata.num_row_groups else ROWS_AT_ONCE


def _schema(columns: Sequence[Column]) -> Any:
    import pyarrow as pa

    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    return pa.schema([(column.name, types[column.kind]) for column in columns])


JSON_LINES: Format = JsonLines()
FORMATS: dict[str, Format] = {".csv": Csv(), ".parquet": Parquet(), ".jsonl": JSON_LINES}

"""The predictions table as CSV, JSON lines and Parquet: one row an image, the same values in each.

A table is made of parts: each shard's rows are encoded by themselves, and joined into the file in order.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from digits.errors import UsageError

Value = str | int | float | None
Row = Sequence[Value]
Kind = Literal["text", "integer", "number"]
Rows = Generator[Mapping[str, Any], None, None]

DECIMALS = 6
_QUOTED = re.compile(r'[",\r\n]')


class Column(NamedTuple):
    """A column's name and what its values are."""

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


def columns_of(*, classes: int, probabilities: bool, top_k: int) -> tuple[Column, ...]:
    """Give the table's columns in order: the fixed ones, `p0` ..., then `top2`, `top2_confidence` ..."""
    chances = [Column(f"p{index}", "number") for index in range(classes)] if probabilities else []
    ranks = range(2, min(top_k, classes) + 1)
    others = [column for k in ranks for column in (Column(f"top{k}", "text"), Column(f"top{k}_confidence", "number"))]
    return (*FIXED_COLUMNS, *chances, *others)


class Format(Protocol):
    """A file format of the table."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Give a part: some rows, with nothing before or after them."""

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write a whole table from its parts."""

    def read(self, file: BinaryIO) -> Rows:
        """Give the rows of a table by the columns' names; what is empty is None or an empty text."""


def format_of(path: Path) -> Format:
    """Find the format that a file's extension names.

    Raises:
        UsageError: there is none.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: expected a name that ends in {', '.join(FORMATS)}, found {path.suffix!r}") from None


def read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """Give the rows of a table by the columns' names, one after the other.

    Raises:
        UsageError: it can't be read, or has not our columns.
    """
    table = format_of(path)
    try:
        with path.open("rb") as file, closing(table.read(file)) as rows:
            for row in rows:
                missing = [column.name for column in FIXED_COLUMNS if column.name not in row]
                if missing:
                    raise UsageError(f"{path}: expected a table of predictions, but it has no column {missing[0]}")
                yield row
    except OSError as error:
        raise UsageError(f"{path}: expected a table of predictions, but: {error.strerror or error}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"{path}: expected a table of predictions that is whole, but: {error}") from error


def _by_column(rows: Sequence[Row], columns: Sequence[Column]) -> Iterable[tuple[Column, Sequence[Value]]]:
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return zip(columns, values, strict=True)


class Csv:
    """RFC 4180 but for LF line ends: UTF-8, commas, double quotes where needed, six decimals."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Give the rows as lines."""
        cells = [_CSV_CELLS[column.kind](values) for column, values in _by_column(rows, columns)]
        return "".join([line + "\n" for line in map(",".join, zip(*cells, strict=True))]).encode()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write the header and the parts."""
        file.write(",".join(column.name for column in columns).encode() + b"\n")
        file.writelines(parts)

    def read(self, file: BinaryIO) -> Rows:
        """Give the rows; every value is a text."""
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        try:
            yield from csv.DictReader(text, strict=True)
        finally:
            text.detach()


def _text_cells(values: Sequence[Any]) -> list[str]:
    """Quote where needed; a whole column is searched at once, since nearly none needs it."""
    texts = ["" if value is None else value for value in values]
    return [_quoted(text) for text in texts] if _QUOTED.search("".join(texts)) else texts


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _integer_cells(values: Sequence[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in values]


def _number_cells(values: Sequence[Any]) -> list[str]:
    return ["" if value is None else f"{value:.{DECIMALS}f}" for value in values]


_CSV_CELLS: dict[Kind, Callable[[Sequence[Any]], list[str]]] = {
    "text": _text_cells,
    "integer": _integer_cells,
    "number": _number_cells,
}


class JsonLines:
    """An object a line, in UTF-8; what is empty is null."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Give the rows as lines."""
        names = [column.name for column in columns]
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
        return "".join([encode(dict(zip(names, row, strict=True))) + "\n" for row in rows]).encode()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:  # noqa: ARG002
        """Write the parts."""
        file.writelines(parts)

    def read(self, file: BinaryIO) -> Rows:
        """Give the rows."""
        yield from map(json.loads, file)


class Parquet:
    """A row group a part; what is empty is null."""

    def encode(self, rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
        """Give the rows as a Parquet file of their own."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema(columns)
        values = [values for _, values in _by_column(rows, columns)]
        arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        return sink.getvalue()

    def join(self, parts: Iterable[bytes], columns: Sequence[Column], file: BinaryIO) -> None:
        """Write the parts' row groups into one file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(file, _schema(columns)) as writer:
            for part in parts:
                writer.write_table(pq.read_table(pa.BufferReader(part)))

    def read(self, file: BinaryIO) -> Rows:
        """Give the rows."""
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()


def _schema(columns: Sequence[Column]) -> Any:
    import pyarrow as pa

    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    return pa.schema([(column.name, types[column.kind]) for column in columns])


JSON_LINES: Format = JsonLines()
FORMATS: dict[str, Format] = {".csv": Csv(), ".parquet": Parquet(), ".jsonl": JSON_LINES}

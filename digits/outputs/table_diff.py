"""Table differences: the rows on which the tables of two model versions differ."""

from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from digits.outputs.table import PAGE, ROWS_AT_ONCE, Column, Csv, Row, TableFile
from digits.store.records import Record

COLUMNS = (
    Column("path", "text"),
    Column("prediction", "text"),
    Column("shadow_prediction", "text"),
    Column("confidence", "number"),
    Column("shadow_confidence", "number"),
    Column("status", "text"),
    Column("shadow_status", "text"),
    Column("model_version", "integer"),
    Column("shadow_version", "integer"),
    PAGE,
)


def shadow_path(out: Path) -> Path:
    """Return the path of the CSV with the differences between a table and that of a second model version."""
    return out.with_name(f"{out.stem}.shadow.csv")


def write_differences(table: TableFile, other: TableFile, file: BinaryIO) -> int:
    """Write one row per image or page whose prediction or status differs as CSV, and return the number of rows.

    Args:
        table: table of the champion.
        other: table of the other version.
        file: open file to write.
    """
    form, count = Csv(table.dialect), 0

    def parts() -> Iterator[bytes]:
        nonlocal count
        rows = (_row(*pair) for pair in pairs(table.rows(), other.rows()) if _differ(*pair))
        while part := list(islice(rows, ROWS_AT_ONCE)):
            count += len(part)
            yield form.encode(part, COLUMNS)

    form.join(parts(), COLUMNS, file)
    return count


def pairs(first: Iterable[Record], second: Iterable[Record]) -> Iterator[tuple[Record, Record]]:
    """Yield the two rows of each image or page that both tables contain.

    Both tables have the same order, except for images that were added or removed between the runs. So only few rows
    wait in memory for the row of the other table.
    """
    waiting: tuple[dict[Any, Record], dict[Any, Record]] = ({}, {})
    for rows in zip_longest(first, second):
        for number, row in enumerate(rows):
            if row is None:
                continue
            key = row["path"], row.get("page")
            partner = waiting[1 - number].pop(key, None)
            if partner is None:
                waiting[number][key] = row
            else:
                yield (partner, row) if number else (row, partner)


def _differ(row: Record, other: Record) -> bool:
    return (row["prediction"], row["status"]) != (other["prediction"], other["status"])


def _row(row: Record, other: Record) -> Row:
    both = (
        value for name in ("prediction", "confidence", "status", "model_version") for value in (row[name], other[name])
    )
    return (row["path"], *both, row.get("page"))

"""Frame: prediction tables as pandas DataFrames, in which each column has the type of its values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits.errors import CorruptArtifactError, UsageError
from digits.extras import require_extra
from digits.outputs.summary import summary_path
from digits.outputs.table import Column, columns_in, read_table
from digits.store.records import Record, read_record

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "summary"
"""Key of the summary in `DataFrame.attrs`."""
CATEGORIES = re.compile(r"prediction|status|top\d+")
"""Names of the columns of a table that become categories."""


def require_pandas() -> None:
    """Check that pandas is installed.

    Raises:
        UsageError: if it is not; the message names the command that installs it.
    """
    require_extra("pandas", "a DataFrame")


def read_frame(path: Path) -> "pd.DataFrame":
    """Return a table as a DataFrame; `attrs["summary"]` holds the summary beside the table, if there is one.

    Raises:
        UsageError: if the file cannot be read, is no prediction table, or has a value of another kind than its column,
            or if pandas is not installed.
    """
    require_pandas()
    frame = frame_of(read_table(path), columns_in(path), name=str(path))
    with suppress(OSError, CorruptArtifactError):
        frame.attrs[SUMMARY] = read_record(summary_path(path))
    return frame


def frame_of(
    rows: Iterable[Record], columns: Sequence[Column], *, name: str, categories: re.Pattern[str] = CATEGORIES
) -> "pd.DataFrame":
    """Return rows as a DataFrame.

    Args:
        rows: values by the name of their column.
        columns: columns in order.
        name: name of the table for error messages.
        categories: names of the text columns that become categories.

    Raises:
        UsageError: if a value is of another kind than its column.
    """
    import pandas as pd

    values: dict[str, list[Any]] = {column.name: [] for column in columns}
    for row in rows:
        for column, value in row.items():
            values[column].append(value)
    try:
        return pd.DataFrame({column.name: _series(column, values[column.name], categories) for column in columns})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected a table of `digits predict`, found other values: {error}") from error


def _series(column: Column, values: Sequence[Any], categories: re.Pattern[str]) -> "pd.Series[Any]":
    import pandas as pd

    if categories.fullmatch(column.name):
        names = sorted({str(value) for value in values if value is not None}, key=_natural)
        return pd.Series(pd.Categorical(values, categories=names))
    return _SERIES[column.kind](values)


def _natural(name: str) -> tuple[bool, int, str]:
    """Return a key that sorts numbers by their value, before all other names."""
    number = name.isascii() and name.isdecimal()
    return not number, int(name) if number else 0, name


def _typed(dtype: str) -> "Callable[[Sequence[Any]], pd.Series[Any]]":
    def series(values: Sequence[Any]) -> "pd.Series[Any]":
        import pandas as pd

        return pd.Series(values, dtype=dtype)

    return series


_SERIES: "Mapping[str, Callable[[Sequence[Any]], pd.Series[Any]]]" = {
    "text": _typed("string"),
    "integer": _typed("Int64"),
    "number": _typed("float64"),
}

"""Predicting anew, in a table that is there, only the rows that one model version wrote; all others stay."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from digits.errors import UsageError
from digits.filelists import Named
from digits.folders import MISSING_SIZE, Beneath, Entry, unescape_path
from digits.inference import ModelFiles
from digits.plans import encode_entry
from digits.tables import TableFile, columns_of


def open_table(path: Path, version: int, model: ModelFiles) -> TableFile:
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
    """Parts a table into rows that stay and files that must be predicted; see `digits.ledgers.Takeover`.

    Args:
        path: a file to write: for each row an empty record, NUL, the row as JSON, NUL; for a row that is replaced the
            listing's record, NUL, nothing, NUL.
        table: from `open_table`.
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

    def fresh(self) -> Iterator[Entry]:
        """Write the file, and give the files that must be predicted, in the order of the table."""
        beneath: AbstractContextManager[Beneath | None] = (
            nullcontext() if self._members is not None else Beneath(self._place)
        )
        named = Named(self._place, ())
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

    def _entry(self, path: bytes, named: Named, beneath: Beneath | None) -> Entry:
        if self._members is not None or beneath is None:
            return (self._members or {}).get(path, Entry(path, MISSING_SIZE, 0, 0))
        return named.entry(beneath, path)

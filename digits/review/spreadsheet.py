"""Spreadsheet: the images of a review as CSV with a column for labels, written and, after editing, read again."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from digits.data.labels import LABELS, NOT_A_DIGIT, SKIP, image_id
from digits.errors import UsageError
from digits.images.folder import update_escape
from digits.outputs.table import PAGE, Column, Csv
from digits.review.sampling import QueuedImage

COLUMNS = (
    Column("sha256", "text"),
    Column("path", "text"),
    Column("status", "text"),
    Column("prediction", "text"),
    Column("confidence", "number"),
    Column("selection", "text"),
    PAGE,
    Column("label", "text"),
)
_WHOLE = re.compile(r"([0-9])(?:[.,]0*)?")
_NUMBER = re.compile(r"([0-9]{1,9})(?:[.,]0*)?")
_WORDS = {"notadigit": NOT_A_DIGIT, "n": NOT_A_DIGIT, "skip": SKIP, "s": SKIP}
_DELIMITERS = ",;\t"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LISTED = 5


class SheetLine(NamedTuple):
    """Line of a spreadsheet with a label: its number, that of the header being 1, and the id of the image."""

    number: int
    image: str
    label: str


def write_sheet(queue: Iterable[tuple[QueuedImage, str | None]]) -> bytes:
    """Return a spreadsheet, as CSV, of images with their labels; None is an empty label."""
    rows = [
        (one.sha256, update_escape(one.path), one.status, one.prediction, one.confidence, stratum, one.page, label)
        for (one, stratum), label in queue
    ]
    file = io.BytesIO()
    Csv().join([Csv().encode(rows, COLUMNS)], COLUMNS, file)
    return file.getvalue()


def read_sheet(
    content: bytes, *, name: str, fault_of: Callable[[str], str | None], first_row: int = 2
) -> list[SheetLine]:
    """Return the labels of a spreadsheet, one line per image.

    Common changes by spreadsheet programs are accepted: a byte order mark, UTF-16, semicolons or tabs, other line ends,
    further columns in any order, empty rows, spaces, `7.0` and `7,0`, upper and lower case, `n` and `s`.

    Args:
        content: bytes of the file.
        name: name of the file for error messages.
        fault_of: function from an image's id to the reason why it cannot be labelled, or None.
        first_row: number of the first row below the header.

    Raises:
        UsageError: if a label is invalid, an image cannot be labelled, or an image has two labels; the message has the
            numbers of the rows.
    """
    lines: list[SheetLine] = []
    faults: list[str] = []
    labels: dict[str, SheetLine] = {}
    for number, image, cell in _cells(_text(content), name, first_row):
        label = _label_of(cell)
        fault = _fault(cell, label) or fault_of(image)
        if fault is None and label is not None:
            first = labels.setdefault(image, SheetLine(number, image, label))
            if first.label != label:
                fault = f"found the label {cell!r}, but row {first.number} has another for this image; keep one"
            elif first.number == number:
                lines.append(first)
        if fault:
            faults.append(f"row {number}: {fault}")
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise UsageError(f"{name}: nothing was imported: {'; '.join(faults[:_LISTED])}{more}")
    return lines


def _text(content: bytes) -> str:
    """Decode a spreadsheet; invalid bytes are replaced, since hashes and labels are ASCII in any encoding."""
    if content.startswith(_UTF_16):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "replace")


def _cells(text: str, name: str, first_row: int) -> Iterator[tuple[int, str, str]]:
    """Yield row number, id of the image and label of the rows with a label."""
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [cell.strip().lower() for cell in next(rows, [])]
        if not {"sha256", "label"} <= set(columns):
            raise UsageError(
                f"{name}: expected the columns sha256 and label, found {', '.join(columns) or 'nothing'}; "
                "`digits review TABLE --export` writes such a file"
            )
        for number, row in enumerate(rows, first_row):
            cells = dict(zip(columns, row, strict=False))
            if cells.get("label", "").strip():
                yield number, image_id(cells.get("sha256", "").strip().lower(), _page_of(cells)), cells["label"]
    except csv.Error as error:
        raise UsageError(f"{name}: expected a CSV file: {error}") from error


def _page_of(cells: Mapping[str, str]) -> int | None:
    """Return the page of a row; a sheet of an earlier version has none. A word instead of a number is not read."""
    number = _NUMBER.fullmatch(cells.get("page", "").strip())
    return int(number[1]) if number else None


def _label_of(cell: str) -> str | None:
    plain = unicodedata.normalize("NFKC", cell).strip().lower()
    number = _WHOLE.fullmatch(plain)
    return number[1] if number else _WORDS.get(re.sub(r"[\s_-]+", "", plain))


def _fault(cell: str, label: str | None) -> str | None:
    return None if label else f"{cell!r} is not a label; expected one of {', '.join(LABELS)}, or an empty cell"

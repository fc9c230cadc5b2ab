"""A review as a spreadsheet: the images to look at with a column for the label, and what came back from an editor."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from digits.data.labels import LABELS, NOT_A_DIGIT, SKIP
from digits.errors import UsageError
from digits.outputs.table import Column, Csv
from digits.review.sampling import QueuedImage

COLUMNS = (
    Column("sha256", "text"),
    Column("path", "text"),
    Column("status", "text"),
    Column("prediction", "text"),
    Column("confidence", "number"),
    Column("selection", "text"),
    Column("label", "text"),
)
_WHOLE = re.compile(r"([0-9])(?:[.,]0*)?")
_WORDS = {"notadigit": NOT_A_DIGIT, "n": NOT_A_DIGIT, "skip": SKIP, "s": SKIP}
_DELIMITERS = ",;\t"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LISTED = 5


class SheetLine(NamedTuple):
    """A line of a sheet with a label in it: its number, the header's being 1."""

    number: int
    sha256: str
    label: str


def write_sheet(queue: Iterable[tuple[QueuedImage, str | None]]) -> bytes:
    """Give a sheet of images, each with its label, which is None where there is none yet."""
    rows = [
        (image.sha256, image.path, image.status, image.prediction, image.confidence, stratum, label)
        for (image, stratum), label in queue
    ]
    file = io.BytesIO()
    Csv().join([Csv().encode(rows, COLUMNS)], COLUMNS, file)
    return file.getvalue()


def read_sheet(content: bytes, *, name: str, fault_of: Callable[[str], str | None]) -> list[SheetLine]:
    """Read the labels of a sheet, whatever a spreadsheet has made of it: all of them, or an error that says why not.

    Taken as they are meant: a byte order mark, UTF-16, semicolons or tabs, other line ends, other columns and another
    order of them, empty rows, spaces, `7.0` and `7,0`, letters of any case, `n` and `s`.

    Args:
        content: the file's bytes.
        name: what to call it.
        fault_of: says why an image can't be labelled, by its SHA-256; None where it can.

    Raises:
        UsageError: a label that is none, an image that can't be labelled, two labels for one image;
            the rows are named.
    """
    lines: list[SheetLine] = []
    faults: list[str] = []
    labels: dict[str, SheetLine] = {}
    for number, sha256, said in _cells(_text(content), name):
        label = _label_of(said)
        fault = _fault(said, label) or fault_of(sha256)
        if fault is None and label is not None:
            first = labels.setdefault(sha256, SheetLine(number, sha256, label))
            if first.label != label:
                fault = f"another label, {said!r}, for the image of row {first.number}"
            elif first.number == number:
                lines.append(first)
        if fault:
            faults.append(f"row {number}: {fault}")
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise UsageError(f"{name}: nothing was imported: {'; '.join(faults[:_LISTED])}{more}")
    return lines


def _text(content: bytes) -> str:
    """Decode a sheet; only hashes and labels matter, which are ASCII in any encoding."""
    if content.startswith(_UTF_16):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "replace")


def _cells(text: str, name: str) -> Iterator[tuple[int, str, str]]:
    """Give row number, hash and label of the rows that have a label."""
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [cell.strip().lower() for cell in next(rows, [])]
        if not {"sha256", "label"} <= set(columns):
            raise UsageError(
                f"{name}: expected the columns sha256 and label, found {', '.join(columns) or 'nothing'}; "
                "`digits review TABLE --export` writes such a sheet"
            )
        for number, row in enumerate(rows, 2):
            cells = dict(zip(columns, row, strict=False))
            if cells.get("label", "").strip():
                yield number, cells.get("sha256", "").strip().lower(), cells["label"]
    except csv.Error as error:
        raise UsageError(f"{name}: expected a CSV file, but: {error}") from error


def _label_of(said: str) -> str | None:
    plain = unicodedata.normalize("NFKC", said).strip().lower()
    number = _WHOLE.fullmatch(plain)
    return number[1] if number else _WORDS.get(re.sub(r"[\s_-]+", "", plain))


def _fault(said: str, label: str | None) -> str | None:
    return None if label else f"{said!r} is no label; expected one of {', '.join(LABELS)}, or nothing"

"""Tests of the spreadsheet of a review, and of changes that spreadsheet programs make to it."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence

import pytest

from digits.errors import UsageError
from digits.images.folder import unescape_path
from digits.review.sampling import PredictedImage, QueuedImage
from digits.review.spreadsheet import SheetLine, read_sheet, write_sheet
from digits.status import FORMULA_STARTS

HASHES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(6)]
QUEUE = [
    QueuedImage(PredictedImage(sha256, f"a {number}, b.png", "uncertain", str(number), 0.5, None, 1), "uncertain")
    for number, sha256 in enumerate(HASHES)
]
EMPTY = write_sheet((picked, None) for picked in QUEUE)


def filled(labels: Sequence[str]) -> list[list[str]]:
    """Return the rows of the spreadsheet with these labels."""
    header, *rows = csv.reader(io.StringIO(EMPTY.decode(), newline=""))
    return [header, *([*row[:-1], label] for row, label in zip(rows, labels, strict=False))]


def saved(rows: Sequence[Sequence[str]], *, delimiter: str = ",", end: str = "\r\n") -> str:
    """Return rows as a spreadsheet program saves them."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(rows)
    return file.getvalue()


def read(content: bytes, fault_of: Callable[[str], str | None] = lambda _: None) -> list[SheetLine]:
    """Read a spreadsheet."""
    return read_sheet(content, name="sheet.csv", fault_of=fault_of)


def labels_of(content: bytes) -> list[tuple[int, str]]:
    """Return the row numbers and labels of a spreadsheet."""
    lines = read(content)
    assert [line.image for line in lines] == [HASHES[line.number - 2] for line in lines]
    return [(line.number, line.label) for line in lines]


def test_a_spreadsheet_has_columns_that_identify_the_image_and_a_column_for_the_label() -> None:
    """Byte for byte. The label is empty or known."""
    sheet = write_sheet([(QUEUE[1], None), (QUEUE[2], "7")])
    assert sheet.decode() == (
        "sha256,path,status,prediction,confidence,selection,page,label\n"
        f'{HASHES[1]},"a 1, b.png",uncertain,1,0.500000,uncertain,,\n'
        f'{HASHES[2]},"a 2, b.png",uncertain,2,0.500000,uncertain,,7\n'
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_starts_a_formula(separator: str) -> None:
    """Not even if the table is of an earlier version, which wrote paths with a semicolon as they are."""
    paths = ["a;=1+1.png", 'a,b;"=1".png', "\uff1d1", "./=1;+1", "a%09=1"]
    images = [image._replace(path=path) for path, (image, _) in zip(paths, QUEUE, strict=False)]
    sheet = write_sheet((QueuedImage(image, "uncertain"), None) for image in images).decode()
    cells = [cell for row in csv.reader(io.StringIO(sheet, newline=""), delimiter=separator) for cell in row]
    assert len(cells) > len(paths)
    assert not [cell for cell in cells if cell.startswith(FORMULA_STARTS)]
    read_back = [unescape_path(row["path"]) for row in csv.DictReader(io.StringIO(sheet, newline=""))]
    assert read_back == [unescape_path(path) for path in paths]


@pytest.mark.parametrize("page", ["3", "3.0", "3,00", " 3 "])
def test_the_pages_of_a_file_have_labels_of_their_own(page: str) -> None:
    """Spreadsheet programs write numbers in several ways."""
    image = QUEUE[0].image
    pages = [QueuedImage(image._replace(page=number), "uncertain") for number in (3, 12)]
    sheet = write_sheet(zip(pages, ("7", "8"), strict=True))
    assert [(line.image, line.label) for line in read(sheet)] == [(f"{HASHES[0]}-3", "7"), (f"{HASHES[0]}-12", "8")]
    header, row, _ = csv.reader(io.StringIO(sheet.decode(), newline=""))
    edited = saved([header, [page if name == "page" else cell for name, cell in zip(header, row, strict=True)]])
    assert [line.image for line in read(edited.encode())] == [f"{HASHES[0]}-3"]


def test_an_unedited_spreadsheet_has_no_labels() -> None:
    """A row without a label is ignored."""
    assert read(EMPTY) == []


@pytest.mark.parametrize(
    ("said", "label"),
    [
        *((form, "7") for form in ("7", "7.0", "7,0", "7.", " 7 ", "7.000", "\u00a07", "\uff17", "7\t")),
        *((form, "0") for form in ("0", "0.0")),
        *((form, "not-a-digit") for form in ("not-a-digit", "Not a digit", "NOT_A_DIGIT", "n", "N")),
        *((form, "skip") for form in ("skip", "Skip", "s", "S ")),
    ],
)
def test_common_spellings_of_a_label_are_accepted(said: str, label: str) -> None:
    """Numbers as spreadsheets write them, words in any case."""
    assert labels_of(saved(filled(["", said])).encode()) == [(3, label)]


@pytest.mark.parametrize("said", ["10", "-1", "7.5", "77", "seven", "07", "7e0", "1.0.0", "O", "=7", "?"])
def test_an_invalid_label_is_an_error_with_its_row(said: str) -> None:
    """Rows are numbered as a spreadsheet program shows them."""
    with pytest.raises(UsageError) as caught:
        read(saved(filled(["3", "", said])).encode())
    assert str(caught.value).startswith(
        f"sheet.csv: nothing was imported: row 4: {said!r} is not a label; expected one of"
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_all_common_delimiters_line_ends_and_encodings_are_read(delimiter: str, end: str, encoding: str) -> None:
    """A file name may be damaged by a wrong encoding; a label is not."""
    rows = filled(["1", "2"])
    rows[1][1] = "Z\u00fcrich.png"
    assert labels_of(saved(rows, delimiter=delimiter, end=end).encode(encoding)) == [(2, "1"), (3, "2")]


def test_columns_and_rows_may_be_moved_added_and_removed() -> None:
    """Sorted, with remarks, without other columns, with empty lines at the end."""
    rows = [
        ["Label", "remark", " SHA256 "],
        ["5", "sure", HASHES[1].upper()],
        ["", "", HASHES[0]],
        [],
        ["", "", ""],
        [""],
    ]
    assert read(saved(rows).encode()) == [SheetLine(2, HASHES[1], "5")]


def test_the_error_lists_five_faults_and_counts_the_others() -> None:
    """One invalid row is enough to import nothing."""
    with pytest.raises(UsageError) as caught:
        read(saved(filled(["x"] * 6)).encode())
    assert str(caught.value).count("row ") == 5
    assert str(caught.value).endswith("; and 1 more")


def test_an_image_that_cannot_be_labelled_is_an_error_with_the_reason() -> None:
    """Unless its label is empty."""
    with pytest.raises(UsageError, match=r"sheet.csv: nothing was imported: row 2: it is gone$"):
        read(saved(filled(["1", ""])).encode(), lambda _: "it is gone")
    assert read(EMPTY, lambda _: "it is gone") == []


def test_two_labels_for_an_image_are_an_error() -> None:
    """The same label twice counts once."""
    rows = filled(["1", "2"])
    assert read(saved([*rows, rows[1]]).encode()) == [SheetLine(2, HASHES[0], "1"), SheetLine(3, HASHES[1], "2")]
    with pytest.raises(UsageError, match=r"row 4: found the label '3', but row 2 has another for this image"):
        read(saved([*rows, [*rows[1][:-1], "3"]]).encode())


@pytest.mark.parametrize("content", [b"", b"\n", b"a,b\n1,2\n", b"sha256\n", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_file_that_is_no_spreadsheet_of_a_review_is_an_error(content: bytes) -> None:
    """It has the expected columns and the command that writes such a file."""
    with pytest.raises(UsageError, match="expected the columns sha256 and label, found"):
        read(content)


def test_a_row_without_a_hash_is_an_error() -> None:
    """The cell was deleted."""
    with pytest.raises(UsageError, match="row 2: no such image"):
        read(b"label,sha256\n7\n", lambda sha256: None if sha256 in HASHES else "no such image")


def test_a_quote_that_is_never_closed_is_an_error() -> None:
    """It would hide all rows after it."""
    content = b'sha256,label\n"' + b"x" * 200_000
    with pytest.raises(UsageError, match="expected a CSV file: "):
        read(content)

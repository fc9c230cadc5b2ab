"""The table in its three formats: the same values, read back by what people read them with."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.errors import UsageError
from digits.images.folder import escape_path, unescape_path
from digits.outputs.table import FIXED_COLUMNS, FORMATS, Row, columns_of, format_of, read_table

COLUMNS = columns_of(classes=3, probabilities=False, top_k=1)
ROWS: list[Row] = [
    ("a.png", "7", 0.998877, "ok", None, 28, 28, "ab" * 32, None, 3),
    ('comma, "quote".png', "NA", 1.0, "ok", None, 1, 1, "cd" * 32, 0.25, 3),
    ("007.png", None, None, "denied", "no permission, none", None, None, None, None, 3),
]
CELLS = [
    ["a.png", "7", "0.998877", "ok", "", "28", "28", "ab" * 32, "", "3"],
    ['comma, "quote".png', "NA", "1.000000", "ok", "", "1", "1", "cd" * 32, "0.250000", "3"],
    ["007.png", "", "", "denied", "no permission, none", "", "", "", "", "3"],
]


def table(name: str, *parts: Sequence[Row]) -> bytes:
    """Write a table of some parts."""
    kind, file = format_of(Path(name)), io.BytesIO()
    kind.join((kind.encode(part, COLUMNS) for part in parts), COLUMNS, file)
    return file.getvalue()


def test_the_columns_are_those_of_the_contract() -> None:
    """In the stated order; the optional ones at the end."""
    names = [column.name for column in columns_of(classes=3, probabilities=True, top_k=3)]
    assert ",".join(names) == (
        "path,prediction,confidence,status,error,width,height,sha256,novelty,model_version,"
        "p0,p1,p2,top2,top2_confidence,top3,top3_confidence"
    )
    assert columns_of(classes=3, probabilities=False, top_k=1) == FIXED_COLUMNS
    assert len(columns_of(classes=2, probabilities=False, top_k=9)) == len(FIXED_COLUMNS) + 2


def test_csv_to_the_byte() -> None:
    """Commas, LF, quotes where needed, six decimals, nothing for what is empty."""
    assert table("x.csv", ROWS[1:]) == (
        b"path,prediction,confidence,status,error,width,height,sha256,novelty,model_version\n"
        b'"comma, ""quote"".png",NA,1.000000,ok,,1,1,' + b"cd" * 32 + b",0.250000,3\n"
        b'007.png,,,denied,"no permission, none",,,,,3\n'
    )


def test_csv_is_read_back() -> None:
    """By Python's reader, and by pandas as the contract says."""
    content = table("x.csv", ROWS[:1], [], ROWS[1:])
    assert list(csv.reader(io.StringIO(content.decode(), newline="")))[1:] == CELLS
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    assert frame.to_numpy().tolist() == CELLS


def test_json_lines_are_read_back() -> None:
    """What is empty is null."""
    names = [column.name for column in COLUMNS]
    lines = table("x.jsonl", ROWS[:1], ROWS[1:]).decode().splitlines()
    assert [json.loads(line) for line in lines] == [dict(zip(names, row, strict=True)) for row in ROWS]


def test_parquet_is_read_back() -> None:
    """With types, and a row group a part."""
    content = table("x.PARQUET", ROWS[:1], ROWS[1:])
    read = pq.read_table(io.BytesIO(content))
    assert [tuple(row.values()) for row in read.to_pylist()] == ROWS
    assert [str(kind) for kind in read.schema.types] == [
        {"text": "string", "number": "double", "integer": "int64"}[column.kind] for column in COLUMNS
    ]
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == 2


@pytest.mark.parametrize("ending", FORMATS)
def test_an_empty_table(ending: str) -> None:
    """No rows, but its columns where the format has them."""
    content = table(f"x{ending}")
    assert content == table(f"x{ending}", [], [])[: len(content)] or ending == ".parquet"
    reader: dict[str, Callable[[io.BytesIO], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if ending in reader:
        assert list(reader[ending](io.BytesIO(content)).columns) == [column.name for column in COLUMNS]


def test_an_unknown_extension() -> None:
    """What would be known is said."""
    with pytest.raises(UsageError, match=r"ends in \.csv, \.parquet, \.jsonl, found '\.xlsx'"):
        format_of(Path("x.xlsx"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.text(max_size=10)), min_size=1, max_size=5))
def test_any_name_and_any_class_comes_back(names: list[tuple[bytes, str]]) -> None:
    """Paths of any bytes, and class names of any characters, through CSV and pandas."""
    rows = [(escape_path(path), name, 0.5, "ok", None, 1, 1, None, None, 1) for path, name in names]
    content = table("x.csv", rows)
    read = list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]
    assert [(unescape_path(row[0]), row[1]) for row in read] == names
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    assert [unescape_path(path) for path in frame["path"]] == [path for path, _ in names]


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_table_is_read_back_by_us(tmp_path: Path, ending: str) -> None:
    """Row by row, the same values in each format."""
    path = tmp_path / f"x{ending}"
    path.write_bytes(table(path.name, ROWS[:1], ROWS[1:]))
    assert [tuple(row.values()) for row in read_table(path)] == ROWS


def test_a_table_that_a_spreadsheet_has_saved_is_read(tmp_path: Path) -> None:
    """With a byte order mark, other line ends, an empty line at the end, and columns of its user's."""
    path = tmp_path / "x.csv"
    lines = table("x.csv", ROWS).decode().splitlines()
    edited = [f"{extra},{line}" for extra, line in zip(["note", "7", "", "x"], lines, strict=True)]
    path.write_bytes("\ufeff{}\r\n\r\n".format("\r\n".join(edited)).encode())
    assert [tuple(row.values()) for row in read_table(path)] == [
        (note, *row) for note, row in zip(["7", None, "x"], ROWS, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"path,label\na,1\n", "it has no column prediction"),
        ("x.csv", table("x.csv") + b'"a', "that is whole, but: unexpected end of data"),
        ("x.csv", table("x.csv") + b"\xff\n", "that is whole, but: 'utf-8' codec"),
        ("x.csv", table("x.csv") + b"a,7,high,ok,,,,,,1\n", "that is whole, but: line 2: could not convert"),
        ("x.csv", table("x.csv") + b"a,7\n", "that is whole, but: line 2: expected 10 values, found 2"),
        ("x.jsonl", b"{}\n", "it has no column path"),
        ("x.jsonl", b"{", "that is whole, but: "),
        ("x.jsonl", b"7\n", "that is whole, but: "),
        ("x.parquet", b"PAR1", "that is whole, but: "),
        ("x.txt", b"", "expected a name that ends in"),
        ("x.csv", None, "could not be read (No such file or directory); predict the folder, or name a table"),
    ],
)
def test_what_is_no_table_of_ours_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """With its path and the reason."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(read_table(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)

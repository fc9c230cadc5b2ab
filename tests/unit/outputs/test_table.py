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
from digits.outputs.table import FIXED_COLUMNS, FORMATS, PAGE, Row, TableFile, columns_of, format_of, read_table

COLUMNS = columns_of(classes=3, probabilities=False, top_k=1)
ROWS: list[Row] = [
    ("a.png", "7", 0.998877, "ok", None, 28, 28, "ab" * 32, None, 3, None),
    ('comma, "quote".png', "NA", 1.0, "ok", None, 1, 1, "cd" * 32, 0.25, 3, 12),
    ("007.png", None, None, "denied", "no permission, none", None, None, None, None, 3, None),
]
CELLS = [
    ["a.png", "7", "0.998877", "ok", "", "28", "28", "ab" * 32, "", "3", ""],
    ['comma, "quote".png', "NA", "1.000000", "ok", "", "1", "1", "cd" * 32, "0.250000", "3", "12"],
    ["007.png", "", "", "denied", "no permission, none", "", "", "", "", "3", ""],
]


def table(name: str, *parts: Sequence[Row]) -> bytes:
    """Write a table of some parts."""
    kind, file = format_of(Path(name)), io.BytesIO()
    kind.join((kind.encode(part, COLUMNS) for part in parts), COLUMNS, file)
    return file.getvalue()


def test_the_columns_are_in_the_documented_order() -> None:
    names = [column.name for column in columns_of(classes=3, probabilities=True, top_k=3)]
    assert ",".join(names) == (
        "path,prediction,confidence,status,error,width,height,sha256,novelty,model_version,"
        "p0,p1,p2,top2,top2_confidence,top3,top3_confidence,page"
    )
    assert columns_of(classes=3, probabilities=False, top_k=1) == (*FIXED_COLUMNS, PAGE)
    assert len(columns_of(classes=2, probabilities=False, top_k=9)) == len(FIXED_COLUMNS) + 3


def test_csv_has_exactly_the_documented_bytes() -> None:
    assert table("x.csv", ROWS[1:]) == (
        b"path,prediction,confidence,status,error,width,height,sha256,novelty,model_version,page\n"
        b'"comma, ""quote"".png",NA,1.000000,ok,,1,1,' + b"cd" * 32 + b",0.250000,3,12\n"
        b'007.png,,,denied,"no permission, none",,,,,3,\n'
    )


EXCEL = (
    b"\xef\xbb\xbfpath;prediction;confidence;status;error;width;height;sha256;novelty;model_version;page\n"
    b'"comma, ""quote"".png";NA;1,000000;ok;;1;1;' + b"cd" * 32 + b";0,250000;3;12\n"
    b"007.png;;;denied;no permission, none;;;;;3;\n"
)


def test_csv_for_excel_has_exactly_the_documented_bytes_and_is_read_back(tmp_path: Path) -> None:
    """It counts as unedited; pandas reads it with the documented arguments. A semicolon in a text is quoted."""
    kind, path = format_of(Path("x.CSV"), "excel"), tmp_path / "x.csv"
    with path.open("wb") as file:
        kind.join([kind.encode(ROWS[1:], COLUMNS)], COLUMNS, file)
    assert path.read_bytes() == EXCEL
    assert [tuple(row.values()) for row in read_table(path)] == ROWS[1:]
    found = TableFile.open(path)
    assert found.dialect == "excel"
    found.require_unedited()
    frame = pd.read_csv(path, sep=";", decimal=",", dtype={"prediction": str}, keep_default_na=False, na_values=[""])
    assert frame["confidence"].tolist()[0] == 1.0
    assert kind.encode([("a", *ROWS[2][1:4], "no; none", *ROWS[2][5:])], COLUMNS) == b'a;;;denied;"no; none";;;;;3;\n'


def test_a_table_that_excel_has_saved_is_read(tmp_path: Path) -> None:
    """With semicolons, decimal commas and other line ends, as on a system with decimal commas."""
    path = tmp_path / "x.csv"
    path.write_bytes(EXCEL.replace(b"1,000000", b"1").replace(b"0,250000", b"0,25").replace(b"\n", b"\r\n"))
    assert [tuple(row.values()) for row in read_table(path)] == ROWS[1:]
    with pytest.raises(UsageError, match="predict the folder again"):
        TableFile.open(path).require_unedited()


def test_only_csv_has_dialects() -> None:
    with pytest.raises(UsageError, match=r"found csv_dialect excel, which only a table whose name ends in \.csv"):
        format_of(Path("x.jsonl"), "excel")


def test_csv_is_read_back_by_python_and_by_pandas() -> None:
    content = table("x.csv", ROWS[:1], [], ROWS[1:])
    assert list(csv.reader(io.StringIO(content.decode(), newline="")))[1:] == CELLS
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    assert frame.to_numpy().tolist() == CELLS


def test_json_lines_are_read_back_with_null_for_empty_values() -> None:
    names = [column.name for column in COLUMNS]
    lines = table("x.jsonl", ROWS[:1], ROWS[1:]).decode().splitlines()
    assert [json.loads(line) for line in lines] == [dict(zip(names, row, strict=True)) for row in ROWS]


def test_parquet_is_read_back_with_types_and_one_row_group_per_part() -> None:
    content = table("x.PARQUET", ROWS[:1], ROWS[1:])
    read = pq.read_table(io.BytesIO(content))
    assert [tuple(row.values()) for row in read.to_pylist()] == ROWS
    assert [str(kind) for kind in read.schema.types] == [
        {"text": "string", "number": "double", "integer": "int64"}[column.kind] for column in COLUMNS
    ]
    assert pq.ParquetFile(io.BytesIO(content)).num_row_groups == 2


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_without_rows_keeps_its_columns(ending: str) -> None:
    content = table(f"x{ending}")
    assert content == table(f"x{ending}", [], [])[: len(content)] or ending == ".parquet"
    reader: dict[str, Callable[[io.BytesIO], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if ending in reader:
        assert list(reader[ending](io.BytesIO(content)).columns) == [column.name for column in COLUMNS]


def test_an_unknown_extension_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"ends in \.csv, \.parquet, \.jsonl, found '\.xlsx'"):
        format_of(Path("x.xlsx"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.text(max_size=10)), min_size=1, max_size=5))
def test_any_path_and_any_class_name_is_read_back_unchanged(names: list[tuple[bytes, str]]) -> None:
    rows = [(escape_path(path), name, 0.5, "ok", None, 1, 1, None, None, 1, None) for path, name in names]
    content = table("x.csv", rows)
    read = list(csv.reader(io.StringIO(content.decode(), newline="")))[1:]
    assert [(unescape_path(row[0]), row[1]) for row in read] == names
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    assert [unescape_path(path) for path in frame["path"]] == [path for path, _ in names]


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_read_table_returns_the_same_values_for_each_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(table(path.name, ROWS[:1], ROWS[1:]))
    assert [tuple(row.values()) for row in read_table(str(path))] == ROWS


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_table_of_an_earlier_version_without_pages_is_read(tmp_path: Path, ending: str) -> None:
    """Its rows have no page. It counts as unedited."""
    path = tmp_path / f"x{ending}"
    form, rows = format_of(path), [row[:-1] for row in ROWS]
    with path.open("wb") as file:
        form.join([form.encode(rows, FIXED_COLUMNS)], FIXED_COLUMNS, file)
    assert [row["page"] for row in read_table(path)] == [None] * len(ROWS)
    found = TableFile.open(path)
    found.require_unedited()
    assert found.columns == FIXED_COLUMNS
    assert [tuple(row.values()) for row in found.rows()] == rows


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """It has a byte order mark, other line ends, an empty last line and additional columns."""
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
        ("x.csv", table("x.csv") + b'"a', "expected a complete prediction table, but: unexpected end of data"),
        ("x.csv", table("x.csv") + b"\xff\n", "expected a complete prediction table, but: 'utf-8' codec"),
        (
            "x.csv",
            table("x.csv") + b"a,7,high,ok,,,,,,1,\n",
            "expected a complete prediction table, but: line 2: could not convert",
        ),
        (
            "x.csv",
            table("x.csv") + b"a,7\n",
            "expected a complete prediction table, but: line 2: expected 11 values, found 2",
        ),
        ("x.jsonl", b"{}\n", "it has no column path"),
        ("x.jsonl", b"{", "expected a complete prediction table, but: "),
        ("x.jsonl", b"7\n", "expected a complete prediction table, but: "),
        ("x.parquet", b"PAR1", "expected a complete prediction table, but: "),
        ("x.txt", b"", "expected a name that ends in"),
        ("x.csv", None, "could not be read (No such file or directory); predict the folder, or name a table"),
    ],
)
def test_a_file_that_is_no_prediction_table_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(read_table(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)

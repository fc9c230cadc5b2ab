"""Tables as DataFrames: the types of the columns, for digits.read_table and for the recipe of the documentation."""

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

import digits
from digits.outputs.summary import summary_path
from digits.outputs.table import FORMATS, Row, columns_of, format_of
from digits.store.records import write_record

HERE = Path(__file__).resolve().parents[3]
COLUMNS = columns_of(classes=3, probabilities=False, top_k=2)
ROWS: list[Row] = [
    ("null", "10", 0.998877, "ok", None, 28, 28, "ab" * 32, None, 3, "NA", 0.001, None),
    ('NA/"1".png', "NA", 0.3, "uncertain", None, 1, 1, "cd" * 32, 0.25, 3, "9", 0.2, 12),
    ("007", None, None, "denied", "no permission, none", None, None, None, None, 3, None, None, None),
    ("8.png", "9", 0.5, "ok", None, 28, 28, "01" * 32, -1.5, 4, "10", 0.4, None),
]


def write(path: Path, rows: Sequence[Row] = ROWS) -> Path:
    form, file = format_of(path), io.BytesIO()
    form.join([form.encode(rows, COLUMNS)] if rows else [], COLUMNS, file)
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_each_column_has_the_type_of_its_values(tmp_path: Path, ending: str) -> None:
    """Numbers can be compared, empty cells are missing, and no name is taken for a missing value or a number."""
    frame = digits.read_table(write(tmp_path / f"t{ending}"))
    assert dict(frame.dtypes.astype(str)) == {
        **dict.fromkeys(["path", "error", "sha256"], "string"),
        **dict.fromkeys(["prediction", "status", "top2"], "category"),
        **dict.fromkeys(["confidence", "novelty", "top2_confidence"], "float64"),
        **dict.fromkeys(["width", "height", "model_version", "page"], "Int64"),
    }
    assert list(frame.columns) == [column.name for column in COLUMNS]
    assert frame.path[frame.confidence < 0.9].tolist() == ['NA/"1".png', "8.png"]
    assert frame.prediction.cat.categories.tolist() == ["9", "10", "NA"]
    assert frame.astype(object).where(frame.notna(), None).to_numpy().tolist() == [list(row) for row in ROWS]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_without_rows_has_the_same_types(tmp_path: Path, ending: str) -> None:
    full, empty = (digits.read_table(write(tmp_path / f"{len(rows)}{ending}", rows)) for rows in (ROWS, []))
    assert empty.empty
    assert empty.dtypes.astype(str).tolist() == full.dtypes.astype(str).tolist()


def test_the_frame_has_the_summary_beside_the_table(tmp_path: Path) -> None:
    """Without a summary, or with a damaged one, it has none."""
    path = write(tmp_path / "t.csv")
    assert digits.read_table(path).attrs == {}
    write_record(summary_path(path), {"images": 4})
    frame = digits.read_table(path)
    assert frame.attrs["summary"]["images"] == 4
    assert frame[frame.status == "ok"].attrs["summary"]["images"] == 4
    summary_path(path).write_bytes(b"{}")
    assert digits.read_table(path).attrs == {}


def test_a_table_is_read_as_records(tmp_path: Path) -> None:
    records = digits.read_table(str(write(tmp_path / "t.csv")), as_records=True)
    assert [tuple(record.values()) for record in records] == ROWS


def test_a_value_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl")
    path.write_text(path.read_text().replace("0.998877", '"high"'))
    with pytest.raises(digits.DigitsError, match=r"t\.jsonl: expected a table of `digits predict`, found other values"):
        digits.read_table(path)


def test_the_recipe_without_digits_gives_the_same_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = digits.read_table(write(tmp_path / "predictions.csv"))
    page = (HERE / "docs" / "predictions.md").read_text("utf-8")
    (recipe,) = re.findall(r"^    import pandas\n(?:    .*\n|\n(?=    ))+", page, re.MULTILINE)
    values: dict[str, pd.DataFrame] = {}
    exec(textwrap.dedent(recipe), values)  # noqa: S102 - the code of the documentation
    pd.testing.assert_frame_equal(values["df"], expected, check_categorical=False)
    assert values["df"].prediction.cat.categories.tolist() == ["10", "9", "NA"]

"""Tests of replace_version: the rows of one model version are predicted again, all others stay byte for byte."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from digits.errors import StoreError, UsageError
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary, summary_path
from digits.outputs.table import TableFile
from digits.prediction.config import PredictionConfig
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts, predict_folder
from digits.prediction.worker import run_worker
from digits.store.records import read_record
from tests.support import faults
from tests.support.tiny_model import MakePictures, draw, write_model

ENDINGS = pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
IMAGES = 11
Edit = Callable[[dict[str, Any]], dict[str, Any]]

pytestmark = pytest.mark.usefixtures("in_this_process")


class Job:
    """Folder, its table by version 3, and the models of versions 3 and 4."""

    def __init__(self, root: Path, old: OnnxModel, new: OnnxModel) -> None:
        self.root, self.folder, self.out, self.old, self.new = root, root / "in", root / "out" / "p.csv", old, new

    def arguments(self, model: OnnxModel, **options: Any) -> dict[str, Any]:
        """Return the arguments of a prediction except the folder."""
        config = PredictionConfig(**{"shard_size": 4, **options})
        return {"model": model, "out": self.out, "work": self.root / "work", "options": config}

    def predict(self, model: OnnxModel, **options: Any) -> PredictionSummary:
        """Predict the folder."""
        return predict_folder(self.folder, **self.arguments(model, **options))

    def replace(self, version: int = 3, **options: Any) -> PredictionSummary:
        """Predict the rows of another version again, with version 4."""
        return self.predict(self.new, replace_version=version, **options)

    def mix(self, edit: Edit = lambda row: row) -> bytes:
        """Write a table with every second row by version 4, changed by `edit`; return the table it should become."""
        self.predict(self.new)
        by_new = list(TableFile.open(self.out).rows())
        self.predict(self.old)
        table = TableFile.open(self.out)
        rows = list(table.rows())
        kept = [edit(row) for row in by_new[::2]]
        rows[::2] = by_new[::2] = kept
        self.write(table, by_new)
        expected = self.out.read_bytes()
        self.write(table, rows)
        return expected

    def write(self, table: TableFile, rows: list[dict[str, Any]]) -> None:
        """Write rows as a table, in parts of four."""
        form = table.format
        encoded = [tuple(row.values()) for row in rows]
        with self.out.open("wb") as file:
            parts = [form.encode(encoded[first : first + 4], table.columns) for first in range(0, len(rows), 4)]
            form.join(parts, table.columns, file)


@pytest.fixture
def job(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Job:
    """Ten images with odd names, a file that is no image, and two models that differ."""
    made = Job(tmp_path, model, OnnxModel.load(write_model(tmp_path / "new", seed=1), version=4))
    make_pictures(made.folder, 7)
    make_pictures(made.folder / 'sub, "folder"', 3)
    (made.folder / "0005a.png").write_bytes(b"no picture")
    return made


def versions(out: Path) -> list[int]:
    """Return the model version of each row."""
    return [row["model_version"] for row in TableFile.open(out).rows()]


def corrected(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with a corrected prediction."""
    return {**row, "prediction": "7", "confidence": 0.123456}


@ENDINGS
def test_only_the_rows_of_the_version_are_predicted_again(job: Job, opened: list[bytes], ending: str) -> None:
    """A corrected row of another version is kept; the files of kept rows are not opened."""
    job.out = job.out.with_suffix(ending)
    expected = job.mix(corrected)
    assert versions(job.out) == [4, 3] * 5 + [4]
    opened.clear()
    summary = job.replace()
    assert job.out.read_bytes() == expected
    assert len(opened) == 5
    assert versions(job.out) == [4] * IMAGES
    assert (summary.images, summary.unchanged, summary.model_version) == (IMAGES, 6, 4)
    assert read_record(summary_path(job.out))["unchanged"] == 6


@ENDINGS
def test_a_table_by_one_version_becomes_the_table_of_the_other(job: Job, ending: str) -> None:
    """With the columns of the existing table, whatever the options say."""
    job.out = job.out.with_suffix(ending)
    job.predict(job.new, probabilities=True, top_k=3)
    expected = job.out.read_bytes()
    job.predict(job.old, probabilities=True, top_k=3)
    assert job.out.read_bytes() != expected
    job.replace()
    assert job.out.read_bytes() == expected


def test_a_table_for_excel_stays_one(job: Job) -> None:
    """Whatever the options say."""
    job.predict(job.new, csv_dialect="excel")
    expected = job.out.read_bytes()
    job.predict(job.old, csv_dialect="excel")
    job.replace()
    assert job.out.read_bytes() == expected


def test_a_table_in_another_order_keeps_its_order(job: Job) -> None:
    """Each row still belongs to its image."""
    job.mix()
    table = TableFile.open(job.out)
    rows = list(table.rows())[::-1]
    job.write(table, rows)
    before = {row["path"]: row["sha256"] for row in rows}
    job.replace()
    after = list(TableFile.open(job.out).rows())
    assert [row["path"] for row in after] == [row["path"] for row in rows]
    assert {row["path"]: row["sha256"] for row in after} == before
    assert {row["model_version"] for row in after} == {4}


def test_the_row_of_a_missing_file_gets_the_status_vanished(job: Job) -> None:
    """A link in its place is not followed. A new file has no row."""
    job.predict(job.old)
    (job.folder / "0002.png").unlink()
    (job.folder / "0003.png").unlink()
    (job.folder / "0003.png").symlink_to("0001.png")
    Image.fromarray(draw(99)).save(job.folder / "new.png")
    summary = job.replace()
    rows = {row["path"]: row for row in TableFile.open(job.out).rows()}
    assert summary.images == len(rows) == IMAGES
    assert (rows["0002.png"]["status"], rows["0002.png"]["prediction"]) == ("vanished", None)
    assert rows["0003.png"]["status"] == "vanished"
    assert {row["model_version"] for row in rows.values()} == {4}


def test_rows_of_an_archive_are_replaced_by_member_name(job: Job) -> None:
    """A missing member has the status `vanished`."""
    archive = job.root / "scans.zip"
    names = ["a.png", "b.png", "c.png"]
    for present in (names, names[:2]):
        with zipfile.ZipFile(archive, "w") as file:
            for number, name in enumerate(present):
                file.write(job.folder / f"{number:04}.png", name)
        if present == names:
            predict_folder(archive, **job.arguments(job.old))
    predict_folder(archive, **job.arguments(job.new, replace_version=3))
    rows = list(TableFile.open(job.out).rows())
    assert [(row["path"], row["status"]) for row in rows] == [
        ("a.png", "ok"),
        ("b.png", "ok"),
        ("c.png", "vanished"),
    ]
    assert {row["model_version"] for row in rows} == {4}


# Errors


def test_a_missing_table_is_an_error(job: Job) -> None:
    """The message has its path."""
    with pytest.raises(UsageError, match=r"p\.csv: the table could not be read .*; predict the folder"):
        job.replace()


def test_a_version_that_wrote_no_row_is_an_error_with_the_rows_of_each_version(job: Job) -> None:
    """The table stays."""
    job.mix()
    before = job.out.read_bytes()
    with pytest.raises(UsageError, match=r"version 9 wrote no row .* 5 by version 3, 6 by version 4"):
        job.replace(9)
    assert job.out.read_bytes() == before


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".csv", b"path,", b"name,"),
        (".csv", b"\n", b"\r\n"),
        (".csv", b",ok,", b",fine\0"),
        (".csv", b",ok,", b',"ok"x,'),
        (".csv", b",ok,", b",ok,,"),
        (".jsonl", b'"path"', b'"name"'),
        (".jsonl", b"}", b""),
    ],
)
def test_a_table_that_digits_did_not_write_is_refused(job: Job, ending: str, old: bytes, new: bytes) -> None:
    """Other columns, other line ends, an invalid cell, half a line. Nothing is written."""
    job.out = job.out.with_suffix(ending)
    job.predict(job.old)
    edited = job.out.read_bytes().replace(old, new)
    job.out.write_bytes(edited)
    with pytest.raises(UsageError, match=rf"p\{ending}: (expected|the table was edited)"):
        job.replace()
    assert job.out.read_bytes() == edited


def test_a_table_that_a_spreadsheet_has_saved_is_refused(job: Job) -> None:
    """With quotes around all cells, it could not be kept byte for byte."""
    job.predict(job.old)
    pd.read_csv(job.out, dtype=str, keep_default_na=False).to_csv(job.out, index=False, quoting=1)
    with pytest.raises(UsageError, match="the table was edited after it was written"):
        job.replace()


def test_an_empty_parquet_file_is_refused(job: Job) -> None:
    """As is any other that pyarrow cannot read."""
    job.out = job.out.with_suffix(".parquet")
    job.out.parent.mkdir()
    job.out.write_bytes(b"")
    with pytest.raises(UsageError, match="expected a complete prediction table"):
        job.replace()


def test_another_folder_is_refused(job: Job, make_pictures: MakePictures) -> None:
    """If none of the files exists, the rows must not all become `vanished`."""
    job.predict(job.old)
    before = job.out.read_bytes()
    job.folder = make_pictures(job.root / "other", 0)
    with pytest.raises(UsageError, match=r"none of the 11 files that version 3 predicted is in .*other"):
        job.replace()
    assert job.out.read_bytes() == before


def test_another_number_of_classes_is_refused(job: Job) -> None:
    """The columns would differ."""
    job.predict(job.old, probabilities=True)
    job.new = OnnxModel.load(write_model(job.root / "four", classes=4), version=5)
    with pytest.raises(UsageError, match="columns of the table do not fit the 4 classes of version 5"):
        job.replace()


@pytest.mark.parametrize("option", [{"incremental": True}, {"files_from": Path("list")}])
def test_other_options_that_select_files_are_refused(job: Job, option: dict[str, Any]) -> None:
    """The table determines the files."""
    job.predict(job.old)
    with pytest.raises(UsageError, match="replace_version: the table determines which files are predicted"):
        job.replace(**option)


def test_a_table_that_another_program_changes_during_the_run_is_not_replaced(job: Job) -> None:
    """Its change would be lost."""
    job.mix()
    plan = plan_predictions(job.folder, **job.arguments(job.new, replace_version=3))
    run_worker(plan)
    job.out.write_bytes(b"mine")
    with pytest.raises(StoreError, match="another program changed the table during the run, so it was not replaced"):
        merge_parts(plan)
    assert job.out.read_bytes() == b"mine"


def test_after_a_kill_at_any_file_operation_the_table_is_the_former_or_the_new_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run completes it."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    expected = job.mix()
    former = job.out.read_bytes()
    died = 0
    for at in range(1, 200, 4):
        with faults.fault(job.root, at, faults.die):
            status = faults.wait(faults.in_child(job.replace))
        found = job.out.read_bytes()
        assert found in (former, expected)
        if status == 0:
            break
        died += 1
        if found == former:
            job.replace()
        assert job.out.read_bytes() == expected
        job.out.write_bytes(former)
    assert died > 5
    assert status == 0


# Reading a table


@ENDINGS
def test_a_table_is_read_with_the_values_and_types_that_were_written(job: Job, ending: str) -> None:
    """In each format."""
    job.predict(job.old, top_k=2)
    rows = list(TableFile.open(job.out).rows())
    job.out = job.out.with_suffix(ending)
    job.predict(job.old, top_k=2)
    table = TableFile.open(job.out)
    assert list(table.rows()) == rows
    assert (table.probabilities, table.top_k) == (False, 2)
    assert [type(rows[0][name]) for name in ("path", "confidence", "width", "error")] == [str, float, int, type(None)]


@ENDINGS
def test_a_table_without_rows_has_nothing_to_replace(job: Job, ending: str) -> None:
    """In each format."""
    job.out = job.out.with_suffix(ending)
    job.folder = job.root / "empty"
    job.folder.mkdir()
    job.predict(job.old)
    assert list(TableFile.open(job.out).rows()) == []
    with pytest.raises(UsageError, match="found no rows"):
        job.replace()


def test_a_line_with_other_columns_is_an_error_with_its_number(job: Job) -> None:
    """In a JSON Lines table."""
    job.out = job.out.with_suffix(".jsonl")
    job.predict(job.old)
    with job.out.open("ab") as file:
        file.write(json.dumps({"path": "x"}).encode() + b"\n")
    with pytest.raises(UsageError, match="line 12 has other columns"):
        list(TableFile.open(job.out).rows())

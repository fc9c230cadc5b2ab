"""Latest tables, read from their summaries."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from digits.outputs.summary import summary_path
from digits.prediction.service import default_table
from digits.server.attention import Table
from digits.server.tables import TABLES_SHOWN, latest_tables, read_table, table_of_run
from digits.store.artifacts import Store
from digits.store.records import write_record
from tests.support import predicted_table
from tests.support.tiny_model import MakePictures


def write_summary(table: Path, written: float = 1000, **fields: Any) -> Path:
    """Write the summary of a table without images; return the path of the table."""
    record = {"out": str(table), "images": 0, "statuses": {}, "model_version": 1, "drift": None, **fields}
    table.parent.mkdir(parents=True, exist_ok=True)
    write_record(summary_path(table), record)
    os.utime(summary_path(table), (written, written))
    return table


def test_a_table_is_read_from_the_summary_that_a_prediction_writes(tmp_path: Path, make_pictures: MakePictures) -> None:
    made = predicted_table.predict(tmp_path, make_pictures)
    found = read_table(made.path, "predict/inbox")
    assert found is not None
    assert (found.path, found.deployment, found.model_version) == (str(made.path), "predict/inbox", 1)
    assert found.images == sum(found.statuses.values()) == predicted_table.IMAGES
    assert found.failed == {}


@pytest.mark.parametrize("drifted", [["ink"], []])
def test_drift_is_in_the_summary(tmp_path: Path, drifted: list[str]) -> None:
    """A difference from the test images is not among the features that drifted."""
    shifts = [
        {"feature": "ink", "psi": 0.3, "p": 0.0, "drifted": True},
        {"feature": "size", "psi": 0.01, "p": 1.0, "drifted": False},
    ]
    trend = [{"drifted": ["slant"]}, {"drifted": drifted}]
    found = read_table(write_summary(tmp_path / "t.csv", drift={"images": 9, "shifts": shifts}, trend=trend))
    assert found is not None
    assert (found.drift, found.drifted) == ({"ink": 0.3, "size": 0.01}, drifted)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]"])
def test_a_table_without_a_readable_summary_is_unknown(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        summary_path(tmp_path / "t.csv").write_bytes(content)
    assert read_table(tmp_path / "t.csv") is None


def test_the_table_of_a_run_follows_from_its_parameters(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path / "other")
    assert table_of_run({}, tmp_path) == default_table(store, store.inbox)
    assert table_of_run({"folder": "/scans", "out": None}, tmp_path) == default_table(store, Path("/scans"))
    assert table_of_run({"folder": "/scans", "out": "/t.csv"}, tmp_path) == Path("/t.csv")
    given = {"folder": "/scans", "artifacts": str(other.root)}
    assert table_of_run(given, tmp_path) == default_table(other, Path("/scans"))


def test_the_latest_tables_are_those_of_the_root_and_of_the_deployments(tmp_path: Path) -> None:
    root = Store(tmp_path)
    for number in range(TABLES_SHOWN + 5):
        write_summary(root.predictions / f"scans-{number:02}" / "predictions.csv", written=1000 + number)
    newest = write_summary(root.predictions / "inbox" / "predictions.parquet", written=2000)
    moved = write_summary(root.predictions / "scans-00" / "other.csv", written=3000, out="/elsewhere/t.csv")
    summary_path(moved.with_name("damaged.csv")).write_bytes(b"damaged")
    inbox = read_table(newest, "predict/inbox")
    assert inbox is not None
    elsewhere = replace(inbox, path="/elsewhere.csv", written=datetime.fromtimestamp(2500, UTC))
    found = latest_tables(tmp_path, [inbox, elsewhere])
    assert len(found) == TABLES_SHOWN
    assert found[:2] == [elsewhere, inbox]
    assert [Path(one.path).parent.name for one in found[2:4]] == ["scans-24", "scans-23"]
    assert latest_tables(tmp_path / "nothing", []) == []


def test_statuses_without_images_are_no_failures() -> None:
    table = Table("t", "", 3, {"ok": 2, "timeout": 1, "crashed": 0, "uncertain": 0}, datetime.now(UTC), 1)
    assert table.failed == {"timeout": 1}

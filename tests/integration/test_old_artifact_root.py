"""Tests of compatibility: the present code reads, uses and verifies an artifact root that commit f628865 wrote."""

import csv
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from digits.data.labels import LabelLog
from digits.outputs.summary import PredictionSummary, summary_path
from digits.outputs.table import TableFile
from digits.pipeline.search import Trial, TrialState, best_of
from digits.prediction.incremental import find_ledger, ledger_directory, read_ledger
from digits.store.artifacts import Store
from digits.store.files import hash_file
from digits.store.records import read_record
from digits.store.registry import Registry
from digits.training import backend, networks
from tests.support import data
from tests.support.command import DIGITS
from tests.support.server import untracked

NUMBERS = {"confidence": 2e-6, "novelty": 2e-3}
"""Columns of measurements, and by how much another processor may round them differently."""

SPECKLED = "13.png"
"""Image with specks beside its digit, which is dark on light. Later normalizations read it differently."""
LABELS = ["9", "0", "3", "0", "0", "3", "9", "2"]
"""Labels of the first eight images; the seventh was 8 before it was corrected."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a folder with the artifact root, `artifacts`, and the images of its table, `scans`."""
    return data.unpack("artifacts-f628865", tmp_path / "old")


@pytest.fixture
def store(old: Path) -> Store:
    """Return the artifact root."""
    return Store(old / "artifacts")


def digits(old: Path, *arguments: object) -> Any:
    """Run a command on the artifact root and return what it prints as JSON."""
    command = [DIGITS, *map(str, arguments), "--artifacts", str(old / "artifacts"), "--json"]
    done = subprocess.run(command, env=untracked(old / "home"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def table_of(old: Path) -> Path:
    """Return the table below the artifact root."""
    (path,) = (old / "artifacts").glob("predictions/*/predictions.csv")
    return path


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV table."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def require_same_rows(found: Sequence[dict[str, str]], expected: Sequence[dict[str, str]]) -> None:
    """Compare rows: text is equal, measurements up to rounding, except those of `SPECKLED`.

    The old table has no pages, and no column for them.
    """
    assert [text_of(row) for row in found] == [{**text_of(row), "page": ""} for row in expected]
    for name, tolerance in NUMBERS.items():
        values = [[float(row[name] or "nan") for row in rows if row["path"] != SPECKLED] for rows in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=tolerance, nan_ok=True)


def text_of(row: dict[str, str]) -> dict[str, str]:
    """Return a row without its measurements and without the sentence of `error`, which is for people."""
    return {name: cell for name, cell in row.items() if name not in {*NUMBERS, "error"}}


def test_verify_checks_every_kind_and_finds_no_damage(old: Path) -> None:
    found = digits(old, "verify")
    assert found["damaged"] == []
    kinds = {"registry": 9, "onnx": 2, "report": 2, "model": 4, "ledger": 2, "summary": 1, "study": 3}
    labels = {"labels": 1, "labelled image": 10}
    assert {name: found["checked"][name] for name in (*kinds, *labels)} == kinds | labels


def test_the_registry_is_read(old: Path, store: Store) -> None:
    """It has two versions, their decisions, and a promotion that was rolled back and repeated."""
    registry = Registry(store)
    assert [version.number for version in registry.versions()] == [1, 2]
    assert [(entry.action, entry.version) for entry in registry.promotions()] == [
        ("promote", 1),
        ("promote", 2),
        ("rollback", 1),
        ("promote", 2),
    ]
    assert registry.promotions()[2].reasons[-1] == "version 2 was promoted by mistake"
    assert [(made.version, made.decision.promote) for made in registry.decisions()] == [(1, True), (2, False)]
    assert [(row["version"], row["champion"], row["accuracy"]) for row in digits(old, "models")] == [
        (1, "", "45.00%"),
        (2, "champion", "40.00%"),
    ]


def test_a_version_is_shown_with_its_measures_artifacts_and_decisions(old: Path, store: Store) -> None:
    shown = digits(old, "models", "show", "champion")
    assert (shown["champion"], shown["architecture"], shown["accuracy"]) == (True, "mlp", 0.4)
    assert shown["weights_sha256"] == Registry(store).version(2).weights_sha256
    assert all(Path(shown[kind]).is_dir() for kind in ("model", "onnx", "arrays", "evaluation", "report"))
    assert "not promoted" in shown["decisions"][0]
    assert len(shown["promotions"]) == 2


def test_keras_loads_the_fitted_network_with_the_registered_weights(store: Store) -> None:
    backend.load_keras()
    version = Registry(store).resolve("champion")
    network = networks.load(store.open(version.artifact("model")).file("model.keras"))
    assert networks.weights_digest(network) == version.weights_sha256


def test_the_champion_predicts_the_same_rows(old: Path) -> None:
    summary = digits(old, "predict", old / "scans", "--out", old / "again.csv")
    assert (summary["images"], summary["model_version"]) == (26, 2)
    require_same_rows(rows_of(old / "again.csv"), rows_of(table_of(old)))


def test_the_table_and_its_summary_are_read(old: Path) -> None:
    table = TableFile.open(table_of(old))
    table.require_unedited()
    rows = list(table.rows())
    summary = PredictionSummary.from_record(
        {name: value for name, value in read_record(summary_path(table.path)).items() if name != "plan"}
    )
    assert summary.images == len(rows) == 26
    assert sum(summary.statuses.values()) == 26
    assert summary.unchanged == 25


def test_a_review_of_the_table_keeps_the_old_labels(old: Path, store: Store) -> None:
    sheet, review = old / "sheet.csv", ("review", table_of(old), "--images", old / "scans")
    before = digits(old, *review, "--export", sheet)
    rows = [{**row, "label": row["label"] or ("0" if row["path"] == "24.png" else "")} for row in rows_of(sheet)]
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    after = digits(old, *review, "--import", sheet)
    assert (before["done"]["sample"], after["done"]["sample"]) == (8, 9)
    assert len(LabelLog(store.root / "labels").answers()) == 12


def test_the_labels_are_read(old: Path, store: Store) -> None:
    """An image that was labelled twice has the last label."""
    log = LabelLog(store.root / "labels")
    found = log.snapshot()
    names = {row["sha256"]: row["path"] for row in rows_of(table_of(old))}
    by_name = {names[sha256]: label for sha256, label in found.labels.items()}
    assert by_name == {f"{number:02}.png": label for number, label in enumerate(LABELS)} | {"22.png": "6"}
    assert (found.not_digits, found.skipped, found.changed) == (1, 1, 1)
    assert all(log.read_image(sha256) for sha256 in found.labels)


def test_after_a_rollback_version_1_predicts(old: Path) -> None:
    assert digits(old, "rollback", "--reason", "worse")["version"] == 1
    digits(old, "predict", old / "scans", "--out", old / "former.csv")
    assert {row["model_version"] for row in rows_of(old / "former.csv")} == {"1"}


def test_the_study_and_its_trials_are_read(store: Store) -> None:
    """Each trial has a model in the store."""
    (study,) = (store.root / "studies").iterdir()
    records = [read_record(path) for path in sorted(study.glob("trial-*.json"))]
    trials = [Trial(**{**record, "state": TrialState(record["state"])}) for record in records]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    best = best_of(trials)
    assert best
    assert best.number == 0
    assert read_record(study / "study.json")["space"].keys() == {"training.learning_rate"}
    assert all((store.root / "model" / str(trial.model)).is_dir() for trial in trials)


def test_the_moved_ledger_fits_its_table(old: Path, store: Store) -> None:
    table = table_of(old)
    ledger = find_ledger(moved_ledger(old, store), table)
    assert ledger is not None
    assert ledger.recipe == ledger_record(store)["recipe"]
    assert [row["path"] for line in ledger.lines() for row in line.rows] == [row["path"] for row in rows_of(table)]
    assert ledger.plan == read_record(summary_path(table))["plan"]


def test_an_incremental_run_rewrites_the_table_with_the_same_rows(old: Path, store: Store) -> None:
    """Another version of the code may predict everything again."""
    moved_ledger(old, store)
    table, rows = table_of(old), rows_of(table_of(old))
    summary = digits(old, "predict", old / "scans", "--out", table, "--incremental")
    assert (summary["images"], summary["unchanged"]) in ((26, 0), (26, 26))
    require_same_rows(rows_of(table), rows)
    assert digits(old, "predict", old / "scans", "--out", table, "--incremental")["unchanged"] == 26
    assert digits(old, "verify")["damaged"] == []


def test_a_table_is_known_by_its_summary_or_its_ledger(old: Path, store: Store) -> None:
    """Also at another path. A table that was edited is known by neither, and kept."""
    table = table_of(old)
    content = table.read_bytes()
    assert digits(old, "predict", old / "scans", "--out", table, "--top-k", "2")["images"] == 26
    assert "files" in read_record(summary_path(table))
    shutil.rmtree(store.root)
    again = data.unpack("artifacts-f628865", old / "again")
    table = table_of(again)
    moved_ledger(again, Store(again / "artifacts"))
    summary_path(table).unlink()
    assert digits(again, "predict", again / "scans", "--out", table, "--incremental")["images"] == 26
    shutil.rmtree(again)
    again = data.unpack("artifacts-f628865", old / "again")
    edited = content.replace(b",ok,", b",OK,", 1)
    table_of(again).write_bytes(edited)
    command = [DIGITS, "predict", again / "scans", "--out", table_of(again), "--artifacts", again / "artifacts"]
    done = subprocess.run(command, env=untracked(again / "home"), capture_output=True, text=True, check=False)
    assert (done.returncode, table_of(again).read_bytes()) == (2, edited)
    assert "predictions.csv does not match predictions.summary.json" in done.stderr


def ledger_record(store: Store) -> dict[str, Any]:
    """Return the commit record of the one ledger."""
    (commit,) = store.root.glob("work/predictions/ledgers/*/*.json")
    return read_ledger(commit)[0]


def moved_ledger(old: Path, store: Store) -> Path:
    """Move the ledger to where the table's and the images' present places have theirs; return that directory.

    A ledger's directory is named by these two absolute paths, which were others when it was written.
    """
    work = store.root / "work" / "predictions"
    (written,) = (work / "ledgers").iterdir()
    place = ledger_directory(work, old / "scans", table_of(old))
    shutil.move(written, place)
    assert (place / f"{hash_file(table_of(old))}.rows").is_file()
    return place
